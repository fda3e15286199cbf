"""How many outer solves a gradient flow of variable projection takes: work against precision, and lambda.

Small by default (all figures within two minutes on two cores); `--preset paper` has the published sizes.
"""

from dataclasses import dataclass, replace

from common.program import run

# Names of the figures, and of the methods that draw them.
FIGURES = {
    "work_precision": "work_precision",
}


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment: a seed is inputs, teacher neurons and a start."""

    inputs: int
    teacher_width: int
    width: int
    gamma: float
    lam: float
    # The end, in flow time, and the step of the reference.
    time: float
    reference: float
    seeds: int
    # Numbers of steps of the fixed schemes, and tolerances of the adaptive ones.
    steps: tuple[int, ...]
    tolerances: tuple[float, ...]
    # The lams of the second panel, largest first.
    lams: tuple[float, ...]
    precision: str
    quick_compilation: bool = False


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
    run("work_precision", __doc__.splitlines()[0], PRESETS, FIGURES, "precision.figures:PrecisionFigures")
