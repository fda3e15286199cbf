"""The limit of variable projection as the regularization vanishes."""

from collections.abc import Callable, Sequence
from typing import Any

import mfjax as mf


def diffusion(
    gamma: Any,
    grid: mf.measures.Grid,
    stepper: mf.steppers.Stepper,
    times: Sequence[float],
    observables: dict[str, Callable],
) -> mf.Simulation:
    """Weighted ultra-fast diffusion from the uniform law to the teacher of `gamma`, unevaluated."""
    teacher = mf.problems.CircleTeacher(gamma)
    energy = mf.energies.PowerDivergence(teacher, order=2, scale=0.5)
    return mf.Simulation(
        mf.flows.Wasserstein(energy, teacher.domain),
        grid,
        stepper=stepper,
        save_at=times,
        observables=observables,
        save_measures=False,
    )
