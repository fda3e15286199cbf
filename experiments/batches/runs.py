"""The sweeps behind the figures."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Runs
from mfjax.energies import Batches, GaussianBatches
from mfjax.measures import Grid, Particles

# Few neurons w tanh(theta . x) and their data.
SPACE, NEURON = mf.domains.Euclidean(3), mf.features.Weighted(mf.features.Ridge(jnp.tanh))
DATA = 16
SAMPLINGS = {
    "epochs of single data": Batches(1),
    "four at a time, with replacement": Batches(4, replace=True),
}

# Many bumps on a circle of length one, whose outer weights are one.
LOOP = mf.domains.Torus(1)
BUMP = mf.features.Function(lambda omega, x: jnp.exp(jnp.cos(2 * jnp.pi * (omega[0] - x[0]))))
LIMIT_TIME = 0.5

# Their noise: what a step draws, whether each particle does for itself, and beta in eps_0 N^(beta - 1).
NOISES = {
    "batches, for all": (Batches(4, replace=True), False, 1.0),
    "Gaussian, for all": (GaussianBatches(4), False, 1.0),
    "batches, for each": (Batches(4, replace=True), True, 1.0),
    "Gaussian, for each": (GaussianBatches(4), True, 1.0),
    "batches, for all, ε ∝ $N^{-1/2}$": (Batches(4, replace=True), False, 0.5),
}

# Ways to the minimum of a linear model by single data; averages are those of the second half.
PLANE, STEP = mf.domains.Euclidean(2), 0.1
DESCENTS = ("plain", "averaged", "falling steps", "reduced variance")


class Coordinates(mf.observables.Observable):
    """All coordinates of all particles."""

    def __call__(self, mu, flow=None):
        return mu.points.ravel()


def start(x):
    """The density that particles of the limit are drawn from."""
    return 1 + 0.8 * jnp.cos(2 * jnp.pi * x[0])


def quantiles(u: Any) -> Any:
    """The points of `start` below which it has the shares `u` of its mass."""
    place = np.linspace(0, 1, 4097)
    mass = place + 0.8 * np.sin(2 * np.pi * place) / (2 * np.pi)
    return jnp.interp(u, jnp.asarray(mass, u.dtype), jnp.asarray(place, u.dtype))


class BatchRuns(Runs):
    """The series, each computed once."""

    def seeds(self, number: int) -> range:
        """The seeds of a series, from that of the command line on."""
        return range(self.settings.seed, self.settings.seed + number)

    def few(self, batches: Any) -> mf.flows.Wasserstein:
        """Descent of the risk of a few neurons."""
        x = jr.normal(jr.key(0), (DATA, 2), self.dtype)
        y = 0.5 * (jnp.sin(2 * x[:, 0]) + x[:, 1])
        return mf.flows.Wasserstein(mf.energies.Risk(NEURON, x, y, 0.01, batches=batches), SPACE)

    def neurons(self) -> Particles:
        return Particles(jr.normal(jr.key(1), (4, 3), self.dtype))

    def expansion(self, name: str) -> Particles:
        """The flow at t = 1 with the mean and covariance of what batches add, per unit of the step."""
        flow = mf.flows.BatchExpansion(self.few(SAMPLINGS[name]))
        return mf.simulate(flow, self.neurons(), stepper=mf.steppers.RK4(1 / 32), steps=32).final

    def mean(self, name: str) -> Any:
        """Ends at t = 1 of stochastic gradient descent over the number of steps and seeds."""
        flow, mu = self.few(SAMPLINGS[name]), self.neurons()

        def cell(eps, seed):
            at = {"coordinates": Coordinates()}
            return mf.Simulation(
                flow, mu, stepper=mf.steppers.Euler(eps), t1=1.0, key=jr.key(seed), observables=at,
                save_measures=False,
            )  # fmt: skip

        axes = {"eps": [1 / number for number in self.preset.steps], "seed": self.seeds(self.preset.seeds)}
        return self.records.sweep(f"mean-{list(SAMPLINGS).index(name)}", cell, axes)

    def many(self, batches: Any, independent: bool = False) -> mf.flows.Wasserstein:
        """Descent of the risk of many bumps."""
        x = jr.uniform(jr.key(3), (64, 1), self.dtype)
        y = 1.2 + jnp.cos(2 * jnp.pi * (x[:, 0] - 0.3)) + 0.4 * jnp.sin(4 * jnp.pi * x[:, 0])
        risk = mf.energies.Risk(BUMP, x, y, batches=batches, independent=independent)
        return mf.flows.Wasserstein(risk, LOOP)

    def density(self) -> Grid:
        """The solution of the partial differential equation at `LIMIT_TIME`."""
        mu = Grid.from_density(LOOP, self.preset.cells, start, dtype=self.dtype)
        return mf.simulate(self.many(None), mu, stepper=mf.steppers.RK4(LIMIT_TIME / 512), steps=512).final

    def widths(self) -> Any:
        """Squared distance of particles to the density over width, beta and seed, one datum a step."""
        preset, flow = self.preset, self.many(Batches(1, replace=True))
        distance = {"mmd_squared": mf.observables.EnergyDistance(self.density(), LOOP)}

        def cell(width, beta, seed):
            for_start, key = jr.split(jr.key(seed))
            keys = jax.vmap(lambda i: jr.fold_in(for_start, i))(jnp.arange(width))
            u = jax.vmap(lambda k: jr.uniform(k, (), self.dtype))(keys)
            mu = Particles(quantiles(u)[:, None])
            dt = LIMIT_TIME / jnp.round(LIMIT_TIME * width ** (1 - beta) / preset.first_step)
            return mf.Simulation(
                flow, mu, stepper=mf.steppers.Euler(dt), t1=LIMIT_TIME, key=key, observables=distance,
                save_measures=False,
            )  # fmt: skip

        axes = {"width": preset.widths, "beta": preset.betas, "seed": self.seeds(preset.repeats)}
        return self.records.sweep("widths", cell, axes, static=("width",))

    def noises(self) -> Any:
        """int cos(2 pi x) dmu of particles at `LIMIT_TIME` over the kind of noise, width and seed."""
        preset = self.preset
        wave = lambda mu, flow: mu.integrate(jnp.cos(2 * jnp.pi * mu.points[:, 0]))

        slots = max(preset.noise_widths)

        def cell(noise, width, seed):
            batches, independent, beta = NOISES[noise]
            # Evenly spread, so that the batches alone are random; beyond the width without mass.
            u = jnp.minimum((jnp.arange(slots, dtype=self.dtype) + 0.5) / width, 1)
            points = quantiles(u)[:, None]
            mu = Particles(points % 1, mf.measures.padded_weights(width, slots, self.dtype))
            dt = LIMIT_TIME / jnp.round(LIMIT_TIME * width ** (1 - beta) / preset.noise_step)
            return mf.Simulation(
                self.many(batches, independent), mu, stepper=mf.steppers.Euler(dt), t1=LIMIT_TIME,
                key=jr.key(seed), observables={"wave": wave}, save_measures=False,
            )  # fmt: skip

        axes = {"noise": list(NOISES), "width": preset.noise_widths, "seed": self.seeds(preset.noise_seeds)}
        return self.records.sweep("noises", cell, axes, static=("noise",))

    def descent(self, name: str) -> Any:
        """Squared distance to the minimizer of a linear model, on one way to it, over the seed."""
        preset, linear = self.preset, mf.features.Function(lambda w, x: w @ x)
        x = jr.normal(jr.key(0), (DATA, 2), self.dtype)
        y = jnp.sin(x @ jnp.array([1.0, 0.5], self.dtype)) + 0.5 * jnp.cos(7 * x[:, 0])
        risk = mf.energies.Risk(linear, x, y, 0.1, batches=Batches(1, replace=True))
        a, b = np.asarray(x, float), np.asarray(y, float)
        least = np.linalg.solve(a.T @ a / DATA + 0.1 * np.eye(2), a.T @ b / DATA)
        error = lambda mu, flow: jnp.sum((mu.points[0] - least.astype(self.dtype)) ** 2)
        mu, every = Particles(jnp.array([[3.0, -2.0]], self.dtype)), preset.descent_steps // 64

        def cell(seed):
            flow, stepper, observe = mf.flows.Wasserstein(risk, PLANE), mf.steppers.Euler(STEP), error
            if name == "falling steps":
                stepper = mf.steppers.Euler(lambda n: 5.0 / (n + 5.0 / STEP))
            elif name == "reduced variance":
                flow = mf.flows.VarianceReduced(flow, every=2 * DATA)
            elif name != "plain":
                flow = mf.flows.Averaged(flow, since=preset.descent_steps * STEP / 2)
                observe = mf.observables.AtAverage(error)
            return mf.Simulation(
                flow, mu, stepper=stepper, steps=preset.descent_steps, save_every=every, key=jr.key(seed),
                observables={"squared_error": observe}, save_measures=False,
            )  # fmt: skip

        axes = {"seed": self.seeds(preset.descent_seeds)}
        return self.records.sweep(f"descent-{DESCENTS.index(name)}", cell, axes)

    def _projected(self, seed: Any, batches: Any) -> tuple[Any, Any, dict[str, Any]]:
        """(energy, start, settings of the run) of variable projection on the circle."""
        preset = self.preset
        problem = mf.problems.circle(
            jr.key(7), gamma=10.0, inputs=preset.inputs, width=1024, stratified=True, dtype=self.dtype
        )
        # What the teacher alone does not explain is what a batch fits too well.
        y = problem.y + preset.noise * jr.normal(jr.key(8), problem.y.shape, self.dtype)
        energy = mf.energies.ReducedRisk(
            problem.features,
            problem.x,
            y,
            preset.lam,
            mf.regularizers.Quadratic(1.0),
            batches=batches,
        )
        mu = Particles.sample(problem.domain, jr.key(seed), preset.projected, dtype=self.dtype)
        distance = mf.observables.EnergyDistance(problem.neurons, problem.domain)
        options = {
            "stepper": mf.steppers.Euler(preset.tau),
            "steps": preset.iterations,
            "save_every": preset.iterations // 8,
            "observables": {"mmd_squared": distance},
            "save_measures": False,
        }
        return (energy, problem.domain), mu, options

    def exact(self) -> Any:
        """Variable projection of all data."""

        def cell(seed):
            (energy, domain), mu, options = self._projected(seed, None)
            return mf.Simulation(mf.flows.Wasserstein(energy, domain), mu, **options)

        return self.records.sweep("all-data", cell, {"seed": self.seeds(self.preset.starts)})

    def projections(self) -> Any:
        """Variable projection of batches over their size, the momentum and the seed."""

        def cell(batch, momentum, seed):
            (energy, domain), mu, options = self._projected(seed, Batches(batch))
            flow = mf.flows.OuterMomentum(energy, domain, momentum, self.preset.tau)
            return mf.Simulation(flow, mu, key=jr.fold_in(jr.key(seed), 1), **options)

        axes = {
            "batch": self.preset.batches,
            "momentum": self.preset.momenta,
            "seed": self.seeds(self.preset.starts),
        }
        return self.records.sweep("projections", cell, axes, static=("batch",))
