"""A schedule lam(t) learned by gradient through whole runs, against the best constant lam.

Small by default (all figures within two minutes on two cores); `--preset paper` has more particles and seeds.
"""

from dataclasses import dataclass, replace

from common.program import run

# Names of the figures, and of the methods that draw them.
FIGURES = {
    "schedule": "schedule",
    "learning": "learning",
}


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment: `seeds` train the schedule, `held_out` others judge it."""

    width: int
    degree: int
    gamma: float
    step: float
    steps: int
    # Steps between two saved times.
    every: int
    # Knots of log lam, at times from first_knot to the end, equally spaced in log t.
    knots: int
    first_knot: float
    iterations: int
    rate: float
    # Iterations between two looks at the held-out seeds.
    look: int
    # Range and number of constant lams.
    lams: tuple[float, float]
    scan: int
    seeds: int
    held_out: int
    precision: str
    quick_compilation: bool = False

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
    run("learning", __doc__.splitlines()[0], PRESETS, FIGURES, "schedules.figures:ScheduleFigures")
