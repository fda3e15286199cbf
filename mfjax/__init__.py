"""Particle and mean-field dynamics of learning, from one declaration.

A **measure** on a **domain** moves by a **flow**, which is an **energy** seen through a geometry; a
**stepper** advances it in time; **observables** watch it.

Declare with

- `domains`: where measures live (sphere, torus, box, Euclidean space, two signed copies);
- `measures`: particles, whose points move, and grids, whose masses move;
- `features`, `kernels`, `losses`, `regularizers`: what energies are made of, written for one point or pair;
- `energies`: risks, discrepancies, potentials, entropies, and sums of them; `compress` for many data;
- `outer`: how the outer weights of variable projection are solved for;
- `flows`: an energy seen through a geometry; `grids`: its discretizations in space;
- `steppers`: schemes in time; `observables`: what a run records; `problems`: those of the papers.

Run with `simulate`, for one run (`Simulation`: its arguments, unevaluated; `Run`: what it leaves behind), and
`sweep`, for the product of named axes (`Table`). A run that stops early says why: `status`,
`SimulationError`. `load` reads saved runs and tables back.

Compare with theory: `theory` holds `bounds`, `certificates`, `gibbs` (`GibbsMeasure`), `linearize`
(`Spectrum`) and `minimize_reduced_risk` (`Minimum`), which are also reached from here.

Draw with `plot`, and check your own classes with `testing`.
"""

from typing import TYPE_CHECKING

from mfjax._versions import refuse_broken_jax as _refuse_broken_jax

_refuse_broken_jax()

from mfjax import (  # noqa: E402
    domains,
    energies,
    features,
    flows,
    grids,
    kernels,
    losses,
    measures,
    observables,
    outer,
    plot,
    problems,
    regularizers,
    status,
    steppers,
    theory,
)
from mfjax._results.reading import load  # noqa: E402
from mfjax.energies.compression import Compressed, compress  # noqa: E402
from mfjax.simulate import Run, Simulation, simulate  # noqa: E402
from mfjax.status import SimulationError  # noqa: E402
from mfjax.sweep import Table, sweep  # noqa: E402
from mfjax.theory import (  # noqa: E402
    GibbsMeasure,
    Minimum,
    Spectrum,
    bounds,
    certificates,
    gibbs,
    linearize,
    minimize_reduced_risk,
)

if TYPE_CHECKING:
    from mfjax import testing

__version__ = "0.2.0.dev0"

__all__ = [
    "Compressed",
    "GibbsMeasure",
    "Minimum",
    "Run",
    "Simulation",
    "SimulationError",
    "Spectrum",
    "Table",
    "bounds",
    "certificates",
    "compress",
    "domains",
    "energies",
    "features",
    "flows",
    "gibbs",
    "grids",
    "kernels",
    "linearize",
    "load",
    "losses",
    "measures",
    "minimize_reduced_risk",
    "observables",
    "outer",
    "plot",
    "problems",
    "regularizers",
    "simulate",
    "status",
    "steppers",
    "sweep",
    "testing",
    "theory",
]


def __getattr__(name: str) -> object:
    # The checks bring chex, which a simulation never needs.
    if name == "testing":
        import importlib

        return importlib.import_module("mfjax.testing")
    raise AttributeError(f"module 'mfjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
