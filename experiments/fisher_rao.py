"""Wasserstein-Fisher-Rao flows of ReLU networks: neurons as a measure on the sphere, mode by mode.

Small by default (all figures within two minutes on two cores); `--preset paper` is larger.
"""

from dataclasses import dataclass, replace

from common.program import run

# Names of the figures, and of the methods that draw them.
FIGURES = {
    "modes": "modes",
    "invisible": "invisible",
    "neurons": "neurons",
    "signed": "signed",
    "births": "births",
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of the experiment."""

    # Modes 0, ..., degree of the kernel on the circle; cells and particles there.
    degree: int
    cells: int
    width: int
    # Polar rings of the quadrature on S^2, each of twice as many points.
    rings: int
    # Sizes of the perturbation of the uniform law.
    amplitudes: tuple[float, ...]
    time: float
    teacher_time: float
    step: float
    saves: int
    # Neurons beside the flow of their measure.
    students: int
    # Particles that are born and die, repeated over the seeds.
    widths: tuple[int, ...]
    birth_time: float
    birth_step: float
    seeds: int
    precision: str

    def times(self, end: float) -> tuple[float, ...]:
        """The saved times, from one step to `end` in equal ratios, each a number of steps."""
        ratio = (end / self.step) ** (1 / (self.saves - 1))
        steps = sorted({max(1, round(ratio**i)) for i in range(self.saves)})
        return tuple(n * self.step for n in steps)


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
)
PRESETS = {"small": SMALL, "paper": PAPER, "tiny": TINY}


if __name__ == "__main__":
    run("fisher_rao", __doc__.splitlines()[0], PRESETS, FIGURES, "neurons.figures:NeuronFigures")
