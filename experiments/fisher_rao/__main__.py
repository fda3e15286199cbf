"""Wasserstein-Fisher-Rao flows of ReLU networks: neurons as a measure on the sphere, mode by mode.

Small by default (all figures within two minutes on two cores); `--preset paper` is larger.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision, at_least
from _lab.program import run

FIGURES = ("modes", "invisible", "neurons", "signed", "births", "decay")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the experiment."""

    degree: Count  # modes 0, ..., degree of the kernel on the circle
    cells: Count  # cells of the circle
    width: Count  # particles on the circle
    rings: Count  # polar rings of the quadrature on S^2, each of twice as many points
    amplitudes: tuple[Positive, ...]  # sizes of the perturbation of the uniform law
    time: Positive  # end of the runs near the uniform law
    teacher_time: Positive  # end of the runs that learn a teacher
    step: Positive  # flow time of an iteration
    saves: Annotated[int, at_least(2)]  # saved times
    students: Count  # neurons beside the flow of their measure
    widths: tuple[Count, ...]  # particles that are born and die
    birth_time: Positive  # end of their runs
    birth_step: Positive  # flow time of an iteration of theirs
    seeds: Count  # repetitions of theirs
    zones: Count  # particles on the zones of a sphere
    zone_degree: Count  # harmonics 0, ..., zone_degree of the kernel there
    zone_time: Positive  # end of the runs there
    zone_step: Positive  # flow time of an iteration there
    precision: Precision  # number format

    def times(self, end: float, step: float | None = None) -> tuple[float, ...]:
        """The saved times, from one `step` to `end` in equal ratios, each a number of steps."""
        step = self.step if step is None else step
        ratio = (end / step) ** (1 / (self.saves - 1))
        steps = sorted({max(1, round(ratio**i)) for i in range(self.saves)})
        return tuple(n * step for n in steps)


SMALL = Preset(
    degree=16,
    cells=128,
    width=64,
    rings=10,
    amplitudes=(1e-2, 1e-3, 1e-4),
    time=100.0,
    teacher_time=1000.0,
    step=0.2,
    saves=32,
    students=16,
    widths=(25, 100, 400),
    birth_time=8.0,
    birth_step=0.1,
    seeds=12,
    zones=96,
    zone_degree=48,
    zone_time=3000.0,
    zone_step=1.0,
    precision="float64",
)
PAPER = replace(
    SMALL,
    degree=64,
    cells=512,
    width=256,
    rings=16,
    teacher_time=10000.0,
    saves=64,
    students=32,
    widths=(25, 100, 400, 1600),
    seeds=32,
    zones=256,
    zone_degree=96,
    zone_time=10000.0,
)
TINY = replace(
    SMALL,
    degree=8,
    cells=32,
    width=24,
    rings=6,
    time=5.0,
    teacher_time=5.0,
    saves=6,
    students=4,
    widths=(10, 20),
    birth_time=1.0,
    seeds=2,
    zones=16,
    zone_degree=6,
    zone_time=20.0,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
