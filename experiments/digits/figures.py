"""The figures of training on real data, and the table of scores."""

import csv
import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from _lab.cli import Settings
from _lab.figures import Gallery
from mfjax import plot
from mfjax._files import write_text
from mfjax.plot.canvas import colorbar

from .baselines import Fitted, fit, models
from .methods import Network
from .runs import Training

# Neurons that are drawn, and columns of a table that are named in the figure.
NEURONS, NAMED = 10, 16
# The relative rise of an energy that falls in short steps, beyond rounding in single precision.
RISE = 1e-3


class Row(NamedTuple):
    """One line of the table of scores."""

    title: str
    score: np.ndarray
    seconds: float


class Figures(Gallery):
    """The figures; they draw what `Training` runs."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.training = Training(self.records)
        self._baselines: list[Fitted] = []

    @property
    def baselines(self) -> list[Fitted]:
        """The estimators of scikit-learn, fitted once."""
        if not self._baselines:
            found = models(bool(self.training.table.classes))
            self._baselines = [fit(self.training, model) for model in found]
        return self._baselines

    def curves(self):
        """Risk and score on training and test data over flow time, in bands over the splits."""
        training, classes = self.training, bool(self.training.table.classes)
        losses = {"Square": "square loss", "Softmax": "softmax loss"}
        shown = [name for name in losses if any(self.loss(m) == name for m in training.methods)]
        fig, axes = plot.figure(2, len(shown), height=4.6, sharex="col", sharey="row")
        for index, (name, method) in enumerate(training.methods.items()):
            trained, times = training.train(name), training.times(method)
            column = shown.index(self.loss(name))
            for part, dash in (("test", "-"), ("train", "--")):
                risk, error = trained.curves[f"{part}_risk"], self.errors(name, part)
                label = method.title if part == "test" else None
                style = {"color": plot.color(index), "linestyle": dash, "label": label}
                for ax, values in zip(axes[:, column], (risk, error), strict=True):
                    plot.band(ax, times, values, **style)
            stop = {"color": plot.color(index), "marker": "o", "ms": 2.5, "linestyle": ""}
            axes[1, column].plot(times[trained.save], 1 - trained.score, **stop)
        for ax, name in zip(axes[0], shown, strict=True):
            plot.title(ax, losses[name])
            plot.legend(ax, loc="upper right")
        for ax in axes[-1]:
            ax.set_xlabel("flow time t")
        for ax in axes.flat:
            ax.set_yscale("log")
        rows = training.splits.final.at(0)
        least = 1 / max(len(rows.fit), len(rows.seen))
        smallest = min(
            self.errors(name, part).min() for name in training.methods for part in ("test", "train")
        )
        if smallest < 0.5 * least:
            # Nothing wrong, which a logarithm does not show; no other share is below one datum.
            for ax in axes[1]:
                ax.set_yscale("symlog", linthresh=least, linscale=0.3)
                ax.set_yticks([0, *10.0 ** np.arange(np.ceil(np.log10(least)), 1)])
                ax.set_ylim(bottom=0)
        for ax in axes[:, 0]:
            plot.plain_log_ticks(ax.yaxis)
        entries = [("test", {}), ("training", {"linestyle": "--"})]
        entries += [("stopped at", {"linestyle": "", "marker": "o", "markersize": 2.5})]
        plot.legend(axes[1, 0], entries, loc="upper right")
        axes[0, 0].set_ylabel("risk")
        axes[1, 0].set_ylabel("share of wrong classes" if classes else "1 - R²")
        return fig, "dots are where held-out data stop training: has test error settled by then?"

    def errors(self, name: str, part: str) -> np.ndarray:
        """What the score of a method lacks to one (seed, save), never less than zero by rounding."""
        return np.maximum(1 - self.training.train(name).curves[f"{part}_score"], 0)

    def loss(self, name: str) -> str:
        """The class of the loss of a method."""
        return type(self.training.methods[name].loss).__name__

    def rows(self) -> list[Row]:
        """All methods and estimators, with their test scores."""
        ours = [(method.title, self.training.train(name)) for name, method in self.training.methods.items()]
        rows = [Row(title, trained.score, float(np.mean(trained.seconds))) for title, trained in ours]
        return rows + [Row(found.title, found.score, found.seconds) for found in self.baselines]

    def accuracy(self):
        """The test score of every method on every split, beside the time that one training takes."""
        rows, what = self.rows(), self.training.score_name
        fig, ((left, right),) = plot.figure(1, 2, height=0.9 + 0.28 * len(rows), sharey=True)
        for index, row in enumerate(rows):
            ours = index < len(self.training.methods)
            style = {"color": plot.color(index) if ours else "0.35"}
            left.plot(row.score, np.full(row.score.shape, index), "o", ms=3, alpha=0.45, mew=0, **style)
            spread = row.score.std(ddof=1) if len(row.score) > 1 else 0.0
            left.errorbar(row.score.mean(), index, xerr=spread, fmt="|", ms=9, capsize=3, **style)
            right.plot(row.seconds, index, "s", ms=4, **style)
        left.set_yticks(range(len(rows)), [row.title for row in rows])
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_xlabel(f"test {what}: splits, mean and deviation")
        right.set_xscale("log")
        right.set_xlabel("time of one training [s]")
        plot.plain_log_ticks(right.xaxis)
        for ax in (left, right):
            ax.grid(axis="y", color="0.92")
            ax.set_axisbelow(True)
        return fig, "which networks are above the linear model, and how near to the kernel machines"

    def features(self):
        """Inner weights of the neurons of largest outer weight, at the start and as they were learned."""
        training = self.training
        networks = {"start": self.start()} | {
            method.title: training.train(name).networks[0] for name, method in training.methods.items()
        }
        side = round(len(training.table.columns) ** 0.5)
        if not training.table.classes or training.table.name != "digits":
            return self.columns(networks)
        fig, axes = plot.figure(len(networks), NEURONS, height=0.72 * len(networks), width=plot.DOUBLE)
        for row, (title, network) in zip(axes, networks.items(), strict=True):
            for ax in row:
                ax.set_axis_off()
            for ax, filter_ in zip(row, strongest(network, NEURONS), strict=False):
                top = np.max(np.abs(filter_))
                ax.imshow(filter_[:-1].reshape(side, side), cmap="RdBu_r", vmin=-top, vmax=top)
            row[0].text(-0.25, 0.5, title.replace(" ", "\n", 1), ha="right", va="center", fontsize=8)
            row[0].texts[0].set_transform(row[0].transAxes)
        return fig, "learned filters are smooth strokes where the start is noise; red: weights above zero"

    def start(self) -> Network:
        """Where every method starts from, on the first split."""
        training = self.training
        fit, _ = training.learned(training.splits.final.at(0))
        method, outputs = training.methods["sgd-square"], training.table.outputs
        sim = training.simulation(method, fit, self.preset.lams[0], self.settings.seed)
        return method.neurons(sim.measure, sim.flow, outputs)

    def columns(self, networks):
        """Of a table: the inner weights by the names of its columns, of those that have the largest."""
        names = np.array([*self.training.table.columns, "bias"])
        shown = {title: np.stack(strongest(network, NEURONS), axis=1) for title, network in networks.items()}
        size = np.max([np.abs(weights).max(axis=1) for weights in shown.values()], axis=0)
        rows = np.sort(np.argsort(-size)[:NAMED])
        fig, axes = plot.figure(1, len(shown), height=3.0, sharey=True)
        for ax, (title, weights) in zip(axes[0], shown.items(), strict=True):
            image = ax.imshow(weights[rows], cmap="RdBu_r", vmin=-size.max(), vmax=size.max(), aspect="auto")
            ax.set_xlabel("neuron")
            plot.title(ax, title.replace(" ", "\n", 1))
        axes[0, 0].set_yticks(range(len(rows)), names[rows])
        colorbar(axes[0, -1], image, "inner weight")
        return fig, "which columns the neurons of largest outer weight look at"

    def predictions(self):
        """Test data of all splits: classes that are taken for others, or predicted against true numbers."""
        training = self.training
        best = max(training.methods, key=lambda name: training.train(name).score.mean())
        title = training.methods[best].title
        other = max(self.baselines, key=lambda found: found.score.mean())
        ours = [self.predicted(best, index) for index in range(self.preset.seeds)]
        fig, axes = plot.figure(1, 2, height=3.2)
        for ax, (name, found) in zip(axes[0], ((title, ours), (other.title, other.predicted)), strict=True):
            plot.title(ax, name)
            truth = [self.truth(index) for index in range(self.preset.seeds)]
            draw = self.confusion if training.table.classes else self.scatter
            draw(ax, np.concatenate(truth), np.concatenate(found))
        return fig, "what is taken for what, by the best network and the best estimator of scikit-learn"

    def predicted(self, name: str, index: int) -> np.ndarray:
        """What the chosen network of a method says of the test data of a split."""
        network = self.training.train(name).networks[index].predictor()
        _, seen = self.training.learned(self.training.splits.final.at(index))
        if self.training.table.classes:
            return np.asarray(network.labels(seen.x))
        return np.asarray(network(seen.x))[:, 0]

    def truth(self, index: int) -> np.ndarray:
        """The targets of the test data of a split."""
        _, seen = self.training.learned(self.training.splits.final.at(index))
        return np.asarray(seen.labels) if self.training.table.classes else np.asarray(seen.rows)[:, 0]

    def confusion(self, ax, truth, found):
        """How many data of a class (rows) were put into another (columns), in percent of the class."""
        names = self.training.table.classes
        counts = np.zeros((len(names), len(names)))
        np.add.at(counts, (truth, found.astype(int)), 1)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        wrong = np.where(np.eye(len(names), dtype=bool), np.nan, share)
        colors = LinearSegmentedColormap.from_list("wrong", ["white", plot.color(1)]).with_extremes(
            bad="0.92"
        )
        ax.imshow(wrong, cmap=colors, vmin=0, vmax=max(np.nanmax(wrong), 1.0))
        if len(names) <= NAMED:
            for i, j in np.argwhere(share >= 0.05):
                ax.text(j, i, f"{share[i, j]:.3g}" if i == j else f"{share[i, j]:.1f}", **CELL)
            ax.set_xticks(range(len(names)), names)
            ax.set_yticks(range(len(names)), names)
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")

    def scatter(self, ax, truth, found):
        """Predicted numbers against true ones, in deviations of the training data."""
        ax.plot(truth, found, ".", ms=2, color=plot.color(0))
        ax.axline((0, 0), slope=1, color="0.3", linewidth=0.8)
        ax.set_xlabel("true target [deviations]")
        ax.set_ylabel("predicted target [deviations]")

    def report(self):
        """The table of scores, printed and written to scores.csv, and what held-out data chose."""
        if "accuracy" not in self.settings.figures:
            return
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["method", *(f"seed {seed}" for seed in self.settings.seeds), "seconds"])
        what = self.training.score_name
        print(f"\n{'method':24} test {what:10} time of one training")
        for row in self.rows():
            writer.writerow([row.title, *(f"{value:.6g}" for value in row.score), f"{row.seconds:.3g}"])
            spread = row.score.std(ddof=1) if len(row.score) > 1 else 0.0
            print(f"{row.title:24} {row.score.mean():.4f} ± {spread:.4f} {row.seconds:9.2f} s")
        write_text(self.settings.out / "scores.csv", buffer.getvalue())
        for name, method in self.training.methods.items():
            trained, times = self.training.train(name), self.training.times(method)
            pairs = (f"{lam:g} to t = {times[k]:g}" for lam, k in zip(trained.lam, trained.save, strict=True))
            print(f"{method.title}: lam {', '.join(pairs)}")
            if trained.rise > RISE:
                option, half = method.step.replace("_", "-"), getattr(self.preset, method.step) / 2
                print(
                    f"  its energy, which falls in short steps, rose by {100 * trained.rise:.2g} % between "
                    f"two saved times: try --{option} {half:g}"
                )


CELL: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6}


def strongest(network: Network, count: int) -> list[np.ndarray]:
    """The inner weights of the neurons whose outer weights are largest."""
    size = np.linalg.norm(np.asarray(network.u), axis=1)
    return list(np.asarray(network.omega)[np.argsort(-size)[:count]])
