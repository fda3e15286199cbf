"""A schedule lam(t) learned by gradient through whole runs, against the best constant lam.

Small by default (all figures within two minutes on two cores); `--preset paper` has more particles and seeds.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive, Precision
from _lab.program import run

FIGURES = ("schedule", "learning")


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment: `seeds` train the schedule, `held_out` others judge it."""

    width: Count  # particles
    degree: Count  # Fourier degree of the kernel
    gamma: Positive  # concentration of the teachers
    step: Positive  # flow time of an iteration
    steps: Count  # iterations of a run
    every: Count  # iterations between two saved times
    knots: Count  # knots of log lam, equally spaced in log t
    first_knot: Positive  # time of the first knot; the last is the end
    iterations: Count  # of the optimizer
    rate: Positive  # learning rate of the optimizer
    look: Count  # iterations between two looks at the held-out seeds
    lams: tuple[Positive, Positive]  # least and greatest constant lam
    scan: Count  # number of constant lams
    seeds: Count  # seeds that train the schedule
    held_out: Count  # seeds after them, that judge it
    precision: Precision  # number format
    quick_compilation: bool = False  # compile small programs in half the time, to run a little slower

    @property
    def time(self) -> float:
        """The end."""
        return self.step * self.steps


PAPER = Preset(
    width=128,
    degree=32,
    gamma=10.0,
    step=2**-6,
    steps=512,
    every=4,
    knots=8,
    first_knot=2**-4,
    iterations=150,
    rate=0.2,
    look=10,
    lams=(1e-5, 1.0),
    scan=41,
    seeds=16,
    held_out=32,
    precision="float64",
)
SMALL = replace(
    PAPER,
    width=32,
    degree=16,
    step=2**-5,
    steps=128,
    every=4,
    knots=5,
    first_knot=2**-3,
    iterations=30,
    rate=0.3,
    look=6,
    lams=(1e-5, 1.0),
    scan=21,
    seeds=4,
    held_out=8,
    quick_compilation=True,
)
TINY = replace(
    SMALL,
    width=8,
    degree=4,
    steps=16,
    every=2,
    knots=3,
    iterations=6,
    look=3,
    scan=5,
    lams=(1e-3, 1e-1),
    seeds=2,
    held_out=2,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
