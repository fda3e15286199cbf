"""The work-precision diagram."""

import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.identifiability import relu_on_circle
from mfjax import plot

from .runs import ADAPTIVE, FIXED, Precision

MARKERS = ("o", "s", "^", "D", "v")


class Figures(Gallery):
    """The diagram, and the runs behind it."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.runs = Precision(self.records)

    def identify(self):
        """What the features cannot see."""
        return relu_on_circle([0.0], self.preset.gamma)

    def work_precision(self):
        """Error against solves, and solves against lam."""
        fig, ((left, right),) = plot.figure(1, 2, height=2.9)
        reference = self.runs.reference()
        for index, name in enumerate([*FIXED, *ADAPTIVE]):
            fixed = name in FIXED
            data = self.runs.fixed(name) if fixed else self.runs.adaptive(name)
            axis = "dt" if fixed else "rtol"
            end = data[["mmd_squared", "evaluations"]].isel(save=-1).transpose(axis, "seed")
            error = np.sqrt(np.mean((end.mmd_squared.values / reference - 1) ** 2, axis=1))
            solves = end.evaluations.values.mean(axis=1)
            style = {"color": plot.color(index), "marker": MARKERS[index], "markersize": 3.5}
            # Unstable steps and the failures they end in are far above the rest.
            shown = error < 1
            left.loglog(solves[shown], error[shown], label=name, **style)
            for value, *row in zip(end[axis].values, solves, error, strict=True):
                print(f"{name}, {axis} {value:.1e}: {row[0]:.0f} solves, relative error {row[1]:.1e}")
            if not fixed:
                self._over_lams(right, name, style)
        for axes in (left, right):
            plot.plain_log_ticks(axes.xaxis)
        left.set(xlabel="outer solves, rejected steps included", ylabel="relative error of MMD² at the end")
        right.set(xlabel="regularization λ", ylabel="outer solves")
        right.set_ylim(top=2 * right.get_ylim()[1])
        plot.plain_log_ticks(right.yaxis)
        plot.legend(left, loc="upper right", fontsize=7)
        plot.legend(right, loc="upper right", fontsize=7)
        plot.title(left, f"λ = {self.preset.lam:g}, {self.preset.width} particles, t = {self.preset.time:g}")
        plot.title(right, f"tolerance {self.preset.tolerances[-1]:g}")
        return fig, "the scheme whose curve is lowest at few solves, and the slopes in λ"

    def _over_lams(self, axes, name, style):
        data = self.runs.over_lams(name)
        solves = data.evaluations.isel(save=-1).transpose("lam", "seed").values.mean(axis=1)
        slope = np.polyfit(np.log(data.lam.values), np.log(solves), 1)[0]
        axes.loglog(data.lam.values, solves, label=f"{name}, $\\lambda^{{{slope:.2f}}}$", **style)
        print(f"{name}: solves {', '.join(f'{n:.0f}' for n in solves)} over lam, exponent {slope:.3f}")
