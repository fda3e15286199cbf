"""Kernel mean discrepancies: decay of Sobolev flows (arXiv 2603.01977), a 2-torus, MMD flows that stick.

Small by default (all figures within two minutes on two cores); `--preset paper` has larger sizes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision
from _lab.program import run

FIGURES = ("decay", "rates", "torus", "kernels")


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment; horizons are flow times."""

    cells: Count  # cells of the circle
    width: Count  # particles on the circle
    saves: Count  # saved times
    horizons: tuple[Positive, Positive, Positive]  # ends of the runs with s = 1, 3/2, 2
    torus_cells: Count  # cells per axis of the 2-torus
    torus_width: Count  # particles per axis of the 2-torus
    torus_modes: Count  # modes per axis that its particles see
    torus_horizon: Positive  # end of its runs
    kernel_width: Count  # particles of MMD flows in the plane
    kernel_horizon: Positive  # their end
    kernel_step: Positive  # their flow time of an iteration
    precision: Precision  # number format


PAPER = Preset(
    cells=2048,
    width=256,
    saves=97,
    horizons=(10.0, 2e3, 1e6),
    torus_cells=64,
    torus_width=24,
    torus_modes=16,
    torus_horizon=3e3,
    kernel_width=256,
    kernel_horizon=400.0,
    kernel_step=0.02,
    precision="float64",
)
SMALL = replace(
    PAPER,
    cells=384,
    width=48,
    saves=49,
    horizons=(8.0, 400.0, 1e5),
    torus_cells=24,
    torus_width=12,
    torus_modes=6,
    torus_horizon=1e3,
    kernel_width=48,
    kernel_horizon=60.0,
    kernel_step=0.05,
)
TINY = replace(
    SMALL,
    # Enough for the jump, where the bound at s = 1 is attained.
    cells=128,
    width=8,
    saves=9,
    horizons=(2.0, 20.0, 200.0),
    torus_cells=8,
    torus_width=4,
    torus_modes=2,
    torus_horizon=2.0,
    kernel_width=6,
    kernel_horizon=0.5,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
