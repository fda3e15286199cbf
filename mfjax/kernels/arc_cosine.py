"""The kernel of bias-free ReLU features under Gaussian inputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from mfjax._numerics.arrays import safe_norm
from mfjax.kernels.base import Kernel


class ArcCosine(Kernel):
    """The kernel of a ReLU layer with Gaussian weights.

    |x| |y| (sin t + (pi - t) cos t) / (2 pi), t the angle between x and y: E relu(x . z) relu(y . z).

    z is a standard normal vector: the kernel of a bias-free ReLU network under Gaussian inputs, in any
    dimension. `energies.MMD(ArcCosine(), teacher)` is then its population risk 1/2 E (F(z) - F*(z))^2. On S^1
    it is sum_k c_k e^{ikt}, c_k as `mf.problems.relu_coefficients(0)` gives them: twice differentiable, and
    blind to odd modes k >= 3.

    Source: Cho, Saul, Kernel methods for deep learning (2009), (6), order 1, times one half.

    >>> float(ArcCosine()(jnp.array([2.0, 0.0]), jnp.array([3.0, 0.0])))
    3.0
    """

    def __call__(self, x, y):
        size = safe_norm(x) * safe_norm(y)
        cosine = jnp.sum(x * y) / jnp.where(size > 0, size, 1)
        return size * _arc(cosine) / (2 * jnp.pi)


# Derivatives by hand: those of arccos and sin at u = +-1 are infinite, and cancel.
@jax.custom_jvp
def _arc(u: Array) -> Array:
    """sin t + (pi - t) cos t at u = cos t, with derivative pi - t in u."""
    # Clipped in here: a derivative of the clipping at u = 1 would count one half.
    return jnp.sqrt(jnp.maximum((1 - u) * (1 + u), 0)) + _opposite(u) * u


@jax.custom_jvp
def _opposite(u: Array) -> Array:
    """pi - t at u = cos t; its infinite derivative at u = +-1, met in directions of no change, is 0."""
    return jnp.pi - jnp.arccos(jnp.clip(u, -1, 1))


@_arc.defjvp
def _arc_jvp(at, along):
    return _arc(*at), _opposite(*at) * along[0]


@_opposite.defjvp
def _opposite_jvp(at, along):
    inside = (1 - at[0]) * (1 + at[0])
    slope = jnp.where(inside > 0, jax.lax.rsqrt(jnp.where(inside > 0, inside, 1)), 0)
    return _opposite(*at), slope * along[0]
