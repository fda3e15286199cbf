"""The Wasserstein gradient flow of an energy on a grid, with all that a run records of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfjax._arrays import inner, is_traced
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Sum
from mfjax.energies.internal import InternalEnergy
from mfjax.evaluation import Evaluation, evaluation
from mfjax.grids.diffusion import Part, diffusion_rate
from mfjax.grids.transport import transport_rate
from mfjax.measures import Grid, Measure, Tangent


def internal_parts(energy: Energy) -> tuple[Part, ...]:
    """The terms (coefficient, internal energy) of `energy`, which diffuse."""
    return tuple(part for part in energy.parts() if isinstance(part[1], InternalEnergy))


def transport_part(energy: Energy) -> Energy:
    """The rest of `energy`, which has a potential and transports; without terms if there is no rest."""
    rest = tuple(part for part in energy.parts() if not isinstance(part[1], InternalEnergy))
    if len(rest) == 1 and rest[0][1] is energy:
        return energy
    return Sum(rest)


def validate(mu: Measure, domain: Domain) -> None:
    """**Raises** `ValueError` unless `mu` is a measure on the cells of `domain`.

    >>> from mfjax.domains import Interval, Torus
    >>> validate(Grid.uniform(Torus(1), 8), Torus(1))
    >>> validate(Grid.uniform(Torus(1), 8), Interval(0.0, 1.0))
    Traceback (most recent call last):
    ValueError: the measure lives on another grid than ...: make it with Grid.uniform(domain, n)
    """
    if not isinstance(mu, Grid):
        raise ValueError(f"grids discretise a Grid, got {type(mu).__name__}")
    if is_traced((mu, domain)):
        cells = domain.cells(mu.shape)
    else:
        # Inside jit, too, the cells of a constant domain are constants that can be compared.
        with jax.ensure_compile_time_eval():
            cells = domain.cells(mu.shape)
    same = cells.periodic == mu.periodic and cells.points.shape == mu.points.shape
    if same and not is_traced((mu, domain)):
        expected, points = np.asarray(cells.points), np.asarray(mu.points)
        spacing, size = np.asarray(cells.spacing), float(np.max(np.abs(expected)))
        rounding = 100 * float(jnp.finfo(mu.dtype).eps) * max(size, 1e-30)
        same = np.allclose(points, expected, rtol=0, atol=rounding) and np.allclose(
            np.asarray(mu.spacing), spacing, rtol=1e-5, atol=0
        )
    if not same:
        raise ValueError(
            f"the measure lives on another grid than {domain!r}: make it with Grid.uniform(domain, n)"
        )


def evaluate(energy: Energy, mu: Grid, carry: Any = None) -> Evaluation:
    """Mass rates of d_t mu = div(mu grad V) in each cell, V the first variation of `energy`.

    The energy is that of the cells, and the dissipation -sum_i V_i m_i' is its exact decrease in continuous
    time; it tends to int |grad V|^2 dmu with second order in the spacing. Mass is conserved to rounding.
    `max_step` is the longest step for which explicit transport keeps masses non-negative; diffusion
    sets no limit here, since only an implicit stepper or error control can do without one.
    """
    parts, rest = internal_parts(energy), transport_part(energy)
    solution = rest.solve(mu, carry)
    rate, max_step = diffusion_rate(parts, mu), jnp.inf
    value = solution.value
    variation = jnp.zeros((mu.size,), mu.dtype)
    for coefficient, term in parts:
        coefficient = jnp.asarray(coefficient).astype(mu.dtype)
        value = value + coefficient * term.solve(mu).value
        variation = variation + coefficient * term.first_variation(mu)
    if rest.parts():
        potential = rest.first_variation(mu, solution)
        moved, max_step = transport_rate(mu, potential)
        rate, variation = rate + moved, variation + potential
    return evaluation(
        Tangent(weights=rate),
        value,
        -inner(variation, rate),
        mu.dtype,
        residual=solution.residual,
        status=solution.status,
        max_step=max_step,
        carry=solution.carry,
    )
