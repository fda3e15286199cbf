"""The systems of pairs (rho, H) on grids and particles, from one smooth start, and plain gradient descent."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs, times_of
from mfjax.energies import Entropy, PorousMedium
from mfjax.flows import PropagationOfChaos, SeparatedVariables, Transported
from mfjax.measures import Grid, Particles

SYSTEMS = {
    "separated": (SeparatedVariables, "separated (3.19)"),
    "transported": (Transported, "transported (3.21)"),
    "chaos": (PropagationOfChaos, "propagation of chaos (3.23)"),
}
# The energy falls from every start; that of (3.21) may rise where |grad H| > 2.
DESCENDING = ("separated", "chaos")
EXTRAS = {"heat": Entropy, "porous": PorousMedium}
BIAS, LAM = 0.5, 0.01
# Under a strong regularizer only a strong signal keeps the network from going out.
STRONG_LAM, SIGNAL = 0.3, 2.0


def density(theta):
    """rho_0 up to a factor: a bump with support [-2, 0]."""
    return jnp.maximum(1 - (theta[0] + 1) ** 2, 0) ** 3


def height(theta, steepness):
    """H_0, with slope 3 steepness at the middle of the bump."""
    return 2 + 3 * jnp.tanh(steepness * (theta[0] + 1))


class Pairs(Runs):
    """Regression of sin(2x) on [-2, 2] by neurons H tanh(theta x + 1/2), theta in [-3, 3]."""

    def __init__(self, records: Records):
        super().__init__(records)
        self.domain = mf.domains.Interval(-3.0, 3.0)
        self.features = mf.features.Ridge(jnp.tanh, BIAS)
        self.x = jnp.linspace(-2, 2, 32)[:, None]
        self.y = jnp.sin(2 * self.x[:, 0])

    def risk(self, lam=LAM, signal=1.0):
        """The one energy that all systems are declared with."""
        return mf.energies.Risk(mf.features.Weighted(self.features), self.x, signal * self.y, lam=lam)

    def grid(self, cells, steepness):
        """rho_0 and H_0 in cells."""
        mu = Grid.from_density(self.domain, cells, density, dtype=self.x.dtype)
        return self.carrying(mu, steepness)

    def labels(self, number, steepness):
        """Particles at the midpoints of the support, with the masses of rho_0."""
        points = ((jnp.arange(number, dtype=self.x.dtype) + 0.5) * (2 / number) - 2)[:, None]
        masses = jax.vmap(density)(points)
        return self.carrying(Particles(points, masses / jnp.sum(masses)), steepness)

    @staticmethod
    def carrying(mu, steepness):
        """The measure with the heights H_0."""
        return mu.with_marks(H=jax.vmap(lambda theta: height(theta, steepness))(mu.points))

    @cached_property
    def times(self) -> np.ndarray:
        """Saved times, denser at the start."""
        return self.preset.time * (np.arange(1, self.preset.saves + 1) / self.preset.saves) ** 3

    def systems(self, name: str) -> Any:
        """One system on the grid for every steepness."""
        seen = {"masses": _masses, "height": _heights}

        def cell(steepness):
            flow = SYSTEMS[name][0](self.risk(), self.domain)
            mu = self.grid(self.preset.cells, steepness)
            return mf.Simulation(flow, mu, save_at=self.times, observables=seen, save_measures=False)

        data = self.records.sweep(f"grid-{name}", cell, {"steepness": self.preset.steepness})
        if name in DESCENDING:
            for value in self.preset.steepness:
                energy = data.energy.sel(steepness=value).values
                bound = mf.bounds.Exponential(energy[0], 0.0, "no rise")
                run = f"grid-{name} steepness={value:g}"
                self.records.bound(run, bound, times_of(data), energy)
        return data

    def particles(self) -> Any:
        """(3.23) on particles by explicit Euler, which is gradient descent."""
        steps = round(self.preset.time / self.preset.step)
        every = max(steps // self.preset.saves, 1)

        def cell(steepness):
            flow = PropagationOfChaos(self.risk(), self.domain)
            seen = {"theta": lambda mu, flow: mu.points[:, 0], "height": _heights}
            stepper = mf.steppers.Euler(self.preset.step)
            mu, whole = self.labels(self.preset.particles, steepness), steps - steps % every
            return mf.Simulation(flow, mu, stepper=stepper, steps=whole, save_every=every, observables=seen)

        return self.records.sweep("particles", cell, {"steepness": self.preset.steepness[:1]})

    def descent(self, data: Any) -> np.ndarray:
        """Plain gradient descent on the loss of the network, saved as `particles` is: (saves, 2, particles).

        Its own code: the loss, `jax.grad`, a fixed step, and the two ends of the interval.
        """
        start = self.labels(self.preset.particles, self.preset.steepness[0])
        masses, x, y, step = start.weights, self.x, self.y, self.preset.step
        times = times_of(data)
        every = round(float(times[1] - times[0]) / step)

        def loss(theta, outer):
            error = jnp.tanh(x * theta + BIAS) @ (masses * outer) - y
            return 0.5 * jnp.mean(error**2) + 0.5 * LAM * masses @ (outer**2 + theta**2)

        def one(_, parameters):
            slopes = jax.grad(loss, (0, 1))(*parameters)
            theta, outer = (p - step * s / masses for p, s in zip(parameters, slopes, strict=True))
            return jnp.clip(theta, -3, 3), outer

        def interval(parameters, _):
            parameters = jax.lax.fori_loop(0, every, one, parameters)
            return parameters, jnp.stack(parameters)

        first = (start.points[:, 0], start.marks["H"])
        run = jax.jit(lambda first: jax.lax.scan(interval, first, length=data.sizes["save"] - 1)[1])
        return np.concatenate([np.stack(first)[None], np.asarray(run(first))])

    def convergence(self) -> list[float]:
        """Largest error of moments of (3.23) on the grids against many particles at a short time."""
        time, steepness = min(0.25, self.preset.time), self.preset.steepness[0]
        flow = PropagationOfChaos(self.risk(), self.domain)

        def end(name, make):
            cell = lambda steepness: mf.Simulation(
                flow, make(steepness), t1=time, observables={"moments": _moments}, save_measures=False
            )
            data = self.records.sweep(name, cell, {"steepness": (steepness,)})
            return data.moments.values[0, -1]

        exact = end("labels", lambda s: self.labels(8 * self.preset.particles, s))
        meshes = [end(f"mesh-{n}", lambda s, n=n: self.grid(n, s)) for n in self.preset.meshes]
        return [float(np.max(np.abs(mesh - exact))) for mesh in meshes]

    def regularized(self, kind: str, name: str) -> Any:
        """A regularized system until it rests, for every temperature."""
        times = self.preset.regularized_time * (np.arange(1, self.preset.saves + 1) / self.preset.saves) ** 2
        smooth, extra = self.risk(STRONG_LAM, SIGNAL), EXTRAS[kind]()

        def potential(mu, flow):
            return smooth.first_variation(flow.lift(mu))

        def cell(temperature):
            def spread(mu, flow):
                level = potential(mu, flow) + temperature * extra.first_variation(mu)
                return jnp.sqrt(mu.integrate((level - mu.integrate(level)) ** 2))

            seen = {"masses": _masses, "height": _heights, "potential": potential, "spread": spread}
            flow = SYSTEMS[name][0](smooth + temperature * extra, self.domain)
            mu = self.grid(self.preset.regularized_cells, self.preset.steepness[0])
            return mf.Simulation(flow, mu, save_at=times, observables=seen, save_measures=False)

        return self.records.sweep(f"{kind}-{name}", cell, {"temperature": self.preset.temperatures})


def _masses(mu, flow):
    return mu.weights


def _heights(mu, flow):
    return mu.marks["H"]


def _moments(mu, flow):
    theta = mu.points[:, 0]
    waves = jnp.stack([jnp.sin(theta), jnp.cos(theta), theta**2], axis=-1)
    return jnp.concatenate([mu.integrate(waves), mu.integrate(mu.marks["H"][:, None] * waves)])
