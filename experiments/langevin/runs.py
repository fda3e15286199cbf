"""The runs behind the figures: densities, particles, and the Gibbs measures that both tend to."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs
from mfjax.measures import Grid, Particles

from .model import Network, one_neuron, two_layer, with_noise


class Langevin(Runs):
    """The series of runs, each computed once. Masses are recorded of grids, positions of particles."""

    def __init__(self, records: Records):
        super().__init__(records)
        lam = self.preset.lam
        self.networks = {"one neuron": one_neuron(self.preset.gain, lam, self.dtype)}
        self.networks["two layers"] = two_layer(self.preset.plane_lam, self.dtype)
        self._minima: dict[Any, Minimum] = {}
        self._rates: dict[Any, float] = {}

    @property
    def starts(self) -> tuple[float, float]:
        """The centers of the two initial laws."""
        return self.preset.start, -self.preset.start

    def grid(self, name: str) -> Grid:
        """The cells of a network."""
        cells = self.preset.cells if name == "one neuron" else self.preset.plane_cells
        return Grid.uniform(self.networks[name].domain, cells, dtype=self.dtype)

    # Densities.
    def _density(self, network: Network, sigma, center, cells, times) -> mf.Simulation:
        return mf.Simulation(
            network.flow(sigma),
            network.density(center, cells, self.dtype),
            stepper=mf.steppers.RosenbrockW(*self.preset.tolerances),
            save_at=times,
            observables={"masses": lambda mu, flow: mu.weights},
            save_measures=False,
        )

    def densities(self) -> Any:
        """Fokker-Planck of one neuron: masses (gain, sigma, start, save, cell). At gain 0 no data is seen."""
        preset = self.preset

        def cell(gain, sigma, start):
            network = one_neuron(gain, preset.lam, self.dtype)
            return self._density(network, sigma, start, preset.cells, preset.times)

        axes = {"gain": (0.0, preset.gain), "sigma": preset.sigmas, "start": self.starts}
        return self.records.sweep("fokker-planck", cell, axes)

    def annealed(self) -> Any:
        """Fokker-Planck of one neuron under noise that halves in so much time: F (halving, save)."""
        preset, network = self.preset, self.networks["one neuron"]
        smooth = network.smooth()

        def cell(halving):
            noise = lambda t: preset.sigmas[0] * 2 ** (-t / halving)
            return mf.Simulation(
                mf.flows.Scheduled(lambda t: network.flow(noise(t))),
                network.density(preset.start, preset.cells, self.dtype),
                stepper=mf.steppers.RosenbrockW(*preset.tolerances),
                save_at=preset.times,
                observables={"risk": lambda mu, flow: smooth.solve(mu).value},
                save_measures=False,
            )

        return self.records.sweep("annealed", cell, {"halving": preset.halvings})

    def plane(self) -> Any:
        """Fokker-Planck of two layers: masses (sigma, save, cell)."""
        preset, network = self.preset, self.networks["two layers"]

        def cell(sigma):
            return self._density(network, sigma, preset.start, preset.plane_cells, preset.plane_times)

        return self.records.sweep("fokker-planck-plane", cell, {"sigma": preset.plane_sigmas})

    # Particles.
    def _particles(self, network: Network, sigma, center, seed, width, times, slots) -> mf.Simulation:
        key = jr.key(seed)

        def record(mu, flow):
            missing = [(0, slots - mu.size), (0, 0)]
            return jnp.pad(mu.points, missing, constant_values=jnp.nan)

        return mf.Simulation(
            network.flow(sigma),
            # The same draws for both starts and, by the key, the same noise: a synchronous coupling.
            network.particles(center, width, jr.fold_in(key, 0), self.dtype),
            stepper=mf.steppers.StochasticHeun(self.preset.step),
            save_at=times,
            observables={"position": record},
            key=jr.fold_in(key, 1),
            save_measures=False,
        )

    def particles(self) -> Any:
        """Particles of one neuron from two starts: positions (sigma, start, seed, save, particle, 1)."""
        preset, network = self.preset, self.networks["one neuron"]

        def cell(sigma, start, seed):
            width = preset.width
            return self._particles(network, sigma, start, seed, width, preset.times, width)

        axes = {"sigma": preset.sigmas, "start": self.starts, "seed": self.settings.seeds}
        return self.records.sweep("particles", cell, axes)

    def plane_particles(self) -> Any:
        """Particles of two layers at the lowest sigma: positions (sigma, seed, save, particle, 2)."""
        preset, network = self.preset, self.networks["two layers"]

        def cell(sigma, seed):
            width = preset.width
            return self._particles(network, sigma, preset.start, seed, width, preset.plane_times, width)

        axes = {"sigma": preset.plane_sigmas[-1:], "seed": self.settings.seeds}
        return self.records.sweep("particles-plane", cell, axes)

    def chaos(self) -> Any:
        """Particles of one neuron for all widths, with MMD^2 to the density of the same time."""
        preset, network = self.preset, self.networks["one neuron"]
        slots, first = max(preset.chaos_widths), self.settings.seed

        def cell(sigma, width, seed):
            return self._particles(network, sigma, preset.start, seed, width, preset.times, slots)

        axes = {
            "sigma": (preset.chaos_sigma,),
            "width": preset.chaos_widths,
            "seed": range(first, first + preset.chaos_seeds),
        }
        return self.records.sweep("chaos", cell, axes, derive=self._add_distance)

    def _add_distance(self, data):
        masses = self.densities().masses.sel(gain=self.preset.gain, sigma=self.preset.chaos_sigma)
        masses, grid = masses.sel(start=self.preset.start).values, self.grid("one neuron")

        values = np.full(data.energy.shape, np.nan)
        for index in np.ndindex(*values.shape[:-1]):
            positions = jnp.asarray(data.position.values[index])
            values[index] = _distances(
                positions, jnp.asarray(masses), grid, self.networks["one neuron"].domain
            )
        return data.assign(mmd_squared=(data.energy.dims, values))

    # Gibbs measures.
    def network(self, name: str, gain: float | None = None) -> Network:
        """A network by its name, that of one neuron with another gain."""
        network = self.networks[name]
        return network if gain is None else one_neuron(gain, self.preset.lam, self.dtype)

    def gibbs(
        self, name: str, sigma: float, gain: float | None = None, cells: int | None = None
    ) -> "Minimum":
        """The minimizer of V^sigma on the cells of a network, or on so many per axis."""
        key = (name, sigma, self.preset.gain if gain is None else gain, cells)
        if key not in self._minima:
            network, grid = self.network(name, gain), self.grid(name)
            if cells is not None:
                grid = Grid.uniform(network.domain, cells, dtype=self.dtype)
            self._minima[key] = _minimize(network.smooth(), jnp.asarray(sigma, self.dtype), grid)
        return self._minima[key]

    @property
    def minima(self) -> list["Minimum"]:
        """All Gibbs measures found so far."""
        return list(self._minima.values())

    def spectrum(self, name: str, sigma: float, gain: float | None = None) -> float:
        """The rate at which the excess of V^sigma decays in the end: twice the gap of the linearized flow."""
        key = (name, sigma, self.preset.gain if gain is None else gain)
        if key not in self._rates:
            network, plane = self.network(name, gain), name == "two layers"
            cells = self.preset.plane_linear_cells if plane else self.preset.cells
            grid = Grid.uniform(network.domain, cells, dtype=self.dtype)
            energy = network.energy(sigma)
            star = mf.gibbs(energy, grid) if plane else self.gibbs(name, sigma, gain).found
            flow = mf.flows.Wasserstein(energy, network.domain)
            self._rates[key] = 2 * float(mf.linearize(flow, star.measure).gap())
        return self._rates[key]


class Minimum(NamedTuple):
    """A Gibbs measure as found, F there, and a lower bound of inf F."""

    found: mf.GibbsMeasure
    risk: Any
    least: Any


@eqx.filter_jit
def _minimize(smooth, sigma, grid) -> "Minimum":
    found = mf.gibbs(with_noise(smooth, sigma), grid)
    mu = found.measure
    potential, risk = smooth.first_variation(mu), smooth.solve(mu).value
    # For convex F: inf F >= F(m) - int V dm + min V.
    return Minimum(found, risk, risk - mu.integrate(potential) + jnp.min(potential))


@eqx.filter_jit
def _distances(positions, masses, grid, domain):
    """MMD^2 of particles (S, M, 1), NaN where there is none, to masses (S, K)."""

    def one(pair):
        number = jnp.isfinite(pair[0][:, 0])
        mu = Particles(jnp.where(number[:, None], pair[0], 0), number / jnp.sum(number))
        return mf.observables.EnergyDistance(grid.with_weights(pair[1]), domain)(mu)

    return jax.lax.map(one, (positions, masses))
