"""Mean-field Langevin dynamics of tanh networks: decay, Gibbs measures, contraction, chaos, vanishing noise.

V^sigma(m) = F(m) + sigma^2 / 2 int m log m, F the regularized risk of a one-neuron tanh network, and of a
two-layer teacher and student. Small by default (all figures within two minutes on two cores).
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _lab.cli import Count, Finite, Positive, Precision
from _lab.program import run

FIGURES = ("decay", "densities", "contraction", "vanishing-noise", "chaos", "two-layers")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the experiment. `step` and the times are flow times, widths numbers of particles."""

    lam: Positive  # regularization of one neuron
    plane_lam: Positive  # regularization of two layers
    gain: Positive  # size of the data of one neuron
    start: Finite  # center of one initial law; the other is its reflection
    sigmas: tuple[Positive, ...]  # noises of one neuron
    cells: Count  # cells of the line
    tolerances: tuple[Positive, Positive]  # relative and absolute, of the runs of densities
    time: Positive  # end of the runs of one neuron
    saves: Count  # saved times
    step: Positive  # flow time of an iteration
    width: Count  # particles
    seeds: Count  # repetitions
    chaos_sigma: Positive  # noise of the figure of chaos
    chaos_widths: tuple[Count, ...]  # numbers of particles of that figure
    chaos_seeds: Count  # repetitions of that figure
    plane_sigmas: tuple[Positive, ...]  # noises of two layers
    plane_cells: Count  # cells per axis of the plane
    plane_time: Positive  # end of the runs of two layers
    plane_linear_cells: Count  # cells per axis at which the flow of two layers is linearized, a dense problem
    halvings: tuple[Positive, ...]  # flow times in which annealed noise halves; 1e9: it stays
    noises: tuple[Positive, ...]  # noises that vanish
    noise_cells: Count  # cells per axis of two layers for them
    precision: Precision  # number format

    @property
    def times(self) -> list[float]:
        """The saved flow times of one neuron: whole steps, closer at the start."""
        return self._spaced(self.time)

    @property
    def plane_times(self) -> list[float]:
        """The saved flow times of two layers."""
        return self._spaced(self.plane_time)

    def _spaced(self, end: float) -> list[float]:
        steps = {round(end / self.step * (i / self.saves) ** 2) for i in range(1, self.saves + 1)}
        return [k * self.step for k in sorted(steps - {0})]


PAPER = Preset(
    lam=0.2,
    plane_lam=0.1,
    gain=2.0,
    start=1.5,
    sigmas=(1.0, 0.3, 0.1),
    cells=512,
    tolerances=(1e-7, 1e-10),
    time=40.0,
    saves=96,
    step=2**-5,
    width=2048,
    seeds=8,
    chaos_sigma=0.3,
    chaos_widths=(16, 64, 256, 1024, 4096),
    chaos_seeds=32,
    plane_sigmas=(1.0, 0.3),
    plane_cells=96,
    plane_time=60.0,
    plane_linear_cells=32,
    halvings=(2.0, 4.0, 8.0, 1e9),
    noises=tuple(10 ** (-i / 12) for i in range(25)),
    noise_cells=384,
    precision="float64",
)
SMALL = replace(
    PAPER,
    cells=384,
    tolerances=(1e-6, 1e-9),
    time=24.0,
    saves=48,
    step=2**-3,
    width=256,
    seeds=4,
    chaos_widths=(16, 64, 256, 1024),
    chaos_seeds=12,
    plane_cells=40,
    plane_time=32.0,
    plane_linear_cells=20,
    halvings=(3.0, 6.0, 1e9),
    noises=tuple(10 ** (-i / 6) for i in range(13)),
    noise_cells=128,
)
# The cells stay: without data the log-Sobolev bound is attained, and a coarse mesh would be above it.
TINY = replace(
    SMALL,
    time=8.0,
    saves=12,
    step=2**-3,
    width=16,
    seeds=2,
    chaos_widths=(8, 32),
    chaos_seeds=2,
    plane_cells=12,
    plane_time=4.0,
    plane_linear_cells=8,
    halvings=(3.0, 1e9),
    noises=(1.0, 0.3, 0.1),
    noise_cells=24,
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run(__file__, __doc__, PRESETS, FIGURES)
