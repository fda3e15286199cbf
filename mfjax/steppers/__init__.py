"""Time steppers: how to cross one interval of flow time. None of them loops over time."""

from mfjax.steppers.base import Step as Step
from mfjax.steppers.base import Stepper as Stepper
from mfjax.steppers.birth_death import BirthDeath as BirthDeath
from mfjax.steppers.entropic import EntropicProximal as EntropicProximal
from mfjax.steppers.explicit import RK4 as RK4
from mfjax.steppers.explicit import Adaptive as Adaptive
from mfjax.steppers.explicit import Euler as Euler
from mfjax.steppers.explicit import Heun as Heun
from mfjax.steppers.implicit import ImplicitEuler as ImplicitEuler
from mfjax.steppers.langevin import EulerMaruyama as EulerMaruyama
from mfjax.steppers.multirate import Multirate as Multirate
from mfjax.steppers.optimizer import Optax as Optax
from mfjax.steppers.proximal import Proximal as Proximal
from mfjax.steppers.rosenbrock import Rosenbrock as Rosenbrock
from mfjax.steppers.rosenbrock import RosenbrockW as RosenbrockW
from mfjax.steppers.stochastic_heun import StochasticHeun as StochasticHeun
