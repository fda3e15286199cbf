"""Kernel mean discrepancies: decay of Sobolev flows (arXiv 2603.01977), a 2-torus, MMD flows that stick.

Small by default (all figures within two minutes on two cores); `--preset paper` has larger sizes.
"""

from dataclasses import dataclass, replace

from common.program import run

# Names of the figures, and of the methods that draw them.
FIGURES = {"decay": "decay", "rates": "rates", "torus": "torus", "kernels": "kernels"}


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment; horizons are flow times."""

    # 1-D: cells, particles, saved times, and the end of a run for s = 1, 3/2, 2.
    cells: int
    width: int
    saves: int
    horizons: tuple[float, float, float]
    # 2-torus: cells and particles per axis, modes per axis that particles see, end.
    torus_cells: int
    torus_width: int
    torus_modes: int
    torus_horizon: float
    # MMD flows in the plane: particles, end, step.
    kernel_width: int
    kernel_horizon: float
    kernel_step: float
    precision: str


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
    gallery = "mean_discrepancy.figures:DiscrepancyFigures"
    run("discrepancy", __doc__.splitlines()[0], PRESETS, FIGURES, gallery)
