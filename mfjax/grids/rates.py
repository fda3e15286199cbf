"""Mass rates of drift and diffusion: which flux serves which energy, and its linearization."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax.grids.diffusion import Part, conductance, diffusion_rate
from mfjax.grids.faces import Faces, above, face_slopes, outflow
from mfjax.grids.fitting import fitted
from mfjax.grids.transport import transport_rate
from mfjax.measures import Grid

# For each axis what flows forward through a face per mass of its cell, and backward per mass of the next.
Pairs = tuple[tuple[Array, Array], ...]


def mass_rate(
    mu: Grid, drift: Faces | None, parts: tuple[Part, ...] = ()
) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """The rates of the masses under drift and diffusion, and the longest explicit step.

    (mass rates, longest explicit step) of d_t rho = div(rho drift + sum_k c_k rho grad U_k'(rho)).

    `drift` holds, for each axis, the slope at every face of the potential that moves the mass (minus the
    velocity; it need not be a gradient), `None` if there is none; `parts` the internal energies (c_k, U_k).

    - Entropies make the flux exponentially fitted to the drift (Scharfetter-Gummel): positive,
      with the Gibbs density exp(-V/T) as exact equilibrium, second order where |drift| spacing < T. Along
      `noiseless` axes they do nothing, and mass moves by limited upwinding.
    - Energies of degenerate diffusion ("upwind") add the slope of U' to the drift. Without an entropy the
      mass then moves by limited upwinding: second order, not negative across a free boundary, with
      V + U' = const on the support as exact equilibrium.
    - The others diffuse by their pressure.

    In each case the flux through a face is against the slope of the first variation, so that the energy of
    the cells decreases: but along `noiseless` axes, where it is against that of the drift alone.
    """
    temperature, upwinded, diffusing = sorted_parts(parts, mu)
    drift = with_upwinded(mu, drift, upwinded)
    rate, longest = diffusion_rate(diffusing, mu), jnp.asarray(jnp.inf, mu.dtype)
    if temperature is not None:
        rate = rate - through(fitted(mu, drift, temperature), mu.weights)
        drift = convection(mu, drift)
    if drift is not None:
        moved, longest = transport_rate(mu, drift)
        rate = rate + moved
    return rate, longest


def convection(mu: Grid, drift: Faces | None) -> Faces | None:
    """The part of a drift that fitted fluxes leave to limited transport, along `noiseless` axes, if any."""
    if drift is None or not mu.noiseless:
        return None
    return tuple(d if axis in mu.noiseless else jnp.zeros_like(d) for axis, d in enumerate(drift))


def with_upwinded(mu: Grid, drift: Faces | None, upwinded: tuple[Part, ...]) -> Faces | None:
    """The drift and the slopes of the energies whose flux is upwinded."""
    for coefficient, energy in upwinded:
        own = face_slopes(jnp.asarray(coefficient).astype(mu.dtype) * energy.first_variation(mu), mu)
        drift = own if drift is None else tuple(a + b for a, b in zip(drift, own, strict=True))
    return drift


def linearized(mu: Grid, drift: Faces | None, parts: tuple[Part, ...]) -> Pairs:
    """The fluxes of `mass_rate` at frozen drift, as far as they are stiff: linear in the masses of the cells.

    Exact for entropies; by the slope of the pressure for the other energies; without upwinded drift.
    """
    temperature, upwinded, diffusing = sorted_parts(parts, mu)
    zero = tuple(jnp.zeros(mu.shape, mu.dtype) for _ in mu.shape)
    pairs = tuple(zip(zero, zero, strict=True))
    if temperature is not None:
        pairs = fitted(mu, drift, temperature)
    for part in (*upwinded, *diffusing):
        pairs = added(pairs, pressure_pairs(part, mu))
    return pairs


def pressure_pairs(part: Part, mu: Grid) -> Pairs:
    """The linearized flux of one energy in its pressure form."""
    slope = pressure_and_slope(part[1], mu)[1].reshape(mu.shape)
    return tuple((c * slope, c * above(slope, axis)) for axis, c in enumerate(conductance(part, mu)))


def pressure_and_slope(energy, mu: Grid) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """The pressure in each cell and its derivative with respect to the mass of the cell."""
    pressure = lambda density: energy.pressure(density, mu.points)
    value, derivative = jax.jvp(pressure, (mu.density,), (jnp.ones_like(mu.density),))
    return value, derivative / mu.volume


def added(first: Pairs, second: Pairs) -> Pairs:
    """The sum of two linear fluxes."""
    return jax.tree.map(jnp.add, first, second)


def through(pairs: Pairs, masses: Float[Array, " K"]) -> Float[Array, " K"]:
    """What leaves each cell: sums to zero over the grid, to rounding."""
    masses = masses.reshape(pairs[0][0].shape)
    total = jnp.zeros_like(masses)
    for axis, (forward, backward) in enumerate(pairs):
        total = total + outflow(forward * masses - backward * above(masses, axis), axis)
    return total.ravel()


def sorted_parts(
    parts: tuple[Part, ...], mu: Grid
) -> tuple[Array | None, tuple[Part, ...], tuple[Part, ...]]:
    """By their fluxes: (temperature of the entropies or `None`, upwinded parts, parts with a pressure)."""
    noisy = [(c, e.temperature) for c, e in parts if e.flux == "fitted"]
    scaled = [jnp.asarray(c).astype(mu.dtype) * t for c, t in noisy]
    temperature = sum(scaled[1:], scaled[0]) if scaled else None
    those = lambda flux: tuple(part for part in parts if part[1].flux == flux)
    return temperature, those("upwind"), those("pressure")
