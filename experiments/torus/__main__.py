"""Variable projection of radial basis functions on the 2-torus: figures III.10 to III.14 of the thesis.

And, not in the thesis, the diffusion that is its limit, beside it.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
The kernel is the thesis' 8 exp(-|z| / 2); distances are chordal, whose square cannot be negative.
"""

import sys
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive
from _lab.program import run
from _lab.teachers.series import BIASED, GAMMA, LAM, UNBIASED, Series, Sizes

# Names of the figures, and of the methods of `figures.py` that draw them.
FIGURES = {
    "III.10": "teachers",
    "III.11": "risks",
    "III.12": "widths",
    "III.13": "lams",
    "III.14": "gammas",
    "diffusion": "diffusions",
}


@dataclass(frozen=True, kw_only=True)
class Preset(Sizes):
    """Sizes of the experiment on the torus, and its kernel amplitude exp(-|z| / scale)."""

    scale: Positive  # length in which the kernel falls by e
    amplitude: Positive  # of the kernel
    # The runs beside the diffusion begin on a lattice, for a smooth teacher.
    lattice: Count  # particles per axis
    limit_inputs: Count  # data
    limit_step: Positive  # flow time of an iteration
    cells: Count  # cells per axis of the diffusion

    @property
    def series(self) -> tuple[Series, ...]:
        """The particle runs behind the figures."""
        one, widest = (GAMMA,), self.widths[-1:]
        return (
            Series("biased-widths", BIASED, (LAM,), one, self.widths),
            Series("unbiased-widths", UNBIASED, (LAM,), one, self.widths),
            Series("biased-lams", BIASED, self.other_lams, one, widest),
            Series("unbiased-lams", UNBIASED, self.other_lams, one, widest),
            Series("atoms", UNBIASED, (LAM,), (inf,), widest),
        )


PAPER = Preset(
    inputs=4096,
    teacher_width=4096,
    widths=(32, 128, 512, 1024),
    step=2**-10,
    time=31.25,
    seeds=6,
    saves=112,
    lams=(1e-1, 1e-2, 1e-3),
    scale=2.0,
    amplitude=8.0,
    lattice=32,
    limit_inputs=4096,
    limit_step=2**-10,
    cells=64,
    precision="float32",
)
SMALL = replace(
    PAPER,
    inputs=512,
    teacher_width=1024,
    widths=(16, 48, 128),
    step=2**-8,
    time=8.0,
    seeds=2,
    saves=32,
    lattice=14,
    limit_inputs=1024,
    limit_step=2**-8,
    cells=40,
)
TINY = replace(
    SMALL,
    inputs=32,
    teacher_width=64,
    widths=(4, 8),
    step=2**-10,
    time=2**-6,
    saves=4,
    lattice=4,
    limit_inputs=32,
    limit_step=0.02,
    cells=8,
    lams=(1e-1, 1e-3),
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
