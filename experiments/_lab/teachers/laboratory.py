"""The runs of an experiment: its data, its series, and the distances of particles to their teacher."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs
from mfjax.problems import Problem
from mfjax.theory.certificates import Identifiability


class Data(NamedTuple):
    """What all series share: inputs, signals, teacher neurons and initial features, by gamma and seed."""

    x: Any
    y: Any
    teachers: Any
    starts: Any


class Laboratory(Runs, ABC):
    """The series of runs of a teacher-student experiment.

    An experiment names `domain`, `features` and `recorded`, and says how a problem is drawn and how points
    are recorded.
    """

    domain: mf.domains.Domain
    features: mf.features.FeatureMap
    # What the coordinates of particles are called in the results.
    recorded: ClassVar[str]

    def __init__(self, records: Records):
        super().__init__(records)
        self.series = {series.name: series for series in self.preset.series}
        self.gammas = sorted({gamma for series in self.series.values() for gamma in series.gammas})
        self.capacity = max(width for series in self.series.values() for width in series.widths)

    @abstractmethod
    def problem(self, key: Any, gamma: Any) -> Problem:
        """The problem of a seed and a teacher."""

    @abstractmethod
    def identifiability(self) -> dict[str, Identifiability]:
        """What each feature map of the experiment cannot see."""

    @staticmethod
    @abstractmethod
    def coordinates(points: Any) -> Any:
        """What is recorded (M, ...) of points (M, d)."""

    @staticmethod
    @abstractmethod
    def points(coordinates: Any) -> Any:
        """The inverse of `coordinates`."""

    @cached_property
    def data(self) -> Data:
        """The data of all seeds and gammas."""

        # One program for all: random numbers are slow to compile, and every series shares these.
        @jax.jit
        @partial(jax.vmap, in_axes=(None, 0))
        @partial(jax.vmap, in_axes=(0, None))
        def draw(seed, gamma):
            for_problem, for_start = jr.split(jr.key(seed))
            problem = self.problem(for_problem, gamma)
            start = self.domain.sample(for_start, self.capacity, self.dtype)
            return problem.x, problem.y, problem.neurons.points, start

        x, y, teachers, starts = draw(jnp.asarray(self.settings.seeds), jnp.asarray(self.gammas, self.dtype))
        return Data(x[0], y, teachers, starts[0])

    def runs(self, name: str) -> Any:
        """The dataset of one series: energy, coordinates of the particles, and their distances."""
        series, data = self.series[name], self.data
        coordinates, slots, first = self.coordinates, max(series.widths), self.settings.seeds[0]
        gammas = jnp.asarray(self.gammas)

        def record(mu, flow):
            values = coordinates(mu.points)
            missing = [(0, slots - mu.size), *[(0, 0)] * (values.ndim - 1)]
            # Infinity is no particle; NaN would be an observable that is not defined.
            return jnp.pad(values, missing, constant_values=jnp.inf)

        def cell(lam, gamma, width, seed):
            which, row = jnp.argmax(gammas == gamma), seed - first
            regularizer = mf.regularizers.Quadratic(series.center)
            x, y = data.x[row], data.y[which, row]
            energy = mf.energies.ReducedRisk(self.features, x, y, lam, regularizer)
            if series.timescale is None:
                flow = mf.flows.Wasserstein(energy, self.domain)
            else:
                flow = mf.flows.TwoTimescale(energy, self.domain, rate=lam / series.timescale)
            return mf.Simulation(
                flow,
                mf.measures.Particles(data.starts[row, :width]),
                stepper=mf.steppers.Euler(series.step or self.preset.step),
                save_at=self.preset.times,
                observables={self.recorded: record},
                save_measures=False,
            )

        axes = {
            "lam": series.lams,
            "gamma": series.gammas,
            "width": series.widths,
            "seed": self.settings.seeds,
        }
        return self.records.sweep(name, cell, axes, derive=self.add_distances, static=("width",))

    def select(
        self, center: float, lam: float, gamma: float, width: int, *, two_timescale: bool = False
    ) -> Any:
        """The runs over all seeds at one choice of parameters, from the first series that holds it."""
        for name, series in self.series.items():
            held = lam in series.lams and gamma in series.gammas and width in series.widths
            if held and series.center == center and (series.timescale is not None) == two_timescale:
                return self.runs(name).sel(lam=lam, gamma=gamma, width=width)
        raise LookupError(f"no series has center={center}, lam={lam}, gamma={gamma}, width={width}")

    def particles(self, coordinates: Any) -> mf.measures.Particles:
        """Particles of equal mass at the coordinates that are numbers; the other slots are padding."""
        number = jnp.isfinite(coordinates)
        there = jnp.all(number, axis=tuple(range(1, number.ndim)))
        # A failed run has no particle at all: NaN, as its other records.
        return mf.measures.Particles(self.points(jnp.where(number, coordinates, 0)), there / jnp.sum(there))

    def add_distances(self, data: Any) -> Any:
        """`data` with MMD^2 of the particles to their teacher, time by time."""
        return self.add_distance(
            data,
            "mmd_squared",
            lambda coordinates, which, row: self._mmd_to_teacher(coordinates, self.data.teachers[which, row]),
        )

    def add_distance(self, data: Any, name: str, measure: Callable[[Any, int, int], Any]) -> Any:
        """`data` with `measure(coordinates (S, M, ...), number of the teacher, number of the seed)` (S,)."""
        values = np.full(data.energy.shape, np.nan)
        for index in np.ndindex(*values.shape[:-1]):
            which = self.gammas.index(data.gamma.values[index[1]])
            coordinates = data[self.recorded].values[index]
            # Slots enough for the widest, so that one program measures all.
            missing = [(0, 0)] * coordinates.ndim
            missing[1] = (0, self.capacity - coordinates.shape[1])
            values[index] = measure(np.pad(coordinates, missing, constant_values=np.nan), which, index[3])
        return data.assign({name: (data.energy.dims, values)})

    @cached_property
    def _mmd_to_teacher(self):
        @jax.jit
        def distances(coordinates, neurons):
            distance = mf.observables.EnergyDistance(neurons, self.domain)
            return jax.lax.map(lambda one: distance(self.particles(one)), coordinates)

        return distances
