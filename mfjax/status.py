"""Outcome of a run, carried as an integer in compiled code and turned into one exception outside it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

__all__ = [
    "BAD_START",
    "CFL",
    "FROZEN_CLOCK",
    "MESSAGES",
    "NEGATIVE_FACTOR",
    "NEGATIVE_MASS",
    "NON_FINITE",
    "NOT_CONVERGED",
    "NO_INTERPOLANT",
    "NO_VALUE",
    "OK",
    "OTHER_RUN",
    "OUTER_SOLVE",
    "OVERFLOW",
    "OWN",
    "STEP_BUDGET",
    "STEP_UNDERFLOW",
    "STOPPED",
    "UNORDERED_TIMES",
    "SimulationError",
    "describe",
    "first",
]

OK = 0
# No fault: below zero, where nothing takes it for one.
STOPPED = -1
OUTER_SOLVE = 1
NO_INTERPOLANT = 2
NEGATIVE_MASS = 3
STEP_UNDERFLOW = 4
STEP_BUDGET = 5
NOT_CONVERGED = 6
CFL = 7
NON_FINITE = 8
UNORDERED_TIMES = 9
OVERFLOW = 10
FROZEN_CLOCK = 11
OTHER_RUN = 12
NEGATIVE_FACTOR = 13
BAD_START = 14
NO_VALUE = 15
# From here on the codes are free for energies, flows and steppers of one's own.
OWN = 100

MESSAGES = {
    OK: "completed",
    STOPPED: "the condition of stop= holds",
    OUTER_SOLVE: "the outer solve left a relative residual above its tolerance, or lam is not positive, or a "
    "kernel not positive definite: use float64, a larger lam, or outer=mf.outer.Cholesky(), for lam = 0 "
    "outer=mf.outer.MinimumNorm()",
    NO_INTERPOLANT: "lam = 0 asks for an interpolant and none exists: the data are not in the range of the "
    "features. Use lam > 0, more particles or fewer data",
    NEGATIVE_MASS: "a step made a cell or particle mass negative: use a smaller step, or stepper=None",
    STEP_UNDERFLOW: "the adaptive step became too small: the tolerance is below what the dtype resolves, "
    "or the solution is singular",
    STEP_BUDGET: "max_steps was used up between two saved times: raise max_steps, loosen the tolerance, or "
    "take larger steps",
    NOT_CONVERGED: "a nonlinear equation did not converge, that of an implicit step or of the energy: use a "
    "smaller step, or more iterations of the energy's own solver",
    CFL: "the fixed step violates the transport limit dt * max|v| <= cell size / 2: use a smaller step, or "
    "stepper=None",
    NON_FINITE: "the state became NaN or infinite: the step is too large for the stiffness (stable below 2 / "
    "the largest rate), or the data are not finite",
    UNORDERED_TIMES: "the saved times decrease, or are NaN: sort save_at",
    OVERFLOW: "more particles were born than there are slots: give the measure a larger capacity (slots of "
    "zero mass), or a smaller step",
    FROZEN_CLOCK: "the stepper left the clock of a flow that depends on time behind: end its step with "
    "settle(flow, with_clock(flow, state, evaluation, dt)), its own motion included",
    OTHER_RUN: "start= goes on with the same flow, and this one has another energy or dissipation where that "
    "run ended: start another flow from start.final",
    NEGATIVE_FACTOR: "the temperature of the flow, or the factor of another of its energies, became "
    "negative: keep the schedule, or the factor, at 0 or above, as by jnp.maximum(T, 0)",
    BAD_START: "the energy or the rate is NaN or infinite at the initial measure: start from positive "
    "densities where it needs them, from points that do not meet where it is singular, and check its data",
    NO_VALUE: "the value of the energy became NaN where its rate is finite: the step is too large, and left "
    "the set where it is defined, or the value is wrong: an energy that is known by its force alone returns "
    "Solution(None, potential)",
}


class SimulationError(RuntimeError):
    """A run that stopped before its end. `run` holds everything that was computed until then."""

    def __init__(self, message: str, run=None):
        super().__init__(message)
        self.run = run


def first(*statuses: Any) -> Int[Array, ""]:
    """The first of several statuses that is a fault: causes come before their consequences.

    >>> int(first(OK, jnp.asarray(CFL), NON_FINITE)) == CFL
    True
    """
    found = jnp.zeros((), jnp.int32)
    for status in statuses:
        found = jnp.where(found == OK, status, found)
    return found.astype(jnp.int32)


def describe(code: int) -> str:
    """The likely cause and remedy behind a status code.

    >>> describe(0)
    'completed'
    >>> describe(OWN + 4)
    "an energy, flow or stepper of one's own reported its status 104"
    """
    code = int(code)
    if code >= OWN:
        return f"an energy, flow or stepper of one's own reported its status {code}"
    return MESSAGES.get(code, f"unknown status {code}: codes of one's own begin at {OWN}")


# A larger rise of an energy, as a share of its fall so far, comes from steps that are too large.
RISE = 1e-2
RISE_REMEDY = (
    "the flow lowers it, so that the steps are too large: take a smaller dt or an adaptive stepper, or a "
    "smaller tolerance of one"
)


def risen(times: Any, energy: Any, dissipated: Any, steps: Any) -> str | None:
    """What the energy of a flow that lowers it does instead, over the saved times, where it rises.

    `dissipated` is NaN where noise acts, which may raise it; `steps` counts those taken.
    """
    energy = np.asarray(energy)
    unit = float(jnp.finfo(energy.dtype).eps)
    known = np.isfinite(energy) & np.isfinite(np.asarray(dissipated))
    energy, times, steps = energy[known].astype(float), np.asarray(times)[known], np.asarray(steps)[known]
    if energy.size < 2:
        return None
    lowest = np.minimum.accumulate(energy)[:-1]
    rise = energy[1:] - lowest
    # A kink that a step crosses may lift it a little.
    slack = RISE * (energy[0] - lowest) + 1e3 * unit * np.maximum.accumulate(np.abs(energy))[:-1]
    worst = int(np.argmax(rise - slack))
    if rise[worst] <= slack[worst]:
        return None
    low, high, (before, time) = lowest[worst], energy[worst + 1], times[worst : worst + 2]
    size = (time - before) / max(steps[worst + 1] - steps[worst], 1)
    return f"its energy rose from {low:.4g} to {high:.4g} by t = {time:.4g}, in steps of {size:.2g}"
