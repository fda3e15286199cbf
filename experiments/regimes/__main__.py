"""Which limit governs the training of a two-layer network: over lam, the timescale gamma, width and bias.

Small by default (all figures within two and a half minutes on two cores); `--preset paper` refines every
axis. Kernel and teacher are those of infinitely many inputs, so that rates and distances have no sampling
error of the data. Rates, limits and bounds are computed in float64 whatever `--precision` says.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision
from _lab.program import run

FIGURES = ("regimes", "rates", "limits", "bounds", "minimum", "vanishing")
Decades = tuple[int, int, Count]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the experiment. Powers of ten are written as (lowest, highest, number)."""

    rate_lams: Decades  # lams of the rates near a uniform teacher: lowest and highest power of ten, number
    map_lams: Decades  # lams of the map of rates
    map_gammas: Decades  # timescales of the map of rates
    large_lams: Decades  # lams of the distances to the limits
    gammas: Decades  # timescales of the distances to the limits
    degree: Count  # Fourier degree of the kernel
    lattice: Count  # evenly spaced particles
    width_lams: Decades  # lams of random particles
    widths: tuple[Count, ...]  # numbers of random particles
    seeds: Count  # repetitions of theirs
    cells: Count  # cells of the circle
    bound_lams: tuple[Positive, ...]  # lams of the bounds
    vanishing_lams: Decades  # lams of the limit lam -> 0, for other orders of f and a signed teacher
    minimum_widths: tuple[Count, ...]  # particles of the runs to the minimum
    minimum_time: Positive  # their end
    spikes_width: Count  # particles of the deconvolution on the 2-torus
    spikes_cells: Count  # its cells per axis
    precision: Precision  # number format of the runs of particles
    quick_compilation: bool  # compile small programs in half the time, to run a little slower


SMALL = Preset(
    rate_lams=(-5, 2, 15),
    map_lams=(-2, 1, 5),
    map_gammas=(-2, 1, 5),
    large_lams=(0, 3, 4),
    gammas=(1, 3, 5),
    degree=10,
    lattice=64,
    width_lams=(-4, 0, 5),
    widths=(8, 24, 64),
    seeds=6,
    cells=128,
    bound_lams=(1e-3, 1e-2, 1e-1),
    vanishing_lams=(-5, -2, 4),
    minimum_widths=(4, 16, 64),
    minimum_time=200.0,
    spikes_width=32,
    spikes_cells=40,
    precision="float64",
    quick_compilation=True,
)
PAPER = replace(
    SMALL,
    rate_lams=(-6, 3, 37),
    map_lams=(-3, 1, 13),
    map_gammas=(-2, 2, 13),
    large_lams=(0, 4, 9),
    gammas=(1, 4, 7),
    degree=32,
    lattice=256,
    width_lams=(-5, 0, 6),
    widths=(8, 16, 32, 64, 128),
    seeds=8,
    cells=512,
    vanishing_lams=(-6, -2, 9),
    minimum_widths=(4, 16, 64, 256),
    minimum_time=1000.0,
    spikes_width=128,
    spikes_cells=64,
    quick_compilation=False,
)
TINY = replace(
    SMALL,
    rate_lams=(-3, 1, 3),
    map_lams=(-1, 1, 2),
    map_gammas=(-1, 1, 2),
    large_lams=(1, 2, 2),
    gammas=(1, 2, 2),
    degree=6,
    lattice=16,
    width_lams=(-3, -1, 2),
    widths=(4, 8),
    seeds=2,
    cells=32,
    bound_lams=(1e-2, 1e-1),
    vanishing_lams=(-3, -2, 2),
    minimum_widths=(4, 8),
    minimum_time=1.0,
    spikes_width=8,
    spikes_cells=16,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
