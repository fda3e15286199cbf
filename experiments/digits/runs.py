"""The runs of all dynamics: a search over lam and time on held-out data, then training on the whole part."""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs

from .methods import Learned, Method, Network, methods
from .splits import Part, conditioned, split
from .tables import load


class Trained(NamedTuple):
    """One method on every split: what held-out data chose, and the runs on the whole training parts.

    `lam` and `save`, the number of the saved time to stop at, `score` there and `seconds` of a run are
    (seed,), `curves` (seed, save) by name, `networks` those of the chosen times. `rise` is by what share the
    energy rose at most between two saved times, of dynamics under which it falls in short steps; zero else.
    """

    lam: np.ndarray
    save: np.ndarray
    score: np.ndarray
    seconds: np.ndarray
    curves: dict[str, np.ndarray]
    networks: list[Network]
    rise: float


class Explained(mf.observables.Observable):
    """R²: the share of the variance of targets that a network explains, of its squared `risk` on them."""

    risk: mf.observables.HeldOutRisk
    variance: jax.Array

    def __call__(self, mu, flow=None):
        return 1 - 2 * self.risk(mu, flow) / self.variance


class Training(Runs):
    """One table, its splits, and the dynamics that learn it, each run once."""

    def __init__(self, records: Records):
        super().__init__(records)
        preset = self.preset
        self.table = conditioned(load(preset.table, preset.target))
        shares = preset.test, preset.held_out, preset.holdouts
        self.splits = split(self.table, self.settings.seeds, *shares)
        self.methods = methods(bool(self.table.classes))
        self.x = jnp.asarray(self.table.x, self.dtype)
        self.trained: dict[str, Trained] = {}

    @property
    def score_name(self) -> str:
        """What scores are called."""
        return "accuracy" if self.table.classes else "R²"

    def times(self, method: Method) -> np.ndarray:
        """The saved flow times of the risk (S,), t = 0 first."""
        return np.linspace(0, getattr(self.preset, method.time), self.preset.saves + 1)

    def learned(self, part: Part) -> tuple[Learned, Learned]:
        """What is fitted and what is only seen, of one part: targets are standardized if they are numbers."""
        y = jnp.asarray(self.table.y)
        if not self.table.classes:
            y = y.astype(self.dtype)
            center, scale = jnp.mean(y[part.fit]), jnp.std(y[part.fit])

        def of(rows):
            x = part.inputs(self.x, rows).astype(self.dtype)
            if self.table.classes:
                return Learned(x, jax.nn.one_hot(y[rows], self.table.outputs, dtype=self.dtype), y[rows])
            return Learned(x, ((y[rows] - center) / scale)[:, None], None)

        return of(part.fit), of(part.seen)

    def simulation(self, method: Method, fit: Learned, lam, seed, **options: Any) -> mf.Simulation:
        """A run of `method` on the data `fit`, to its end."""
        preset = self.preset
        for_start, for_run = jr.split(jr.key(seed))
        sizes = preset.width, fit.x.shape[1], self.table.outputs
        start = Network.drawn(for_start, *sizes, preset.gain, self.dtype)
        flow, mu = method.declare(fit, lam, start, preset)
        # Whole steps between two saved times.
        interval = getattr(preset, method.time) / preset.saves
        every = int(np.ceil(interval / getattr(preset, method.step) * (1 - 1e-12)))
        step = interval / every * (lam if method.by_lam else 1.0)
        length = {"steps": every * preset.saves, "save_every": every}
        return mf.Simulation(flow, mu, stepper=method.scheme(step), key=for_run, **length, **options)

    def watched(self, method: Method, data: Learned) -> dict[str, Any]:
        """Observables of data: the risk in the loss of the method, and the score."""
        risk = mf.observables.HeldOutRisk(data.x, data.targets(method.loss), loss=method.loss)
        if self.table.classes:
            return {"risk": risk, "score": mf.observables.Accuracy(data.x, data.labels)}
        return {"risk": risk, "score": Explained(risk, jnp.var(data.rows))}

    def search(self, name: str) -> Any:
        """Runs (lam, holdout, seed) on the hold-outs of the training parts; test data are not seen."""
        method, first = self.methods[name], self.settings.seed

        def cell(lam, holdout, seed):
            fit, held_out = self.learned(self.splits.search.at(seed - first, holdout))
            watched = self.watched(method, held_out)
            return self.simulation(method, fit, lam, seed, observables=watched, save_measures=False)

        axes = {"lam": self.preset.lams, "holdout": range(self.preset.holdouts)}
        return self.records.sweep(name, cell, axes | {"seed": self.settings.seeds})

    def chosen(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """lam and number of the saved time of least held-out risk, in the mean over hold-outs, by split."""
        risk = self.search(name).risk.transpose("seed", "holdout", "lam", "save").values.mean(axis=1)
        best = np.argmin(np.where(np.isfinite(risk), risk, np.inf).reshape(len(risk), -1), axis=1)
        lam, save = np.unravel_index(best, risk.shape[1:])
        return np.asarray(self.preset.lams)[lam], save

    def train(self, name: str) -> Trained:
        """The runs on the whole training parts, at what held-out data chose for each split."""
        if name not in self.trained:
            method, rows, rise = self.methods[name], [], 0.0
            lams, saves = self.chosen(name)
            for index, (lam, save) in enumerate(zip(lams, saves, strict=True)):
                fit, test = self.learned(self.splits.final.at(index))
                sim = self.simulation(method, fit, float(lam), self.settings.seeds[index])
                if not index:
                    # The first call compiles.
                    mf.simulate(sim, progress=False)
                started = time.perf_counter()
                run = jax.block_until_ready(mf.simulate(sim, progress=False))
                seconds = time.perf_counter() - started
                if sim.falls and not sim.flow.stochastic:
                    energy = np.asarray(run.observables["energy"])
                    rise = max(rise, float(np.max(np.diff(energy) / np.abs(energy[:-1]))))
                watched = {"train": self.watched(method, fit), "test": self.watched(method, test)}
                curves = {f"{part}_{what}": curve for part, what, curve in watch(watched, run, sim.flow)}
                network = method.neurons(run.measure(int(save)), sim.flow, self.table.outputs)
                rows.append((curves["test_score"][save], seconds, curves, network))
            scores, seconds, curves, networks = zip(*rows, strict=True)
            stacked = {what: np.stack([each[what] for each in curves]) for what in curves[0]}
            found = Trained(lams, saves, np.array(scores), np.array(seconds), stacked, list(networks), rise)
            self.trained[name] = found
        return self.trained[name]


def watch(watched: dict[str, dict[str, Any]], run: mf.Run, flow: mf.flows.Flow) -> list[tuple]:
    """(part, name, values (S,)) of observables at the saved times of a run: they take no part in its time."""
    found = _watched(watched, run.measures, flow)
    return [(part, name, np.asarray(v)) for part, each in found.items() for name, v in each.items()]


@eqx.filter_jit
def _watched(watched, measures, flow):
    is_one = lambda node: not isinstance(node, dict)
    at = lambda mu: jax.tree.map(lambda observable: observable(mu, flow), watched, is_leaf=is_one)
    return jax.lax.map(at, measures)
