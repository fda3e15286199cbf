"""How fast do particles find their teacher, and how close do they come, at each strength of regularization?

Copy this folder and change three things: the axes here, the model and the figure in `figures.py`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Positive
from _lab.program import run


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment; each is an option of the command line."""

    lams: tuple[Positive, ...] = (1.0, 1e-1, 1e-2)  # regularization strengths, one axis
    seeds: Count = 4  # repetitions, the other axis
    width: Count = 64  # particles
    inputs: Count = 256  # data
    step: Positive = 2**-7  # flow time of an iteration
    saves: Count = 64  # saved times, 32 iterations apart


PAPER, TINY = Preset(seeds=8, width=512, inputs=4096), Preset(seeds=2, width=8, inputs=32, saves=4)

if __name__ == "__main__":
    run(__file__, __doc__, {"small": Preset(), "paper": PAPER, "tiny": TINY}, figures=("distance",))
