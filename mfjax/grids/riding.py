"""Values of cells that ride along with the mass: where it goes, and what it carries there."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import known
from mfjax.grids.diffusion import Part, conductance
from mfjax.grids.faces import Faces, above, below, cells, face_slopes, jump, shares
from mfjax.grids.fitting import fitted
from mfjax.grids.rates import sorted_parts, with_upwinded
from mfjax.grids.transport import carried, slope
from mfjax.measures import Grid


def face_velocities(mu: Grid, drift: Faces, parts: tuple[Part, ...] = ()) -> Faces:
    """The velocity of the mass through every face, for the fluxes of `mfjax.grids.mass_rate`.

    Minus the drift and the slopes of upwinded energies; fluxes of diffusion (entropies, pressures) are
    divided by the mean density of the two cells, and are zero between empty ones.
    """
    temperature, upwinded, diffusing = sorted_parts(parts, mu)
    drift = known(with_upwinded(mu, drift, upwinded))
    if temperature is None and not diffusing:
        return tuple(-d for d in drift)
    masses = cells(mu.weights, mu)
    pairs = None if temperature is None else fitted(mu, drift, temperature)
    pressure = lambda part: cells(part[1].pressure(mu.density, mu.points), mu)
    diffusive = [(conductance(part, mu), pressure(part)) for part in diffusing]
    velocities = []
    for axis in range(len(mu.shape)):
        flux = jnp.zeros(mu.shape, mu.dtype)
        if pairs is not None:
            forward, backward = pairs[axis]
            flux = forward * masses - backward * above(masses, axis)
        for through, values in diffusive:
            flux = flux - through[axis] * jump(values, mu, axis)
        own, other = shares(mu, axis)
        # The mass that a box of the mean density would have at this face.
        mean = 0.5 * (own * masses + other * above(masses, axis))
        moved = jnp.where(mean > 0, flux * mu.spacing[axis] / jnp.where(mean > 0, mean, 1), 0)
        fluxes = pairs is not None and axis not in mu.noiseless
        velocities.append(moved if fluxes else moved - drift[axis])
    return tuple(velocities)


def riding_rate(
    values: Float[Array, "K *c"], velocities: Faces, mu: Grid
) -> tuple[Float[Array, "K *c"], Float[Array, ""]]:
    """The rates of values of cells that ride on given velocities, and the longest explicit step.

    (rates, longest explicit step) of d_t H + v . grad H = 0 for values H of cells, one or c in each, v given
    at the faces.

    Limited upwinding, second order for smooth H. What a face brings counts by the density that it carries
    over that of the cell, at most 2: on smooth densities rho H moves conservatively, no empty cell changes
    the height of a full one, and H still goes through empty cells. For steps up to the second value no new
    extremum of H appears.
    """
    if values.ndim > 1:
        each = jax.vmap(lambda column: riding_rate(column, velocities, mu), in_axes=1, out_axes=(1, None))
        return each(values)
    values, density = cells(values, mu), cells(mu.density, mu)
    rate, turnover = jnp.zeros(mu.shape, mu.dtype), jnp.zeros(mu.shape, mu.dtype)
    for axis, v in enumerate(velocities):
        half = 0.5 * slope(values, mu, axis)
        arriving = jnp.where(v > 0, values + half, above(values - half, axis))
        carrying = carried(density, mu, axis, v)
        share = lambda brought, density=density: jnp.where(
            density > 0, jnp.minimum(brought / jnp.where(density > 0, density, 1), 2), 1
        )
        own, other = shares(mu, axis)
        out, back = own * v, below(other * v, axis)
        change = (
            share(carrying) * out * (arriving - values),
            share(below(carrying, axis)) * back * (below(arriving, axis) - values),
        )
        rate = rate + (change[1] - change[0]) / mu.spacing[axis]
        turnover = turnover + (jnp.abs(out) + jnp.abs(back)) / mu.spacing[axis]
    fastest = jnp.max(turnover)
    longest = jnp.where(fastest > 0, 0.5 / jnp.where(fastest > 0, fastest, 1), jnp.inf)
    return rate.ravel(), longest


def partial_slopes(
    potential: Float[Array, " K"], by_value: Float[Array, "K *c"], values: Float[Array, "K *c"], mu: Grid
) -> Faces:
    """The slope of V(H(x), x) in x at frozen H: that of `potential` minus (dV/dH) grad H, at every face.

    `by_value` is dV/dH in each cell, averaged over the two of a face: second order. Of c values H of a cell
    the sum counts.
    """

    def moved(by_value, values):
        each = cells(by_value, mu)
        slopes = enumerate(face_slopes(values, mu))
        return tuple(0.5 * (each + above(each, axis)) * slope for axis, slope in slopes)

    if values.ndim == 1:
        parts = moved(by_value, values)
    else:
        parts = tuple(jnp.sum(part, axis=0) for part in jax.vmap(moved, in_axes=1)(by_value, values))
    return tuple(whole - part for whole, part in zip(face_slopes(potential, mu), parts, strict=True))
