"""mfjax: particle and mean-field dynamics of learning, from one declaration.

Declare an energy over measures and a geometry; get the particle system, the limiting PDE, the sweep
and the figures.
"""

from mfjax._versions import refuse_broken_jax

refuse_broken_jax()

__version__ = "0.1.0"

from typing import Any  # noqa: E402

from mfjax import bounds as bounds  # noqa: E402
from mfjax import certificates as certificates  # noqa: E402
from mfjax import domains as domains  # noqa: E402
from mfjax import energies as energies  # noqa: E402
from mfjax import features as features  # noqa: E402
from mfjax import flows as flows  # noqa: E402
from mfjax import grids as grids  # noqa: E402
from mfjax import kernels as kernels  # noqa: E402
from mfjax import losses as losses  # noqa: E402
from mfjax import measures as measures  # noqa: E402
from mfjax import observables as observables  # noqa: E402
from mfjax import outer as outer  # noqa: E402
from mfjax import plot as plot  # noqa: E402
from mfjax import problems as problems  # noqa: E402
from mfjax import regularizers as regularizers  # noqa: E402
from mfjax import steppers as steppers  # noqa: E402
from mfjax.compression import Compressed as Compressed  # noqa: E402
from mfjax.compression import compress as compress  # noqa: E402
from mfjax.driver import simulate as simulate  # noqa: E402
from mfjax.gibbs import GibbsMeasure as GibbsMeasure  # noqa: E402
from mfjax.gibbs import gibbs as gibbs  # noqa: E402
from mfjax.linearize import Spectrum as Spectrum  # noqa: E402
from mfjax.linearize import linearize as linearize  # noqa: E402
from mfjax.minimizer import Minimum as Minimum  # noqa: E402
from mfjax.minimizer import minimize_reduced_risk as minimize_reduced_risk  # noqa: E402
from mfjax.run import Run as Run  # noqa: E402
from mfjax.simulation import Simulation as Simulation  # noqa: E402
from mfjax.status import SimulationError as SimulationError  # noqa: E402
from mfjax.sweep import Table as Table  # noqa: E402
from mfjax.sweep import sweep as sweep  # noqa: E402


def __getattr__(name: str) -> Any:
    # The checks bring chex, which a simulation never needs.
    if name == "testing":
        import importlib

        return importlib.import_module("mfjax.testing")
    raise AttributeError(f"module 'mfjax' has no attribute {name!r}")
