"""The risk of a mean-field network whose particles carry all their parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key, ScalarLike

from mfjax._numerics.arrays import Prepared, along, inner, kind, known, over_outputs, pairing, scalar
from mfjax._numerics.operators import Dense, Operator
from mfjax._numerics.sums.rows import over_rows
from mfjax.energies.base import Solution
from mfjax.energies.batches import DataEnergy, Sampling, checked_sampling
from mfjax.energies.data import Data
from mfjax.energies.dual import Dual
from mfjax.energies.field import Field
from mfjax.energies.predictor import Predictor
from mfjax.energies.second_layer import SecondLayer
from mfjax.features import FeatureMap, Interpolated, check_features, require_features
from mfjax.losses import Loss, Square, as_loss
from mfjax.measures import Grid, Measure


class Risk(DataEnergy):
    """The regularized risk of a mean-field network, all of whose weights move.

    F(mu) = sum_j p_j l(int Phi(xi, x_j) dmu, y_j) + lam/2 int |xi|^2 dmu.

    A particle xi holds all parameters of a neuron; `features.Weighted(phi)` makes Phi((w, omega), x)
    = w phi(omega, x). First variation sum_j p_j l'(F(x_j), y_j) . Phi(xi, x_j) + lam |xi|^2 / 2 (survey
    (2.9), 3.1, which lacks the 1/N on the regularizer). Other regularizers: add a `Potential`.

    The network has as many outputs c as Phi: `features.Weighted(phi, outputs=c)`, with w in R^c, or any map
    that returns a vector (c,); l' is then the gradient in R^c (thesis I.8).

    - `x` (N, k); `y` (N,), (N, c) for c outputs, or labels (N,) for `losses.Softmax`; masses `data_weights`
      (N,), 1/N unless given; `lam` >= 0, default 0.
    - `loss`: l of prediction and target, one of `mf.losses` or a function of two numbers (or vectors),
      convex in the first; `Square()`, |f - y|^2 / 2, unless given.
    - `layer`: `energies.SecondLayer`, which makes F of what the particles, then the first of two hidden
      layers, hand over. The risk is then not convex in mu.
    - `batches`: what a step of a run sees of the data, `Batches(32)` for stochastic gradient descent, or
      `Stream(sample)` for fresh data; all of them unless given.
    - `independent`: whether each particle draws batches of its own, in place of one for all. Particle i moves
      by sum_j q_ij l'(F(x_j), y_j) . Phi(xi_i, x_j), F the network of all particles, q_i the masses that
      follow from (key, step, i). The noise of a batch for all stays as the network grows, where steps are
      not small; independent noise averages out, and its limit is of McKean-Vlasov type. On particles.

    **Raises** `ValueError` for data that are empty, not finite or of mismatched shapes, lam < 0, labels that
    the loss does not take, targets of another width than the network and a `layer` of another width than
    Phi, which are known with a measure, and independent batches where there are none, or on a `Grid`.

    >>> import mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[1.0], [3.0]]))
    >>> linear = mf.features.Function(lambda xi, x: xi[0] * x[0])
    >>> losses = mf.losses.Square(), mf.losses.Huber(1.0)
    >>> [float(Risk(linear, [[1.0]], [0.0], loss=loss)(mu)) for loss in losses]
    [2.0, 1.5]
    """

    features: FeatureMap
    data: Data
    lam: Float[Array, ""]
    loss: Loss
    layer: SecondLayer | None
    batches: Sampling | None
    independent: bool = eqx.field(static=True)

    def __init__(
        self,
        features: FeatureMap,
        x,
        y,
        lam: ScalarLike = 0.0,
        loss: Loss | Callable | None = None,
        *,
        layer: SecondLayer | None = None,
        data_weights=None,
        batches: Sampling | None = None,
        independent: bool = False,
    ):
        require_features(features)
        self.features = features
        self.data = Data(x, y, data_weights)
        self.lam = scalar(lam, "lam", minimum=0.0)
        self.loss = as_loss(loss)
        self.loss.validate(self.data.y)
        if not isinstance(layer, SecondLayer | None):
            raise ValueError(f"layer must be an energies.SecondLayer, got {kind(layer)}")
        self.layer = layer
        self.batches, self.independent = checked_sampling(batches, self.data, signed=True), bool(independent)
        if self.independent and self.batches is None:
            raise ValueError("independent=True is about batches: give them by batches=energies.Batches(size)")

    def validate(self, mu, domain=None):
        if self.independent and isinstance(mu, Grid):
            raise ValueError(
                "a density has no particles with batches of their own: take independent=False, one batch for "
                "all, or Particles"
            )
        shape = check_features(self.features, mu.points, self.data.x, domain, several=True)
        if self.layer is not None:
            self.layer.require_before(shape)
            shape = self.layer.weights.shape[1:]
        self.loss.validate(self.data.y, shape)
        if isinstance(self.features, Interpolated) and not (
            isinstance(self.loss, Square) and self.layer is None
        ):
            what = type(self.loss if self.layer is None else self.layer).__name__
            raise ValueError(f"compressed data are those of the squared loss, got {what}: use all data")

    def predictor(self, mu) -> Predictor:
        """The network F at `mu` without the data, a function of new inputs.

        Of heights over points (`flows.SeparatedVariables`) it is that of `flow.lift(mu)`.
        """
        return Predictor(self.features, mu.points, mu.weights, self.layer)

    def predict(self, mu, x: Any) -> Float[Array, "B *c"]:
        """The network F at new inputs `x` (B, k): `predictor(mu)(x)`."""
        return self.predictor(mu)(x)

    def draw(self, key, step):
        return _OwnBatches(self, key, step) if self.independent else super().draw(key, step)

    def init(self, mu):
        return None if self.random else Prepared(self._unweighted().prepare(self.features, mu.points))

    def _unweighted(self) -> Data:
        """The data with masses one: a prediction is asked for where the mass is zero, too."""
        return eqx.tree_at(lambda data: data.weights, self.data, jnp.ones_like(self.data.weights))

    def at_data(self, mu: Measure, carry: Any = None) -> Float[Array, "N *c"]:
        """F at the inputs of the data, or with a `layer` what is handed over to it."""
        prepared = None if carry is None else carry.value
        return self._unweighted().operator(self.features, mu.points, prepared).output(mu.weights)

    def solve(self, mu, carry=None):
        prepared = None if carry is None else carry.value
        unweighted, handed = self._unweighted(), self.at_data(mu, carry)
        y, masses = (part.astype(handed.dtype) for part in (self.data.y, self.data.weights))
        lam = self.lam.astype(handed.dtype)
        squares = jnp.sum(mu.points * mu.points, axis=-1)
        prediction = handed if self.layer is None else self.layer.output(handed)
        value = inner(masses, self.loss.values(prediction, y)) + 0.5 * lam * mu.integrate(squares)
        slopes = self._slopes(handed, y)
        dual = along(masses, slopes) * slopes
        potential = RiskPotential(self.features, unweighted, dual, lam, prepared)
        return Solution(value, potential, carry=carry)

    def _slopes(self, handed: Float[Array, "N *c"], y: Float[Array, "N *y"]) -> Float[Array, "N *c"]:
        """The slopes of the loss by F at data of targets `y`, or with a `layer` by what is handed over."""
        if self.layer is None:
            return self.loss.slopes(handed, y)
        return self.layer.pulled_back(handed, self.loss.slopes(self.layer.output(handed), y))

    def dual(self, mu):
        if self.layer is not None:
            return None
        operator = Dense(self.features.matrix(mu.points, self.data.x.astype(mu.dtype)))
        linear = 0.5 * self.lam.astype(mu.dtype) * jnp.sum(mu.points * mu.points, axis=-1)
        return RiskDual(operator.output(mu.weights), operator, linear, self.data, self.loss)


class RiskPotential(Field):
    """xi -> sum_j dual_j . Phi(xi, x_j) + lam |xi|^2 / 2, dual = p l'(F, y), of `data` of masses one."""

    features: FeatureMap
    data: Data
    dual: Float[Array, "N *c"]
    lam: Float[Array, ""]
    prepared: Any = None

    def __call__(self, point: Float[Array, " d"]) -> Array:
        row = jax.vmap(self.features, in_axes=(None, 0))(point, self.data.x.astype(point.dtype))
        return pairing(row, self.dual) + 0.5 * self.lam * jnp.sum(point * point)

    def at(self, points):
        scores = self.data.operator(self.features, points, self.prepared).scores(self.dual)
        return scores + 0.5 * self.lam * jnp.sum(points * points, axis=-1)


class RiskDual(Dual):
    """The unknowns are the predictions F_j at the data; the slope l'(F_j, y_j) is the dual variable.

    The conjugate sum_j p_j l*(l'(F_j)) is sum_j p_j (l'(F_j) . F_j - l(F_j)). Of c outputs the unknowns are
    N c numbers.
    """

    start: Float[Array, " n"]
    operator: Operator
    linear: Float[Array, " K"]
    data: Data
    loss: Loss
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, prediction: Float[Array, "N *c"], operator: Operator, linear, data: Data, loss: Loss):
        self.start, self.shape = prediction.ravel(), prediction.shape
        self.operator, self.linear, self.data, self.loss = operator, linear, data, loss

    def potential(self, unknowns):
        prediction, y, masses = self._data(unknowns)
        slopes = self.loss.slopes(prediction, y)
        return self.operator.scores(along(masses, slopes) * slopes) + self.linear

    def conjugate(self, unknowns):
        prediction, y, masses = self._data(unknowns)
        slopes, losses = self.loss.slopes(prediction, y), self.loss.values(prediction, y)
        return inner(masses, over_outputs(slopes * prediction) - losses)

    def defect(self, unknowns, weights):
        return unknowns - self.operator.output(weights).ravel()

    def _data(self, unknowns) -> tuple[Array, Array, Array]:
        dtype = unknowns.dtype
        return unknowns.reshape(self.shape), self.data.y.astype(dtype), self.data.weights.astype(dtype)


class _OwnBatches(Risk):
    """The risk that the particles see in one step, each by a batch of its own: forces of no energy."""

    key: Key[Array, ""]
    step: Int[Array, ""] | int

    def __init__(self, risk: Risk, key: Key[Array, ""], step: Int[Array, ""] | int):
        self.features, self.data, self.lam = risk.features, risk.data, risk.lam
        self.loss, self.layer = risk.loss, risk.layer
        self.batches, self.independent = risk.batches, risk.independent
        self.key, self.step = key, step

    def solve(self, mu, carry=None):
        if known(self.batches).selects:
            # The slopes of all data, once: each particle draws rows of them.
            return Solution(None, _OwnPotentials(self, self._sloped(mu, self.data), drawn=False))
        drawn = jax.vmap(lambda i: self.seen(i, self.data))(jnp.arange(mu.size))
        rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), drawn)
        apart = lambda leaf: leaf.reshape(*drawn.weights.shape, *leaf.shape[1:])
        return Solution(None, _OwnPotentials(self, jax.tree.map(apart, self._sloped(mu, rows)), drawn=True))

    def _sloped(self, mu, data: Data) -> Data:
        """`data` with the slopes of the loss in the place of targets."""
        handed = eqx.tree_at(lambda risk: risk.data, self, data).at_data(mu)
        return eqx.tree_at(lambda d: d.y, data, self._slopes(handed, data.y.astype(handed.dtype)))

    def seen(self, i: Int[Array, ""], data: Data) -> Data:
        """What particle i sees of `data`."""
        return known(self.batches).draw(data, jr.fold_in(self.key, i), self.step)

    def first_variation(self, mu, solution=None):
        own = (self.solve(mu) if solution is None else solution).potential
        return over_rows(lambda i: own.of(i, mu.points[i]), jnp.arange(mu.size), own.width)

    def gradient_field(self, mu, solution=None):
        own = (self.solve(mu) if solution is None else solution).potential
        return over_rows(lambda i: jax.grad(own.of, 1)(i, mu.points[i]), jnp.arange(mu.size), own.width)


class _OwnPotentials(eqx.Module):
    """The potential of each particle.

    `sloped` are data with slopes in the place of targets: those of all particles, or where they are `drawn`
    those of each, (M, B).
    """

    risk: _OwnBatches
    sloped: Data
    drawn: bool = eqx.field(static=True)

    def _seen(self, i: Int[Array, ""]) -> Data:
        return (
            jax.tree.map(lambda leaf: leaf[i], self.sloped) if self.drawn else self.risk.seen(i, self.sloped)
        )

    def of(self, i: Int[Array, ""], point: Float[Array, " d"]) -> Float[Array, ""]:
        """The potential of particle i at a point."""
        seen = self._seen(i)
        row = jax.vmap(self.risk.features, in_axes=(None, 0))(point, seen.x.astype(point.dtype))
        slopes = seen.y.astype(point.dtype)
        dual = along(seen.weights.astype(point.dtype), slopes) * slopes
        return pairing(row, dual) + 0.5 * self.risk.lam.astype(point.dtype) * jnp.sum(point * point)

    @property
    def width(self) -> int:
        """The rows that a particle sees."""
        return jax.eval_shape(self._seen, 0).weights.shape[0]

    def __call__(self, point):
        raise ValueError(
            "batches are independent: each particle has a potential of its own, and there is none elsewhere"
        )
