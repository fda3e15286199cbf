"""Gaussians along one axis, endless or closed."""

import jax.numpy as jnp
from jaxtyping import Array


def gaussian(z: Array) -> Array:
    """The standard normal density."""
    return jnp.exp(-0.5 * z * z) / jnp.sqrt(2 * jnp.pi).astype(z.dtype)


def wrapped(x: Array, sigma: Array, period: Array) -> Array:
    """The sum of Gaussians of standard deviation `sigma` over all periods.

    Five images and five Fourier modes each leave less than double rounding where they are used: at
    sigma = 0.26 periods the first image dropped is 1e-20 and the first mode dropped 1e-21.
    """
    x, spread = x / period, sigma / period
    x = x - jnp.round(x)
    narrow = spread < 0.26
    # Each form is evaluated within its own range only, so that neither overflows in the derivative.
    near, wide = jnp.where(narrow, spread, 0.26), jnp.where(narrow, 0.26, spread)
    images = sum(gaussian((x + k) / near) for k in range(-2, 3)) / near
    modes = [jnp.exp(-2 * (jnp.pi * k * wide) ** 2) * jnp.cos(2 * jnp.pi * k * x) for k in range(1, 6)]
    return jnp.where(narrow, images, 1 + 2 * sum(modes)) / period
