"""Time steppers: how to cross one interval of flow time. None of them loops over time.

- Explicit: `Euler`, `Heun`, `RK4`, `Adaptive` (the default), `NormalizedEuler` (the published algorithm),
  `Optax` (any optimizer).
- With noise: `EulerMaruyama`, `StochasticHeun`; `BirthDeath`, where masses grow.
- Minimizing movements: `Proximal` of particles, `EntropicProximal` on a grid.
- Stiff diffusion on a grid: `RosenbrockW` (the default), `Rosenbrock`, `ImplicitEuler`.
- Few outer solves: `Multirate`.
- To write one: `Stepper` and the `Step` it returns by `settle`; `step_size`, `step_sizes` (which makes
  `StepSizes` of a function), `brownian`, `with_clock`; explicit schemes are a `Tableau` for `runge_kutta`.
"""

from mfjax.steppers.base import Step, Stepper, StepSizes, settle, step_size, step_sizes, with_clock
from mfjax.steppers.birth_death import BirthDeath
from mfjax.steppers.entropic import EntropicProximal
from mfjax.steppers.explicit import RK4, Adaptive, Euler, Heun, Tableau, runge_kutta
from mfjax.steppers.implicit import ImplicitEuler
from mfjax.steppers.langevin import EulerMaruyama
from mfjax.steppers.multirate import Multirate
from mfjax.steppers.noise import brownian
from mfjax.steppers.normalized_euler import NormalizedEuler
from mfjax.steppers.optimizer import Optax
from mfjax.steppers.proximal import Proximal
from mfjax.steppers.rosenbrock import Rosenbrock, RosenbrockW
from mfjax.steppers.stochastic_heun import StochasticHeun

__all__ = [
    "RK4",
    "Adaptive",
    "BirthDeath",
    "EntropicProximal",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "ImplicitEuler",
    "Multirate",
    "NormalizedEuler",
    "Optax",
    "Proximal",
    "Rosenbrock",
    "RosenbrockW",
    "Step",
    "StepSizes",
    "Stepper",
    "StochasticHeun",
    "Tableau",
    "brownian",
    "runge_kutta",
    "settle",
    "step_size",
    "step_sizes",
    "with_clock",
]
