"""How many outer solves a gradient flow of variable projection takes: work against precision, and lambda.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision
from _lab.program import run

FIGURES = ("work_precision",)


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment: a seed is inputs, teacher neurons and a start."""

    inputs: Count  # data
    teacher_width: Count  # neurons of the teacher
    width: Count  # particles
    gamma: Positive  # concentration of the teacher
    lam: Positive  # regularization of the first panel
    time: Positive  # the end, in flow time
    reference: Positive  # flow time of an iteration of the reference
    seeds: Count  # repetitions
    steps: tuple[Count, ...]  # numbers of steps of the fixed schemes
    tolerances: tuple[Positive, ...]  # tolerances of the adaptive schemes
    lams: tuple[Positive, ...]  # lams of the second panel, largest first
    precision: Precision  # number format
    quick_compilation: bool = False  # compile small programs in half the time, to run a little slower


PAPER = Preset(
    inputs=4096,
    teacher_width=4096,
    width=128,
    gamma=100.0,
    lam=1e-3,
    time=10.0,
    reference=2**-9,
    seeds=3,
    steps=(64, 128, 256, 512, 1024),
    tolerances=(1e-2, 3e-3, 1e-3, 5e-4, 3e-4),
    lams=(1e-2, 3e-3, 1e-3, 3e-4, 1e-4),
    precision="float64",
)
SMALL = replace(
    PAPER,
    inputs=1024,
    teacher_width=1024,
    width=32,
    time=4.0,
    reference=2**-8,
    seeds=2,
    steps=(32, 64, 128, 256, 512),
    lams=(1e-2, 1e-3, 1e-4),
    quick_compilation=True,
)
TINY = replace(
    SMALL,
    inputs=32,
    teacher_width=16,
    width=6,
    time=0.25,
    reference=2**-6,
    steps=(4, 8),
    tolerances=(1e-2, 1e-3),
    lams=(1e-1, 1e-2),
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
