"""Networks as pairs (rho, H): three systems of the survey beside gradient descent, and two regularizations.

Small by default (all figures within two minutes on two cores); `--preset paper` has finer grids, longer runs.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision
from _lab.program import run

FIGURES = ("systems", "descent", "increase", "regularized")


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment."""

    cells: Count  # cells of the line
    particles: Count  # particles, and their labels
    meshes: tuple[Count, ...]  # cells of the convergence study; each costs a compilation
    steepness: tuple[Positive, ...]  # kappa of starts H_0 = 2 + 3 tanh(kappa (theta + 1)), calm one first
    time: Positive  # end, in flow time
    step: Positive  # flow time of an iteration
    saves: Count  # saved times
    temperatures: tuple[Positive, ...]  # of the regularized systems
    regularized_systems: tuple[Literal["separated", "transported", "chaos"], ...]  # which are regularized
    regularized_cells: Count  # their cells
    regularized_time: Positive  # their end
    precision: Precision  # number format
    quick_compilation: bool = False  # compile small programs in half the time, to run a little slower


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
    run(__file__, __doc__, PRESETS, FIGURES)
