"""The figures of the learned schedule."""

import numpy as np

from _lab.cli import Settings
from _lab.figures import Gallery
from _lab.identifiability import relu_on_circle
from _lab.records import times_of
from mfjax import plot

from .runs import BIAS, Schedules

LEARNED, CONSTANT = plot.color(1), plot.color(0)
FINER = 4


class Figures(Gallery):
    """The figures, and the runs behind them."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.schedules = Schedules(self.records)

    def identify(self):
        """What the features cannot see."""
        return relu_on_circle([BIAS], self.preset.gamma)

    @property
    def best_lam(self) -> float:
        """The constant lam with the least mean score on the training seeds."""
        data = self.schedules.constants()
        scores = data.score.sel(seed=list(self.schedules.training)).mean("seed")
        return float(data.lam[int(np.argmin(scores.values))])

    def report(self):
        """Training and held-out scores, at the step of the learning and at a finer one."""
        ours = self.schedules
        lam = self.best_lam
        constant = ours.constants().sel(lam=lam)
        for finer in (1, FINER):
            learned = ours.scheduled(finer)
            other = constant if finer == 1 else ours.constant_finer(lam, finer)
            for name, seeds in (("training", ours.training), ("held-out", ours.held_out)):
                a, b = (data.score.sel(seed=list(seeds)).values for data in (learned, other))
                ends = [
                    np.sqrt(data.mmd_squared.sel(seed=list(seeds)).isel(save=-1).values)
                    for data in (learned, other)
                ]
                gain = a - b
                error = gain.std(ddof=1) / np.sqrt(gain.size)
                step = self.preset.step / finer
                print(
                    f"{name} seeds, step {step:g}: mean log10 MMD {a.mean():.4f} learned, "
                    f"{b.mean():.4f} best constant lam = {lam:.2e}; difference {gain.mean():+.4f} ± "
                    f"{error:.4f} (standard error), better on {np.sum(gain < 0)} of {gain.size}; MMD at the "
                    f"end {ends[0].mean():.3e} and {ends[1].mean():.3e}"
                )

    def schedule(self):
        """The schedule, the distances it gives on held-out seeds, and the scan over constant lams."""
        ours, lam = self.schedules, self.best_lam
        fig, ((left, middle, right),) = plot.figure(1, 3, height=2.6)
        held_out = list(ours.held_out)
        times = np.geomspace(ours.times[1], self.preset.time, 200)
        values = np.exp(np.interp(np.log(times), np.log(ours.knots), ours.best))
        left.loglog(times, values, color=LEARNED, label="learned")
        left.loglog(ours.knots, np.exp(ours.best), "o", markersize=4, color=LEARNED)
        left.axhline(lam, color=CONSTANT, linestyle="--", label="best constant")
        left.set(xlabel="flow time t", ylabel="regularization λ(t)")
        for axis in (left.xaxis, left.yaxis):
            plot.plain_log_ticks(axis)
        plot.legend(left)
        data, constants = ours.scheduled(), ours.constants().sel(seed=held_out)
        curves, colors, styles = {}, {}, {}
        lams = constants.lam.values
        middling = lams[-1 - len(lams) // 4]
        for label, value, color, dash in (
            (f"λ = {lams[-1]:.1g}", lams[-1], "0.55", "-."),
            (f"λ = {middling:.1g}", middling, "0.55", ":"),
            (f"best constant, {lam:.1e}", lam, CONSTANT, "--"),
        ):
            squares = constants.sel(lam=value).mmd_squared.transpose("seed", "save").values
            curves[label], colors[label], styles[label] = np.sqrt(squares), color, dash
        squares = data.sel(seed=held_out).mmd_squared.transpose("seed", "save").values
        curves["learned"], colors["learned"] = np.sqrt(squares), LEARNED
        plot.distances(middle, times_of(data), curves, spread="deviation", colors=colors, styles=styles)
        plot.plain_log_ticks(middle.xaxis)
        plot.title(middle, f"{len(held_out)} held-out seeds")
        plot.legend(middle, loc="lower left", fontsize=6.5)
        for name, seeds, dash in (("training", ours.training, "--"), ("held out", ours.held_out, "-")):
            some = list(seeds)
            scores = ours.constants().score.sel(seed=some).transpose("seed", "lam").values
            spread = "deviation" if name == "held out" else "none"
            plot.band(right, lams, scores, spread=spread, color=CONSTANT, linestyle=dash)
            level = float(data.score.sel(seed=some).mean())
            right.axhline(level, color=LEARNED, linestyle=dash)
        right.set_xscale("log")
        right.set(xlabel="constant λ", ylabel="mean of log₁₀ MMD over log t")
        entries = [
            ("constant λ", {"color": CONSTANT}),
            ("learned", {"color": LEARNED}),
            ("held out", {"linestyle": "-"}),
            ("training", {"linestyle": "--"}),
        ]
        plot.legend(right, entries, fontsize=6.5)
        return (
            fig,
            "whether the learned schedule (right, lines) lies below the lowest point of each scan",
        )

    def learning(self):
        """The loss along Adam, and the gradient against differences."""
        ours = self.schedules
        data = ours.learned
        fig, ((left, right),) = plot.figure(1, 2, height=2.5)
        looked = np.isfinite(data.held_out.values)
        steps = np.arange(data.sizes["iteration"])
        left.plot(steps, data.training, color=LEARNED, linestyle="--", label="training seeds")
        left.plot(
            steps[looked], data.held_out[looked], "o-", markersize=3, color=LEARNED, label="held-out seeds"
        )
        left.set(xlabel="iteration of Adam", ylabel="mean of log₁₀ MMD over log t")
        plot.legend(left)
        gradient, difference = ours.difference()
        error = np.max(np.abs(gradient - difference)) / np.max(np.abs(difference))
        print(f"gradient of the loss against central differences: {error:.1e} relative to the largest entry")
        right.semilogx(ours.knots, difference, "k.", markersize=7, label="central differences")
        right.semilogx(ours.knots, gradient, color=LEARNED, label="reverse mode")
        right.set(xlabel="time of the knot (flow time)", ylabel="d loss / d log λ at the knot")
        plot.plain_log_ticks(right.xaxis)
        plot.title(right, "at the first iteration")
        plot.legend(right)
        return fig, "the loss falls on held-out seeds too; reverse mode agrees with differences"
