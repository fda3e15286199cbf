"""Implicit Euler for diffusion on a grid: unconditionally positive, any step size."""

from functools import reduce
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import frozen, known
from mfjax.flows.base import Flow
from mfjax.flows.wasserstein import Wasserstein
from mfjax.grids import FiniteVolume, face_slopes, transport_rate
from mfjax.grids.diffusion import Part, conductance, diffusion_rate, stiffness
from mfjax.grids.fitting import fitted
from mfjax.grids.linear import ShiftedFluxes, by_lines
from mfjax.grids.rates import (
    Pairs,
    added,
    convection,
    pressure_and_slope,
    pressure_pairs,
    sorted_parts,
    through,
)
from mfjax.measures import Grid, Measure
from mfjax.steppers.base import Step, Stepper, settle, step_size, with_clock

ITERATIONS = 50
# Newton steps taken, with derivatives, after the loop: each one squares the error and doubles the order
# up to which derivatives are exact.
POLISH = 2


def require_diffusion(stepper: Stepper, flow: Flow, mu: Measure) -> None:
    """**Raises** `ValueError` unless masses of `flow` diffuse on a grid, by fluxes with a linear form."""
    name, flow = type(stepper).__name__, flow.at()
    if not isinstance(mu, Grid):
        raise ValueError(f"{name} is a scheme for diffusion on a Grid, got {type(mu).__name__}")
    space = getattr(flow, "space", FiniteVolume())
    if not isinstance(space, FiniteVolume):
        raise ValueError(f"{name} solves with finite volumes, got {type(space).__name__}: use stepper=None")
    if not flow.diffusion(mu):
        raise ValueError(f"{name} needs an internal energy (diffusion), and there is none: use stepper=None")


def require_wasserstein(stepper: Stepper, flow: Flow, instead: str) -> None:
    """**Raises** `ValueError` unless nothing but the masses or points of a Wasserstein flow move."""
    flow = flow.at()
    if not isinstance(flow, Wasserstein):
        name, other = type(stepper).__name__, type(flow).__name__
        raise ValueError(f"{name} is a scheme for flows.Wasserstein, got {other}: use {instead}")


class ImplicitEuler(Stepper):
    """Implicit Euler for diffusion on a grid, positive whatever the step.

    m_{n+1} + dt sum_k L_k p_k(m_{n+1}) = m_n + dt (transport rate at m_n).

    m (K,) masses, p_k the pressure of the k-th internal energy, L_k its stiffness (`mfjax.grids`). Beside
    an entropy L p contains the drift, by fluxes fitted to the potential at m_n; no other transport is left
    but that along axes which noise does not reach.

    - Mass is conserved to rounding and stays positive. For pure diffusion by one energy, no pressure
      leaves the range it had: for a power divergence max(target/mu) never rises, whatever dt.
    - Entropies, drift included, make a linear equation with a positive solution for every dt.
    - Where the pressure is concave in the density (power divergence) the equation is an
      M-function of the pressure with a convex diagonal part. Every Newton iterate is then a
      supersolution, so is its minimum with the largest pressure at the start, and the iteration
      converges monotonically from any state. Otherwise, and for sums of internal energies, Newton runs
      on the masses; it converges for small steps, and the status `NOT_CONVERGED` says when it does not.
    - Without an entropy, or where noise does not reach, other terms of the energy are taken explicitly
      (implicit-explicit Euler): the step must respect the transport limit, else the status is `CFL`.
    - O(K) per Newton iteration in one dimension, usually 3 to 6 iterations a step.
    - Derivatives come from the last two Newton steps, which is the implicit function theorem for first
      and second derivatives, whatever the number of iterations.

    Order 1. **Good values**: dt 1e-3 to 1e-2 for curves, dt = 1 to jump to equilibrium. For accuracy
    use `Rosenbrock`.

    **Raises** `ValueError` for particles, for energies without internal part, and for those of degenerate
    diffusion (porous medium), whose fluxes are limited: those take `RosenbrockW`.

    Source: monotone Newton iteration, J. Ortega, W. Rheinboldt, Iterative Solution of Nonlinear Equations
    in Several Variables (1970), 13.3 and 13.5.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> circle = mf.domains.Torus(1)
    >>> teacher = lambda x: 1 + 0.9 * jnp.cos(2 * jnp.pi * x[0])
    >>> flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(teacher, scale=0.5), circle)
    >>> run = mf.simulate(flow, mf.measures.Grid.uniform(circle, 8), stepper=ImplicitEuler(1.0), steps=3)
    >>> target = mf.measures.Grid.from_density(circle, 8, teacher)
    >>> bool(jnp.all(jnp.abs(run.final.weights / target.weights - 1) < 1e-4))
    True
    """

    order: ClassVar[int] = 1
    dt: Float[Array, ""]

    def __init__(self, dt: ScalarLike):
        self.dt = step_size(dt)

    def validate(self, flow, mu):
        require_diffusion(self, flow, mu)
        require_wasserstein(self, flow, "stepper=None")
        super().validate(flow, mu)
        for _, energy in flow.at().diffusion(mu):
            if energy.flux == "upwind":
                raise ValueError(
                    f"ImplicitEuler has no limited fluxes, which {type(energy).__name__} needs at its front: "
                    "use steppers.RosenbrockW, or stepper=None"
                )

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        mu, now = cast(Grid, state.measure), flow.at(state)
        temperature, _, diffusing = sorted_parts(now.diffusion(mu), mu)
        explicit, linear, rate, status = mu, None, None, jnp.zeros((), jnp.int32)
        if temperature is not None:
            drift = None if evaluation.potential is None else face_slopes(evaluation.potential, mu)
            linear, drift = fitted(mu, drift, temperature), convection(mu, drift)
            rate = None if drift is None else transport_rate(mu, drift)[0]
        elif evaluation.potential is not None:
            rate = known(evaluation.tangent.weights) - diffusion_rate(diffusing, mu)
        if rate is not None:
            explicit = mu.with_weights(mu.weights + dt * rate)
            status = jnp.where(dt > evaluation.max_step * (1 + 1e-6), codes.CFL, codes.OK)
        moved, solved = implicit_diffusion(diffusing, explicit, dt, linear)
        moved = with_clock(flow, state, evaluation, dt).with_measure(moved)
        return settle(flow, moved, status=codes.first(status, solved))


def implicit_diffusion(
    parts: tuple[Part, ...], mu: Grid, dt: Float[Array, ""], linear: Pairs | None = None
) -> tuple[Grid, Int[Array, ""]]:
    """(solution, status) of m + dt (G m + sum_k L_k p_k(m)) = weights of `mu`, G the fluxes `linear`."""
    eps = float(jnp.finfo(mu.dtype).eps)
    still = frozen((parts, mu, dt, linear))

    def searching(loop):
        _, change, count = loop
        return (change > eps**0.25) & (count < ITERATIONS)

    def search(loop):
        weights, _, count = loop
        weights, change = _newton(*still, weights, bounded=True)
        return weights, change, count + 1

    start = (still[1].weights, jnp.asarray(jnp.inf, mu.dtype), jnp.zeros((), jnp.int32))
    weights, change, _ = jax.lax.while_loop(searching, search, start)
    # Nothing to differentiate comes out of the search: the derivative is that of the polishing steps.
    for _ in range(POLISH):
        weights, change = _newton(parts, mu, dt, linear, weights, bounded=False)
    # The residual of the last iterate is spread in proportion to mass: sums are then exact, signs kept.
    weights = weights * (jnp.sum(mu.weights) / jnp.sum(weights))
    status = jnp.where(change <= eps**0.5, codes.OK, codes.NOT_CONVERGED)
    return mu.with_weights(weights), status


def _newton(parts, mu: Grid, dt, linear, weights, *, bounded: bool) -> tuple[Array, Array]:
    """The next Newton iterate and its largest relative change."""
    current = mu.with_weights(weights)
    residual = weights - mu.weights
    pairs = [] if linear is None else [linear]
    if linear is not None:
        residual = residual + dt * through(linear, weights)
    for part in parts:
        pressure = part[1].pressure(current.density, mu.points)
        residual = residual + dt * stiffness(conductance(part, mu), pressure)
        pairs.append(pressure_pairs(part, current))
    matrix = ShiftedFluxes(reduce(added, pairs), dt, mu.periodic, by_lines(mu))
    change = -matrix.solve(residual)
    if linear is None and len(parts) == 1 and parts[0][1].concave_pressure:
        energy = parts[0][1]
        pressure, slope = pressure_and_slope(energy, current)
        pressure = pressure + slope * change
        if bounded:
            first = energy.pressure(mu.density, mu.points)
            pressure = jnp.clip(pressure, jnp.min(first), jnp.max(first))
        new = energy.density_from_pressure(pressure, mu.points) * mu.volume
    else:
        new = jnp.maximum(weights + change, 0)
    tiny = jnp.finfo(mu.dtype).eps * jnp.mean(jnp.abs(mu.weights)) * mu.relative_volume
    return new, jnp.max(jnp.abs(new - weights) / (jnp.abs(new) + tiny))
