"""Random batches of the data of a risk, one for each step of a run."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, ScalarLike, UInt

from mfjax._numerics.arrays import as_floats, as_part, count, kind, scalar, shown
from mfjax.energies.base import Energy
from mfjax.energies.data import Data


class Sampling(eqx.Module):
    """What a step of a run sees of the data. A new one is a subclass with `draw`."""

    # Whether masses that are drawn may be negative; whether what is drawn are rows of the data, unchanged.
    signed: ClassVar[bool] = False
    selects: ClassVar[bool] = False

    @abstractmethod
    def draw(self, data: Data, key: Key[Array, ""], step: Int[Array, ""] | int) -> Data:
        """The data of one step: `key` is the same all along a run, `step` counts.

        Of a fixed size, and with masses such that sums over them are those over `data` in the mean.
        """

    def validate(self, data: Data) -> None:
        """**Raises** `ValueError` for data that this sampling does not take."""


class Batches(Sampling):
    """Mini-batches: each step of a run sees some of the data.

    The rows j_1, ..., j_B of a step have the masses N p_j / B, so that the gradient of a `Risk` is that of
    all data in the mean. Without replacement the data are gone through in a new random order each time
    (epochs; where B does not divide N a batch takes from two of them), so that each datum counts alike; with
    replacement rows are independent. They follow from the key of the run and the number of the step alone:
    a run that goes on, and cells of all widths, see the same; `Simulation.seen(step)` shows them.

    - `size` B: rows of a batch, at most N. **Good values**: 1 to N / 4.
    - `replace`: whether rows are drawn independently.

    **Raises** `ValueError` for sizes that are no whole number >= 1, and with a risk of fewer data.

    >>> import mfjax as mf
    >>> data = Data(jnp.arange(6.0)[:, None], jnp.zeros(6))
    >>> rows = [Batches(3).draw(data, jr.key(0), step).x[:, 0] for step in (0, 1)]
    >>> sorted(map(float, jnp.concatenate(rows)))
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """

    selects: ClassVar[bool] = True
    size: int = eqx.field(static=True)
    replace: bool = eqx.field(static=True)

    def __init__(self, size: int, *, replace: bool = False):
        self.size, self.replace = count(size, "size"), bool(replace)

    def validate(self, data: Data) -> None:
        if self.size > len(data.x):
            raise ValueError(f"a batch has at most the N = {len(data.x)} rows of the data, got {self.size}")

    def rows(self, n: int, key: Key[Array, ""], step: Int[Array, ""] | int) -> Int[Array, " B"]:
        """The indices of the rows of one step, of N = `n`."""
        if self.replace:
            return jr.randint(jr.fold_in(key, step), (self.size,), 0, n)
        # step * size + i in terms of N: the product may exceed 32 bits.
        passes, rest = jnp.divmod(jnp.asarray(step, jnp.int32), n)
        begun, first = divided_product(rest, self.size, n)
        place = first + jnp.arange(self.size, dtype=jnp.int32)
        epoch, place = passes * self.size + begun + place // n, place % n
        # A batch lies in one epoch, or in two.
        first = epoch[0]
        secrets = [jr.bits(jr.fold_in(key, first + k), (ROUNDS, 1), jnp.uint32) for k in (0, 1)]
        return shuffled(place, n, jnp.where(epoch == first, *secrets))

    def draw(self, data, key, step):
        rows, n = self.rows(len(data.x), key, step), len(data.x)
        drawn = data.x[rows], data.y[rows], data.weights[rows] * (n / self.size)
        return eqx.tree_at(lambda d: (d.x, d.y, d.weights), data, drawn)


class GaussianBatches(Sampling):
    """The Gaussian noise of the mean and covariance that the gradients of mini-batches have.

    Each step sees all N data, with the masses q_j = p_j (1 + sqrt(N / B) (xi_j - mean xi)), xi standard
    normal: the gradient of a `Risk`, linear in the masses, is then normal with the mean of all data and the
    covariance Cov_j(N p_j g_j) / B of `Batches(B, replace=True)`, g_j the gradient of datum j. No covariance
    is formed. With `Euler(eps)` it is an Euler-Maruyama step of dz = -grad dt + sqrt(eps / B) Cov^(1/2) dW.
    Masses may be negative: a `ReducedRisk`, whose outer problem is then not convex, does not take them.

    - `size` B > 0, the rows of the batches that it stands for, a number that may be swept.

    **Raises** `ValueError` for B <= 0.

    Source: V. De Bortoli, A. Durmus, X. Fontaine, U. Simsekli (NeurIPS 2020), arXiv 2007.06352.

    >>> data = Data(jnp.arange(6.0)[:, None], jnp.zeros(6))
    >>> drawn = GaussianBatches(3).draw(data, jr.key(0), 0)
    >>> drawn.x.shape, round(float(drawn.weights.sum()), 6)
    ((6, 1), 1.0)
    """

    signed: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    size: Float[Array, ""]

    def __init__(self, size: ScalarLike):
        self.size = scalar(size, "size", above=0)

    def draw(self, data, key, step):
        n, dtype = len(data.x), data.weights.dtype
        noise = jr.normal(jr.fold_in(key, step), (n,), dtype)
        spread = jnp.sqrt(n / self.size.astype(dtype))
        masses = data.weights * (1 + spread * (noise - jnp.mean(noise)))
        return eqx.tree_at(lambda d: d.weights, data, masses)


def divided_product(a: Int[Array, ""], b: int, n: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """divmod(a b, n) for 0 <= a < n and b <= n < 2^29, in 32 bits, which the product may exceed.

    >>> quotient, rest = divided_product(jnp.asarray(999_999), 4096, 1_000_000)
    >>> int(quotient), int(rest)
    (4095, 995904)
    """
    if n * b < 2**31:
        return jnp.divmod(a * b, n)
    # By the bits of b: (quotient, rest) of a times the bits so far.
    quotient = rest = jnp.zeros_like(a)
    for bit in f"{b:b}":
        rest = 2 * rest + (a if bit == "1" else 0)
        quotient, rest = 2 * quotient + rest // n, rest % n
    return quotient, rest


# Of the network that mixes the order of an epoch: with 8, orders of five to eight data are not uniform.
ROUNDS = 24


def shuffled(place: Int[Array, " B"], n: int, secrets: UInt[Array, "R #B"]) -> Int[Array, " B"]:
    """What is at some places of a random order of 0, ..., n - 1, without making the rest of it.

    A Feistel network permutes the numbers of as many bits as n - 1 has: each round changes one half of the
    bits by a hash of the other half. Numbers from n on are sent on until they fall below (J. Black,
    P. Rogaway, CT-RSA 2002). `secrets` choose the order, one for each round.

    >>> sorted(map(int, shuffled(jnp.arange(6), 6, jnp.arange(8, dtype=jnp.uint32)[:, None])))
    [0, 1, 2, 3, 4, 5]
    """
    bits = max(2, (n - 1).bit_length())
    low = bits // 2
    masks = jnp.uint32((1 << low) - 1), jnp.uint32((1 << (bits - low)) - 1)

    def permuted(number):
        halves = [number & masks[0], number >> jnp.uint32(low)]
        for k in range(len(secrets)):
            side, other = k % 2, 1 - k % 2
            halves[side] = halves[side] ^ (mixed(halves[other] ^ secrets[k]) & masks[side])
        return halves[0] | (halves[1] << jnp.uint32(low))

    outside = lambda number: number >= jnp.uint32(n)
    walk = lambda number: jnp.where(outside(number), permuted(number), number)
    start = permuted(place.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(outside(x)), walk, start).astype(jnp.int32)


def mixed(x: UInt[Array, " B"]) -> UInt[Array, " B"]:
    """A hash of 32 bits (the finalizer of MurmurHash3, A. Appleby)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(16))


class Stream(Sampling):
    """One-pass learning: each step of a run sees fresh data from a law, and none twice.

    - `sample`: from a key to inputs (B, k) and targets (B,) or (B, c), of masses 1/B. It is traced.

    The data of the risk are those on which it is recorded; the steps do not see them.

    **Raises** `ValueError` for a `sample` that is no function, or whose data are not like those of the risk.

    >>> import mfjax as mf
    >>> law = lambda key: (jr.normal(key, (4, 2)), jnp.ones(4))
    >>> Stream(law).draw(Data(jnp.ones((9, 2)), jnp.ones(9)), jr.key(0), 0).x.shape
    (4, 2)
    """

    sample: Callable

    def __init__(self, sample: Callable):
        if not callable(sample):
            raise ValueError(f"sample must be a function of a key, got {shown(sample)}")
        self.sample = as_part(sample)

    def validate(self, data: Data) -> None:
        try:
            found = jax.eval_shape(self.sample, jr.key(0))
            x, y = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in found)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"sample must return inputs (B, k) and targets for a key: {str(error).splitlines()[0]}"
            ) from error
        inputs, targets = data.x.shape[1:], data.y.shape[1:]
        if len(x.shape) != 2 or x.shape[1:] != inputs or y.shape != (*x.shape[:1], *targets):
            columns = f"(B, {targets[0]})" if targets else "(B,)"
            raise ValueError(
                f"sample must return inputs (B, {inputs[0]}) and targets {columns}, as the data of the risk "
                f"are, got {x.shape} and {y.shape}"
            )

    def draw(self, data, key, step):
        x, y = self.sample(jr.fold_in(key, step))
        x, y = as_floats(x, "x").astype(data.x.dtype), as_floats(y, "y").astype(data.x.dtype)
        weights = jnp.full((len(x),), 1 / len(x), data.x.dtype)
        return eqx.tree_at(lambda d: (d.x, d.y, d.weights), data, (x, y, weights))


class DataEnergy(Energy):
    """An energy of data, all of which it sees, or at each step of a run those that `batches` draw.

    With batches nothing is carried from one solve to the next, whose data are others.
    """

    data: eqx.AbstractVar[Data]
    batches: eqx.AbstractVar[Sampling | None]

    @property
    def random(self):
        return self.batches is not None

    def draw(self, key, step):
        if self.batches is None:
            return self
        return eqx.tree_at(lambda e: e.data, self, self.batches.draw(self.data, key, step))


def checked_sampling(batches: Any, data: Data, *, signed: bool = False) -> Sampling | None:
    """`batches`, `None` for all data at every step; `signed` where masses may be negative.

    **Raises** `ValueError` for what is no `Sampling`, or does not go with the data, or their masses.
    """
    if batches is None:
        return None
    if not isinstance(batches, Sampling):
        raise ValueError(f"batches must be energies.Batches(size) or another Sampling, got {kind(batches)}")
    if batches.signed and not signed:
        raise ValueError(
            f"{type(batches).__name__} gives some data a negative mass, and outer weights that are optimal "
            "for them do not exist: take energies.Batches(size, replace=True), or a Risk"
        )
    batches.validate(data)
    return batches
