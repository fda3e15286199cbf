"""Variable projection on the circle: figures III.1 to III.7 of the thesis, and what the features cannot see.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive
from _lab.program import run
from _lab.teachers.series import BIASED, GAMMA, LAM, UNBIASED, Series, Sizes

# Names of the figures, and of the methods of `figures.py` that draw them.
FIGURES = {
    "III.1": "teachers",
    "III.2": "densities",
    "III.3": "risks",
    "III.4": "widths",
    "III.5": "lams",
    "III.6": "gammas",
    "III.7": "timescales",
    "identifiability": "identifiability",
    "overview": "overview",
}


@dataclass(frozen=True, kw_only=True)
class Preset(Sizes):
    """Sizes of the experiment on the circle."""

    density_width: Count  # particles of the run whose density is drawn
    bandwidth: Positive  # of the kernel that smooths the drawn density
    # Sharp teachers, the least lam and the two-timescale flow need smaller steps.
    sharp_step: Positive  # flow time of an iteration for sharp teachers and the least lam
    timescale_step: Positive  # flow time of an iteration with two timescales
    cells: Count  # cells of the diffusion
    timescale_lams: tuple[Positive, ...]  # lams of the comparison with two timescales
    gammas: tuple[Positive, ...]  # concentrations of the teachers
    population_lams: tuple[Positive, ...]  # lams of the runs with infinitely many inputs
    population_degree: Count  # Fourier degree of their kernel
    population_width: Count  # their particles
    population_step: Positive  # their flow time of an iteration

    # Iterations k at step 2^-10 at which the thesis shows densities (III.2).
    snapshots = tuple(k / 1024 for k in (100, 1000, 5000, 10000))

    @property
    def series(self) -> tuple[Series, ...]:
        """The particle runs behind the figures."""
        one, widest, least = (GAMMA,), self.widths[-1:], (min(self.lams),)
        slow, sharp = self.timescale_lams, self.sharp_step
        # The published eta = lam M at the published step, whatever the step here.
        follow = {"step": self.timescale_step, "timescale": PAPER.step}
        return (
            Series("biased-widths", BIASED, (LAM,), one, self.widths),
            Series("unbiased-widths", UNBIASED, slow, one, self.widths),
            Series("biased-lams", BIASED, self.other_lams, one, widest, step=sharp),
            Series("unbiased-gammas", UNBIASED, least, self.gammas, widest, step=sharp),
            Series("two-timescale", UNBIASED, slow, one, self.widths, **follow),
            Series("density", BIASED, least, one, (self.density_width,), step=sharp),
        )


PAPER = Preset(
    inputs=4096,
    teacher_width=4096,
    widths=(32, 128, 512, 1024),
    density_width=1024,
    bandwidth=0.03,
    step=2**-10,
    sharp_step=2**-10,
    timescale_step=2**-10,
    time=31.25,
    seeds=6,
    saves=112,
    cells=4096,
    lams=(1e-1, 1e-2, 1e-3, 1e-4),
    timescale_lams=(1e-1, 1e-2, 1e-3, 1e-4),
    gammas=(10.0, 100.0, 1000.0),
    population_lams=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6),
    population_degree=128,
    population_width=512,
    population_step=2**-12,
    precision="float32",
)
SMALL = replace(
    PAPER,
    inputs=256,
    widths=(16, 48, 128),
    density_width=128,
    bandwidth=0.06,
    step=2**-6,
    sharp_step=2**-7,
    timescale_step=2**-9,
    time=15.0,
    seeds=2,
    saves=32,
    cells=1024,
    timescale_lams=(1e-1, 1e-2, 1e-3),
    # gamma = 1000 needs the published step.
    gammas=(10.0, 100.0, 300.0),
    population_lams=(1e-2, 1e-3, 1e-4, 1e-5),
    population_degree=40,
    population_width=128,
    population_step=2**-8,
    precision="float32",
)
TINY = replace(
    SMALL,
    inputs=32,
    teacher_width=64,
    widths=(4, 8),
    density_width=8,
    step=2**-6,
    sharp_step=2**-6,
    time=0.5,
    saves=6,
    cells=64,
    lams=(1e-1, 1e-3, 1e-4),
    timescale_lams=(1e-1, 1e-3),
    gammas=(10.0, 100.0),
    population_lams=(1e-2, 1e-3),
    population_degree=8,
    population_width=32,
    population_step=2**-6,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
