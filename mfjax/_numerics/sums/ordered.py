"""Exact sums over all pairs of points on a line, through their order: O((M + K) log K).

A kernel that is a sum of products A(x) B(y) on either side of x = y costs one running sum for each of them.
Only whole numbers, the places of points among sorted sources, depend on the order, so that the derivatives
of all other steps are those of the dense sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# XLA sorts one array of whole numbers four times faster than floating numbers, or two arrays.
WHOLE = {"float32": jnp.int32, "float64": jnp.int64, "float16": jnp.int16, "bfloat16": jnp.int16}


def keys(positions: Float[Array, "*n"]) -> Int[Array, "*n"]:
    """Whole numbers in the order of the positions; +0 and -0 are one."""
    whole = WHOLE[positions.dtype.name]
    bits = jax.lax.bitcast_convert_type(jnp.where(positions == 0, 0, positions), whole)
    # The bits of negative numbers grow with their size.
    return jnp.where(bits < 0, bits ^ jnp.iinfo(whole).max, bits)


def positions(keys: Int[Array, "*n"], dtype) -> Float[Array, "*n"]:
    """The positions behind `keys`, whose derivative is zero."""
    bits = jnp.where(keys < 0, keys ^ jnp.iinfo(keys.dtype).max, keys)
    return jax.lax.bitcast_convert_type(bits, dtype)


def sorted_keys(positions: Float[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """(sorted keys, the first place of each position among them)."""
    # Without the barrier a compiler may evaluate positions twice, with two roundings.
    own = jax.lax.optimization_barrier(keys(positions))
    order = jax.lax.sort(own, is_stable=False)
    return order, jnp.searchsorted(order, own)


class Places(NamedTuple):
    """`order` (K,), sorted keys of the sources; `own` (K,), where each source is among them, those that
    coincide all in one place; `below` and `upto` (M,), how many places lie before each point, and how many
    before it or at it.
    """

    order: Int[Array, " K"]
    own: Int[Array, " K"]
    below: Int[Array, " M"]
    upto: Int[Array, " M"]

    @staticmethod
    def of(points: Float[Array, " M"], sources: Float[Array, " K"]) -> "Places":
        """The places of `points` among `sources`."""
        order, own = sorted_keys(sources)
        at = jax.lax.optimization_barrier(keys(points))
        below = jnp.searchsorted(order, at)
        met = order[jnp.minimum(below, len(order) - 1)] == at
        return Places(order, own, below, below + met.astype(below.dtype))

    def gathered(self, masses: Float[Array, " K"]) -> Float[Array, " K"]:
        """The masses in each place."""
        return jnp.zeros_like(masses).at[self.own].add(masses)

    def signed_sum(self, masses: Float[Array, " K"]) -> Float[Array, " M"]:
        """sum_j masses_j sign(x_i - y_j), sign(0) = 0."""
        running = jnp.cumsum(self.gathered(masses))
        before = jnp.concatenate([jnp.zeros_like(running[:1]), running])
        return before[self.below] + before[self.upto] - before[-1]

    def middle(self, dtype) -> Float[Array, ""]:
        """A source in the middle of all: powers of distances from it lose fewer digits."""
        return positions(self.order[len(self.order) // 2], dtype)


@jax.custom_jvp
def decaying_sums(
    points: Float[Array, " M"],
    sources: Float[Array, " K"],
    weights: Float[Array, " K"],
    scale: Float[Array, ""],
) -> tuple[Float[Array, " M"], Float[Array, " M"], Float[Array, " M"]]:
    """sum_j w_j e^{-|x_i - y_j| / scale} over the sources left of x_i, at it, and right of it.

    By running sums that decay over the gaps between neighbors: nothing overflows, however wide the sources.
    """
    places = Places.of(points, sources)
    masses, at = places.gathered(weights), positions(places.order, sources.dtype)
    decay = jnp.exp((at[:-1] - at[1:]) / scale)
    ones = jnp.ones_like(at[:1])
    from_left = _running(jnp.concatenate([ones, decay]), masses)
    from_right = _running(jnp.concatenate([ones, decay[::-1]]), masses[::-1])[::-1]
    last = len(at) - 1
    before, after = jnp.maximum(places.below - 1, 0), jnp.minimum(places.upto, last)
    # Where there is no source on that side the exponent may be positive, and large.
    some_left, some_right = places.below > 0, places.upto <= last
    left = jnp.exp(jnp.where(some_left, (at[before] - points) / scale, -jnp.inf)) * from_left[before]
    right = jnp.exp(jnp.where(some_right, (points - at[after]) / scale, -jnp.inf)) * from_right[after]
    here = jnp.where(places.upto > places.below, masses[jnp.minimum(places.below, last)], 0)
    return left, here, right


@decaying_sums.defjvp
def _decaying_jvp(primals, tangents):
    points, sources, weights, scale = primals
    d_points, d_sources, d_weights, d_scale = tangents
    left, here, right = decaying_sums(points, sources, weights, scale)
    # The changes of points / scale and sources / scale, seen from among the sources: from afar they cancel.
    here_is_zero = jax.lax.stop_gradient(jnp.mean(sources))
    moved = d_points / scale - (points - here_is_zero) * (d_scale / scale**2)
    masses = weights * (d_sources / scale - (sources - here_is_zero) * (d_scale / scale**2))
    by_mass = decaying_sums(points, sources, d_weights, scale)
    by_motion = decaying_sums(points, sources, masses, scale)
    changed = (
        by_mass[0] + by_motion[0] - left * moved,
        by_mass[1],
        by_mass[2] - by_motion[2] + right * moved,
    )
    return (left, here, right), changed


def _running(decay: Array, masses: Array) -> Array:
    """r_k = decay_k r_{k-1} + masses_k, by some sqrt(K) blocks of sqrt(K) that advance side by side."""
    size = len(masses)
    length = max(1, round(size**0.5))
    blocks = lambda values, fill: jnp.pad(values, (0, -size % length), constant_values=fill).reshape(
        -1, length
    )

    decay, masses = blocks(decay, 1), blocks(masses, 0)
    # Apart from the masses: JAX transposes the sums inside `decaying_sums` by taking all that a loop returns
    # for linear in them as soon as one of its inputs is.
    products = jnp.cumprod(decay, axis=1).T

    def advance(before, entry):
        total = entry[0] * before + entry[1]
        return total, total

    ends, within = jax.lax.scan(advance, jnp.zeros_like(masses[:, 0]), (decay.T, masses.T))
    _, whole = jax.lax.scan(advance, jnp.zeros_like(ends[0]), (products[-1], ends))
    before = jnp.concatenate([jnp.zeros_like(whole[:1]), whole[:-1]])
    return (within + products * before).T.ravel()[:size]
