"""The figures of the experiment."""

import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from mfjax import plot

from .runs import DESCENTS, NOISES, SAMPLINGS, BatchRuns


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

    def noise(self):
        """What is left of the noise of batches as networks grow, and on the way to a minimum."""
        fig, axes = plot.figure(1, 2, height=3.4)
        left, right = axes[0]
        data, preset = self.runs.noises(), self.preset
        widths = data.width.values.astype(float)
        for i, name in enumerate(NOISES):
            values = data.wave.sel(noise=name).transpose("width", "seed", "save").values[..., -1]
            deviation = values.std(axis=1, ddof=1)
            # Of a normal sample of this size.
            error = 2 * deviation / np.sqrt(2 * (values.shape[1] - 1))
            slope = np.polyfit(np.log(widths), np.log(deviation), 1)[0]
            style = {
                "linestyle": "--" if "Gaussian" in name else "-",
                "marker": "s" if "Gaussian" in name else "o",
            }
            left.errorbar(
                widths,
                deviation,
                error,
                color=plot.color(i),
                capsize=2,
                label=f"{name}: {slope:.2f}",
                **style,
            )
        left.set_xscale("log")
        left.set_yscale("log")
        # Room for the legend.
        left.set_ylim(bottom=float(left.get_ylim()[0]) / 12)
        left.set_xlabel("particles N")
        left.set_ylabel("deviation over seeds of ∫ cos(2πx) dμ")
        plot.title(left, "slopes in N")
        for i, name in enumerate(DESCENTS):
            values = self.runs.descent(name).squared_error.transpose("seed", "save").values[:, 1:]
            numbers = (1 + np.arange(values.shape[1])) * (preset.descent_steps // values.shape[1])
            begin = values.shape[1] // 2 if name.startswith("average") else 0
            plot.band(right, numbers[begin:], values[:, begin:], color=plot.color(i), label=name)
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlabel("steps")
        right.set_ylabel("squared distance to the minimizer")
        plot.title(right, "a linear model, one datum a step")
        plot.legend(left, loc="lower left")
        plot.legend(right, loc="lower right", bbox_to_anchor=(1.02, 0.3))
        return (
            fig,
            "a batch for all leaves its noise however wide the network, batches for each N^-1/2 of it, steps "
            "like N^-1/2 leave N^-1/4; at a minimum reduced variance alone falls to rounding, in straight "
            "lines of the logarithm",
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
