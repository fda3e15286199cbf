"""The limit of variable projection as the regularization vanishes."""

from collections.abc import Callable, Sequence

import mfjax as mf
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
