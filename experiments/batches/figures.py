"""The figures of the experiment."""

import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from mfjax import plot

from .runs import SAMPLINGS, BatchRuns


class Figures(Gallery):
    """A method for each figure returns it and what to look for in it."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.runs = BatchRuns(self.records)

    def mean(self):
        """How far the mean of stochastic gradient descent is from the flow, beside its expansion."""
        fig, axes = plot.figure(1, len(SAMPLINGS), height=2.8)
        for i, (ax, name) in enumerate(zip(axes.flat, SAMPLINGS, strict=True)):
            expected, data = self.runs.expansion(name), self.runs.mean(name)
            eps = data["eps"].values
            first = np.asarray(expected.marks["mean"], float).ravel()
            size = np.linalg.norm(first)
            ends = data.coordinates.transpose("eps", "seed", ...).values[..., -1, :]
            along = (ends - np.asarray(expected.points, float).ravel()) @ first / size
            mean, error = along.mean(axis=1), 2 * along.std(axis=1, ddof=1) / np.sqrt(along.shape[1])
            style = {"color": plot.color(i), "marker": "o", "linestyle": "", "capsize": 2}
            ax.errorbar(eps, mean, error, label="runs", **style)
            ax.plot(eps, eps * size, color=plot.color(i), linestyle="--", label="expansion")
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xlabel("step ε [flow time]")
            ax.set_ylabel("shift of the mean")
            plot.title(ax, name)
            plot.legend(ax)
        return (
            fig,
            "points within their bars (two standard errors) of the line, the closer the smaller the step",
        )

    def limit(self):
        """Distance of particles to their density, for steps of several powers of the width."""
        fig, ((ax,),) = plot.figure(1, 1, height=3.0)
        data = self.runs.widths()
        widths = data.width.values.astype(float)
        for i, beta in enumerate(self.preset.betas):
            values = data.mmd_squared.sel(beta=beta).transpose("width", "seed", "save").values[..., -1]
            mean, error = values.mean(axis=1), 2 * values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
            slope = np.polyfit(np.log(widths), np.log(mean), 1)[0]
            label = f"ε = {self.preset.first_step:g} $N^{{{beta - 1:g}}}$, slope {slope:.2f}"
            ax.errorbar(widths, mean, error, color=plot.color(i), marker="o", capsize=2, label=label)
        ax.plot(widths, mean[0] * widths[0] / widths, color="0.5", linestyle=":", label="∝ 1/N")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("particles N")
        ax.set_ylabel("MMD² to the density")
        plot.legend(ax)
        return (
            fig,
            "1/N for steps that fall like 1/N; a floor, the noise of the batches, for steps that do not fall",
        )

    def projection(self):
        """Where variable projection of batches ends, over their size and the momentum of outer weights."""
        fig, axes = plot.figure(1, 2, height=2.8)
        exact, data = self.runs.exact(), self.runs.projections()
        for ax, name, label in (
            (axes[0, 0], "energy", "risk / λ of all data at the end"),
            (axes[0, 1], "mmd_squared", "MMD² to the teacher at the end"),
        ):
            for i, momentum in enumerate(self.preset.momenta):
                values = data[name].sel(momentum=momentum).transpose("batch", "seed", "save").values[..., -1]
                plot.band(ax, data.batch.values, values.T, color=plot.color(i), label=f"m = {momentum:g}")
            ax.axhline(float(exact[name].values[..., -1].mean()), color="k", linestyle="--", label="all data")
            ax.set_xscale("log", base=2)
            ax.set_xlabel("batch size")
            ax.set_ylabel(label)
        plot.legend(axes[0, 0])
        return fig, "small batches are biased, and momentum averages them; it lags where it is long"
