"""What do random batches of the data change: in the mean of particles, in their limit, in outer weights?

Stochastic gradient descent of a few neurons beside the expansion of its mean in the step; of many, beside
the partial differential equation, with steps eps = eps_0 N^(beta - 1), and with batches for all particles
or for each, real ones or their Gaussian form; what falling steps, averages and reduced variance make of the
noise at a minimum; and variable projection whose outer weights are those of a batch, or averaged over batches
(thesis III.46), over batch size and momentum. All figures take about four minutes on two cores.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Check, Count, Positive
from _lab.program import run

# Of what is drawn over the steps, or kept of them, there are so many equal parts.
Descent = Annotated[int, Check("must be a positive multiple of 64", lambda n: n > 0 and n % 64 == 0)]
Iterations = Annotated[int, Check("must be a positive multiple of 8", lambda n: n > 0 and n % 8 == 0)]
Momentum = Annotated[float, Check("must be at least 0 and less than 1", lambda value: 0 <= value < 1)]


@dataclass(frozen=True)
class Preset:
    """Sizes of the experiment; each is an option of the command line."""

    steps: tuple[Count, ...] = (16, 32, 64, 128)  # steps to t = 1 of the mean of few neurons
    seeds: Count = 1024  # repetitions of theirs
    widths: tuple[Count, ...] = (16, 64, 256, 1024)  # particles beside the partial differential equation
    betas: tuple[float, ...] = (0.0, 0.5, 1.0)  # powers of the width in the step
    first_step: Positive = 0.5  # eps_0, the step of one particle
    repeats: Count = 24  # repetitions of each width
    cells: Count = 256  # cells of the partial differential equation
    noise_step: Positive = 2**-6  # eps_0 where noise is compared
    noise_widths: tuple[Count, ...] = (8, 32, 128, 512)  # particles where it is compared
    noise_seeds: Count = 64  # repetitions of each width and kind of noise
    descent_steps: Descent = 4096  # steps to the minimum of a linear model
    descent_seeds: Count = 16  # repetitions of theirs
    inputs: Count = 1024  # data of variable projection
    projected: Count = 48  # its particles
    batches: tuple[Count, ...] = (16, 64, 256, 1024)  # its batch sizes
    momenta: tuple[Momentum, ...] = (0.0, 0.5, 0.9, 0.99)  # its momenta
    lam: Positive = 1e-2  # its regularization strength
    noise: Positive = 0.2  # deviation of the noise of its targets
    iterations: Iterations = 1024  # its steps
    tau: Positive = 2**-7  # flow time of each
    starts: Count = 4  # repetitions of each

    def faults(self):
        """(field, what is wrong with it beside the others)."""
        if max(self.batches) > self.inputs:
            yield "batches", f"must be at most --inputs, {self.inputs}, got {max(self.batches)}"


PAPER = Preset(
    seeds=8192,
    widths=(16, 64, 256, 1024, 4096),
    repeats=48,
    noise_step=2**-7,
    noise_widths=(8, 32, 128, 512, 2048),
    noise_seeds=256,
    descent_seeds=64,
    inputs=4096,
    projected=128,
    batches=(16, 64, 256, 1024, 4096),
    iterations=4096,
    starts=6,
)
TINY = Preset(
    steps=(8, 16),
    seeds=4,
    widths=(4, 16),
    repeats=2,
    cells=16,
    noise_widths=(4, 16),
    noise_seeds=3,
    descent_steps=64,
    descent_seeds=2,
    inputs=32,
    projected=6,
    batches=(8, 32),
    momenta=(0.0, 0.9),
    iterations=8,
    starts=2,
)
FIGURES = ("mean", "limit", "noise", "projection")

if __name__ == "__main__":
    run(__file__, __doc__, {"small": Preset(), "paper": PAPER, "tiny": TINY}, figures=FIGURES)
