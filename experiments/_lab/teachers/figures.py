"""What the figures of the experiments share: the order of work, and curves along one parameter."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.teachers.laboratory import Laboratory
from _lab.teachers.series import BIASED, GAMMA, LAM, UNBIASED
from mfjax import plot, problems
from mfjax.measures import Particles

NAMES = {BIASED: "biased f = t²/2", UNBIASED: "unbiased f = (t − 1)²/2"}
DASHES = {BIASED: "--", UNBIASED: "-"}
REGULARIZERS = [(NAMES[center], {"linestyle": DASHES[center]}) for center in (BIASED, UNBIASED)]


class Line(NamedTuple):
    """Runs over all seeds, and how they are drawn."""

    runs: Any
    color: Any
    dash: str = "-"


class TeacherFigures(Gallery):
    """The figures of a teacher-student experiment."""

    # Recorded distances and what they are called.
    distances: ClassVar[dict[str, str]] = {"mmd_squared": "MMD to teacher"}

    # The runs behind the figures.
    laboratory_type: ClassVar[type[Laboratory]]

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.laboratory = self.laboratory_type(self.records)

    def identify(self):
        """What the features of the laboratory cannot see."""
        return self.laboratory.identifiability()

    @property
    def width_entries(self) -> list[tuple[str, dict[str, Any]]]:
        """Legend entries of the widths."""
        return [(f"M = {width}", {"color": self.shade(width)}) for width in self.preset.widths]

    def shade(self, width: int) -> Any:
        """The color of a width."""
        return plot.shade(self.preset.widths.index(width), len(self.preset.widths))

    def panel(
        self,
        ax: Any,
        quantity: str,
        lines: Mapping[str, Line],
        *,
        ylabel: str | None = None,
        step: float | None = None,
    ) -> None:
        """One recorded quantity of some runs over time; distances as MMD rather than its square."""
        values = {
            label: line.runs[quantity].transpose("seed", "save").values for label, line in lines.items()
        }
        if quantity in self.distances:
            values = {label: np.sqrt(squares) for label, squares in values.items()}
        plot.distances(
            ax,
            np.array([0.0, *self.preset.times]),
            values,
            ylabel=ylabel or self.distances.get(quantity, "reduced risk"),
            step=step,
            colors={label: line.color for label, line in lines.items()},
            styles={label: line.dash for label, line in lines.items()},
            legend=False,
        )

    def draw_signal(self, ax: Any, extent: float) -> None:
        """The signal of the first seed's teacher on [-extent, extent]^2."""
        lab = self.laboratory
        neurons = Particles(lab.data.teachers[lab.gammas.index(GAMMA), 0])
        signal = jax.jit(lambda x: problems.network_output(lab.features, neurons, x))
        to_signal = lambda x: signal(x.astype(lab.dtype))
        plot.signal(ax, to_signal, extent=extent, cells=81, label="teacher signal Y(x)")

    def draw_risks(self, axes: Sequence[Any]) -> None:
        """The risk for all widths, one panel for each regularizer."""
        for ax, center in zip(axes, (BIASED, UNBIASED), strict=True):
            lines = {
                f"M = {width}": Line(self.laboratory.select(center, LAM, GAMMA, width), self.shade(width))
                for width in self.preset.widths
            }
            self.panel(ax, "energy", lines, step=self.preset.step)
            plot.title(ax, f"{NAMES[center]}, {lam_is(LAM)}")
        plot.legend(axes[-1])

    def draw_widths(self, axes: Sequence[Any]) -> None:
        """The distances for all widths and both regularizers."""
        lines = {
            f"M = {width}, {NAMES[center]}": Line(
                self.laboratory.select(center, LAM, GAMMA, width), self.shade(width), DASHES[center]
            )
            for width in self.preset.widths
            for center in (BIASED, UNBIASED)
        }
        self._draw_distances(axes, lines, self.width_entries, f"{lam_is(LAM)}, γ = {GAMMA:g}")

    def draw_lams(self, axes: Sequence[Any]) -> None:
        """The distances of the widest network for all lams and both regularizers."""
        width = self.preset.widths[-1]
        lines = {
            f"{lam_is(lam)}, {NAMES[center]}": Line(
                self.laboratory.select(center, lam, GAMMA, width), plot.color(i), DASHES[center]
            )
            for i, lam in enumerate(self.preset.lams)
            for center in (BIASED, UNBIASED)
        }
        lams = [(lam_is(lam), {"color": plot.color(i)}) for i, lam in enumerate(self.preset.lams)]
        self._draw_distances(axes, lines, lams, f"M = {width}, γ = {GAMMA:g}")

    def _draw_distances(self, axes, lines, entries, fixed: str) -> None:
        for ax, quantity in zip(axes, self.distances, strict=True):
            self.panel(ax, quantity, lines, step=self.preset.step)
            plot.title(ax, fixed)
        if len(axes) == 1:
            plot.legend(axes[0], [*entries, *REGULARIZERS], loc="lower left")
        else:
            plot.legend(axes[0], entries, loc="lower left")
            plot.legend(axes[1], REGULARIZERS, loc="best")

    def draw_gammas(self, axes: Sequence[Any], lam: float, step: float) -> None:
        """Risk and distances of the widest network for all teachers, unbiased f."""
        lines = {
            f"γ = {gamma:g}" if np.isfinite(gamma) else "γ = ∞ (two atoms)": Line(
                self.laboratory.select(UNBIASED, lam, gamma, self.preset.widths[-1]), plot.color(i)
            )
            for i, gamma in enumerate(self.laboratory.gammas)
        }
        for ax, quantity in zip(axes, ("energy", *self.distances), strict=True):
            self.panel(ax, quantity, lines, step=step)
        plot.title(axes[0], f"M = {self.preset.widths[-1]}, {lam_is(lam)}")
        plot.title(axes[1], NAMES[UNBIASED])
        plot.legend(axes[0], loc="lower left")


def lam_is(value: float) -> str:
    """The label of a regularization strength, a power of ten in mathematical notation.

    >>> lam_is(1e-3), lam_is(0.5)
    ('λ = $10^{-3}$', 'λ = 0.5')
    """
    mantissa, exponent = f"{value:e}".split("e")
    return f"λ = $10^{{{int(exponent)}}}$" if float(mantissa) == 1 else f"λ = {value:g}"
