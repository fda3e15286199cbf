"""Internal energies as diffusion: flux -a grad p through every face, and its linearization."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax.energies.internal import InternalEnergy
from mfjax.grids.faces import above, cells, content, distance, outflow, without_wall
from mfjax.measures import Grid

Part = tuple[Any, InternalEnergy]
Conductance = tuple[Array, ...]


def conductance(part: Part, mu: Grid) -> Conductance:
    """Mass per time and unit of pressure difference through each face, one array per axis.

    coefficient * a * area / distance, the mobility a averaged over the two cells of the face.
    """
    coefficient, energy = part
    mobility = cells(energy.mobility(mu.points), mu)
    coefficient, found = jnp.asarray(coefficient).astype(mu.dtype), []
    for axis in range(len(mu.shape)):
        scale = coefficient * content(mu, axis) / (mu.spacing[axis] * distance(mu, axis))
        found.append(without_wall(0.5 * (mobility + above(mobility, axis)), mu, axis) * scale)
    return tuple(found)


def stiffness(conductances: Conductance, values: Float[Array, " K"]) -> Float[Array, " K"]:
    """L v, (L v)_i = sum over the faces of cell i of conductance * (v_i - v_neighbor).

    L is symmetric, non-negative, and its rows and columns sum to zero: mass is conserved to rounding.
    """
    values = values.reshape(conductances[0].shape)
    total = jnp.zeros_like(values)
    for axis, through in enumerate(conductances):
        total = total + outflow(through * (values - above(values, axis)), axis)
    return total.ravel()


def diffusion_rate(parts: tuple[Part, ...], mu: Grid) -> Float[Array, " K"]:
    """The rates at which masses diffuse by the pressures of `parts`.

    Mass rates -sum_k L_k p_k(rho) of d_t rho = sum_k c_k div(a_k grad p_k(rho)).

    Second order in space. The equilibria p = const are those of the continuous problem, exactly.
    """
    rate = jnp.zeros((mu.size,), mu.dtype)
    for part in parts:
        pressure = part[1].pressure(mu.density, mu.points)
        rate = rate - stiffness(conductance(part, mu), pressure)
    return rate
