"""Exponentially fitted fluxes for drift and diffusion at constant temperature."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax.grids.faces import Faces, distance, shares, without_wall
from mfjax.measures import Grid


def fitted(mu: Grid, drift: Faces | None, temperature: Float[Array, ""]) -> tuple[tuple[Array, Array], ...]:
    """(forward, backward) rates through the faces of each axis, for d_t rho = div(T grad rho + rho drift).

    The flux through the face between cells i and i + 1 is T / h (B(z) rho_i - B(-z) rho_{i+1}),
    z = h drift / T and B(z) = z / (e^z - 1): the exact one for constant drift and constant flux
    between the two centers, h apart. It vanishes where rho_{i+1} / rho_i = e^{-z}. Rates are fluxes times the
    area of the face over the volume of the cell that they leave. Through faces of `noiseless` axes nothing
    diffuses: `convection` moves the mass there.

    Source: D. Scharfetter, H. Gummel, IEEE Trans. Electron Devices 16 (1969) 64-77.
    """
    pairs = []
    for axis in range(len(mu.shape)):
        if axis in mu.noiseless:
            pairs.append((jnp.zeros(mu.shape, mu.dtype),) * 2)
            continue
        apart = distance(mu, axis)
        rise = jnp.zeros(mu.shape, mu.dtype) if drift is None else apart * drift[axis]
        pair = (_bernoulli(rise, temperature), _bernoulli(-rise, temperature))
        scaled = (share * rate for share, rate in zip(shares(mu, axis), pair, strict=True))
        pairs.append(tuple(without_wall(rate / (mu.spacing[axis] * apart), mu, axis) for rate in scaled))
    return tuple(pairs)


def _bernoulli(rise: Array, temperature: Array) -> Array:
    """T z / (e^z - 1), z = rise / T: T at zero rise, and max(-rise, 0) in the limit of T = 0."""
    # The square of the floor, in derivatives, is still a number.
    z = rise / jnp.maximum(temperature, float(jnp.finfo(rise.dtype).tiny) ** (1 / 3))
    small = jnp.abs(z) < 0.05
    near = jnp.where(small, z, 0)
    series = 1 - near / 2 + near**2 / 12 * (1 - near**2 / 60 * (1 - near**2 / 42))
    # By e^{-|z|}, which does not overflow: B(-z) = z + B(z).
    size = jnp.where(small, 1, jnp.abs(z))
    far = jnp.maximum(-rise, 0) - jnp.abs(rise) * jnp.exp(-size) / jnp.expm1(-size)
    return jnp.where(small, temperature * series, far)
