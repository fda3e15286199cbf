"""Networks as pairs (rho, H): three systems of the survey beside gradient descent, and two regularizations.

Small by default (all figures within two minutes on two cores); `--preset paper` has finer grids, longer runs.
"""

from dataclasses import dataclass, replace

from common.program import run

# Names of the figures, and of the methods that draw them.
FIGURES = {
    "systems": "systems",
    "descent": "descent",
    "increase": "increase",
    "regularized": "regularized",
}


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment."""

    cells: int
    particles: int
    # Meshes of the convergence study; each costs a compilation.
    meshes: tuple[int, ...]
    # kappa of the start H_0 = 2 + 3 tanh(kappa (theta + 1)), the calm one first.
    steepness: tuple[float, ...]
    time: float
    step: float
    saves: int
    temperatures: tuple[float, ...]
    regularized_systems: tuple[str, ...]
    regularized_cells: int
    regularized_time: float
    precision: str
    quick_compilation: bool = False


PAPER = Preset(
    cells=384,
    particles=512,
    meshes=(96, 192, 384, 768),
    steepness=(0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    time=10.0,
    step=2**-9,
    saves=80,
    temperatures=(0.05, 0.1, 0.3, 1.0),
    regularized_systems=("separated", "transported", "chaos"),
    regularized_cells=192,
    regularized_time=200.0,
    precision="float64",
)
SMALL = replace(
    PAPER,
    cells=96,
    particles=128,
    meshes=(64, 128, 256),
    steepness=(0.25, 1.0, 2.0, 3.0, 4.0),
    time=4.0,
    step=2**-7,
    saves=32,
    temperatures=(0.1, 0.3, 1.0),
    regularized_systems=("separated", "chaos"),
    regularized_cells=48,
    regularized_time=100.0,
    quick_compilation=True,
)
TINY = replace(
    SMALL,
    cells=24,
    particles=16,
    meshes=(12, 24),
    steepness=(0.25, 4.0),
    time=0.25,
    step=2**-6,
    saves=4,
    temperatures=(0.1, 0.2),
    regularized_cells=16,
    regularized_time=1.0,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run("formulations", __doc__.splitlines()[0], PRESETS, FIGURES, "pairs.figures:PairFigures")
