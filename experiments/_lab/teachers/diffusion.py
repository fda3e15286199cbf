"""The limit of variable projection as the regularization vanishes."""

from collections.abc import Callable, Sequence
from typing import Any

import mfjax as mf
from _lab.records import Records
from mfjax.problems import CircleTeacher, TorusTeacher

Teacher = CircleTeacher | TorusTeacher


def diffusion(
    teacher: Teacher,
    grid: mf.measures.Grid,
    stepper: mf.steppers.Stepper,
    times: Sequence[float],
    observables: dict[str, Callable],
) -> mf.Simulation:
    """Weighted ultra-fast diffusion to a teacher, from the masses of `grid`, unevaluated."""
    energy = mf.energies.PowerDivergence(teacher, order=2, scale=0.5)
    return mf.Simulation(
        mf.flows.Wasserstein(energy, teacher.domain),
        grid,
        stepper=stepper,
        save_at=times,
        observables=observables,
        save_measures=False,
    )


def diffusions(
    records: Records,
    teacher: Callable[[Any], Teacher],
    grid: mf.measures.Grid,
    times: Sequence[float],
    gammas: Sequence[float],
) -> Any:
    """The dataset of the diffusion to the teachers of some concentrations: masses (gamma, save, cell)."""
    # What the dtype resolves.
    tolerances = (1e-6, 1e-9) if grid.dtype == "float64" else (1e-4, 1e-6)
    stepper, masses = mf.steppers.Rosenbrock(*tolerances), {"masses": lambda mu, flow: mu.weights}
    cell = lambda gamma: diffusion(teacher(gamma), grid, stepper, times, masses)
    return records.sweep("diffusion", cell, {"gamma": gammas})
