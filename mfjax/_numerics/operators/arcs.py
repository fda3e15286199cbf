"""What ReLU features of the circle know of their data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfjax._numerics.operators.prefix import prefix_sums


class Arcs(eqx.Module):
    """For every datum the arc of theta on which omega . x_j + bias > 0, omega = (cos theta, sin theta).

    It is centered at the angle of x_j with half width arccos(-bias / |x_j|): half a circle at bias 0. Ends
    lie in [-pi, pi); `wraps` (N,) is one where the arc contains the angle -pi. `begin` and `end` (N,) are
    the ends sorted, `by_begin` and `by_end` the data in these orders. `moments` (N + 1, 3), for data of mass
    root^2, are the sums of p_j (x_j1^2, x_j1 x_j2, x_j2^2) over the first 0 to N of `by_begin`. Made once
    for given data.
    """

    begin: Float[Array, " N"]
    end: Float[Array, " N"]
    by_begin: Int[Array, " N"]
    by_end: Int[Array, " N"]
    wraps: Float[Array, " N"]
    moments: Float[Array, "n1 3"]

    def __init__(self, x: Float[Array, "N 2"], bias: Float[Array, ""], root: Float[Array, " N"]):
        # Data may be constants of the program: sorting them is no work for the compiler.
        x = jax.lax.optimization_barrier(x)
        radius = jnp.sqrt(jnp.sum(x * x, axis=1))
        cosine = -bias / jnp.where(radius > 0, radius, jnp.finfo(x.dtype).tiny)
        half = jnp.arccos(jnp.clip(cosine, -1, 1))
        center = jnp.arctan2(x[:, 1], x[:, 0])
        begin, end = (wrapped(center + side * half) for side in (-1, 1))
        # Of width 2 pi (or zero) up to rounding: the ends must not say otherwise.
        whole, empty = cosine <= -1, cosine >= 1
        end = jnp.where(whole | empty, begin, end)
        self.wraps = jnp.where(whole, 1, jnp.where(empty, 0, begin > end)).astype(x.dtype)
        self.by_begin, self.by_end = jnp.argsort(begin), jnp.argsort(end)
        self.begin, self.end = begin[self.by_begin], end[self.by_end]
        first, second = (root[:, None] * x)[self.by_begin].T
        self.moments = prefix_sums(jnp.stack([first * first, first * second, second * second], axis=1))


def opposite(angle: Array) -> Array:
    """The angle of the opposite point, both in [-pi, pi)."""
    # Not wrapped(angle - pi): rounding would put it on the wrong side of the cut.
    return jnp.where(angle < 0, angle + np.pi, angle - np.pi)


def wrapped(angle: Array) -> Array:
    """The angle in [-pi, pi)."""
    return angle - 2 * np.pi * jnp.floor((angle + np.pi) / (2 * np.pi))
