"""The runs: Sobolev flows on the circle and on the 2-torus, and MMD flows in the plane."""

from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from _lab.records import Records, Runs
from mfjax.measures import Grid, Particles

ORDERS = (1.0, 1.5, 2.0)
SPECTRAL = mf.grids.Spectral()


class Shape(NamedTuple):
    """A density on R / Z and r, the largest exponent with |k|^{r + 1/2} times its coefficients bounded."""

    name: str
    density: Any
    roughness: float


SHAPES = (
    Shape("smooth", lambda x: np.exp(np.cos(2 * np.pi * x)) / np.i0(1.0), np.inf),
    Shape("kink", lambda x: 1 + 0.5 * (1 - 4 * np.abs(x - 0.5)), 1.5),
    Shape("jump", lambda x: 1 + 0.5 * (1 - 2 * x), 0.5),
)
# From each shape to the uniform measure, then from the uniform measure to each shape.
PAIRS = tuple((i, None) for i in range(3)) + tuple((None, i) for i in range(3))

# Label, family and swept number of each MMD flow in the plane.
KERNELS = (
    ("Gaussian, scale 1", "gaussian", 1.0),
    ("Gaussian, scale 0.3", "gaussian", 0.3),
    ("Laplace, scale 0.3", "laplace", 0.3),
    ("Riesz, q = 1", "riesz", 1.0),
    ("Riesz, q = 1.5", "riesz", 1.5),
)
FAMILIES = {"gaussian": mf.kernels.Gaussian, "laplace": mf.kernels.Laplace, "riesz": mf.kernels.Riesz}


class Discrepancies(Runs):
    """Sobolev flows by pair and order, on the 2-torus, and MMD flows by kernel."""

    def __init__(self, records: Records):
        super().__init__(records)
        self.circle = mf.domains.Torus(1)
        self.plane = mf.domains.Euclidean(2)
        # Period 2 pi: the mode k decays at the rate |k|^{2 - 2s}.
        self.torus = mf.domains.Torus(2, 2 * np.pi)

    def times(self, order: Any) -> Any:
        """The saved times at `order`, which may be traced: even for s = 1, else evenly spread by ratio."""
        horizon = jnp.interp(jnp.asarray(order, float), jnp.array(ORDERS), jnp.array(self.preset.horizons))
        even = jnp.linspace(0, 1, self.preset.saves)[1:]
        by_ratio = jnp.geomspace(1e-4, 1, self.preset.saves - 1)
        return (horizon * jnp.where(jnp.asarray(order) == 1, even, by_ratio)).astype(self.dtype)

    @property
    def torus_times(self) -> np.ndarray:
        """The saved times on the 2-torus, 0 first."""
        return np.append(0, self.preset.torus_horizon * np.geomspace(1e-3, 1, 24))

    @property
    def kernel_times(self) -> np.ndarray:
        """The saved times in the plane, 0 first: whole steps."""
        steps = round(self.preset.kernel_horizon / self.preset.kernel_step)
        return np.append(0, np.unique(np.round(np.geomspace(1, steps, 32)))) * self.preset.kernel_step

    @cached_property
    def masses(self) -> np.ndarray:
        """(4, cells): the masses of the shapes, and of the uniform measure last."""
        n = self.preset.cells
        x = (np.arange(n) + 0.5) / n
        rows = np.stack([*[shape.density(x) for shape in SHAPES], np.ones(n)])
        return (rows / rows.sum(axis=1, keepdims=True)).astype(self.dtype)

    @cached_property
    def quantiles(self) -> np.ndarray:
        """(4, width): points that halve equal shares of the shapes, and of the uniform measure."""
        n, width = 1 << 14, self.preset.width
        x, shares = (np.arange(n) + 0.5) / n, (np.arange(width) + 0.5) / width
        rows = [np.append(0, np.cumsum(shape.density(x) / n)) for shape in SHAPES]
        ends = np.arange(n + 1) / n
        return np.stack([*[np.interp(shares, row / row[-1], ends) for row in rows], shares]).astype(
            self.dtype
        )

    def _energy(self, pair: Any, order: Any, grid: Grid) -> tuple[Any, mf.energies.Sobolev]:
        """(row of mu_0, discrepancy to nu) of a pair, which may be traced."""
        rows = jnp.array([[3 if i is None else i for i in both] for both in PAIRS])[pair]
        masses = jnp.asarray(self.masses)[rows[1]]
        target = grid.with_weights(jnp.sum(masses.reshape(grid.size, -1), axis=1))
        return rows[0], mf.energies.Sobolev(target, order)

    def densities(self) -> Any:
        """PDE runs by pair and order."""
        grid = Grid.uniform(self.circle, self.preset.cells, dtype=self.dtype)

        def cell(pair, order):
            first, energy = self._energy(pair, order, grid)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.circle, SPECTRAL),
                grid.with_weights(jnp.asarray(self.masses)[first]),
                save_at=self.times(order),
                save_measures=False,
                stepper=mf.steppers.Adaptive(),
            )

        data = self.records.sweep("density", cell, {"pair": range(len(PAIRS)), "order": ORDERS})
        for pair in range(len(PAIRS)):
            # Attained by nu uniform, where only the tolerance of the steps is left between the two.
            energy = data.energy.sel(pair=pair, order=1.0).values
            bound = mf.bounds.Exponential(energy[0], self.rate(pair), "Sobolev decay")
            times = np.append(0, self.times(1.0))
            self.records.bound(f"density pair={pair} order=1", bound, times, energy, 1e-7 * energy[0])
        return data

    def rate(self, pair: int) -> float:
        """2 min nu: at s = 1 the energy falls at least so fast on a circle of length one, for every nu.

        Along a characteristic the distribution function of mu less that of nu decays at the rate nu.
        """
        last = PAIRS[pair][1]
        return 2.0 if last is None else 2 * float(self.masses[last].min()) * self.preset.cells

    def clouds(self) -> Any:
        """Particle runs by pair and order, from quantiles, with the kernel in closed form.

        They see the modes of nu below their number.
        """
        grid = Grid.uniform(self.circle, 2 * self.preset.width, dtype=self.dtype)
        tight = self.dtype == jnp.float64

        def cell(pair, order):
            # The closed form needs a known order: all three, and one of them chosen.
            first, energies = zip(*[self._energy(pair, s, grid) for s in ORDERS], strict=True)
            chosen = jnp.argmax(jnp.asarray(ORDERS) == order)
            first, energy = first[0], jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen], *energies)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.circle),
                Particles(jnp.asarray(self.quantiles)[first][:, None]),
                save_at=self.times(order),
                save_measures=False,
                stepper=mf.steppers.Adaptive(*((1e-6, 1e-8) if tight else (None, None))),
            )

        axes = {"pair": range(len(PAIRS)), "order": ORDERS}
        return self.records.sweep("particles", cell, axes)

    def two_dimensional(self) -> Any:
        """(grid run, particle run) on the 2-torus at s = 2, from the uniform measure to two bumps."""
        preset = self.preset
        grid = Grid.uniform(self.torus, preset.torus_cells, dtype=self.dtype)
        lattice = Grid.uniform(self.torus, preset.torus_width, dtype=self.dtype)
        saved = self.torus_times[1:]

        def cell(scattered):
            modes, start = (preset.torus_modes, Particles(lattice.points)) if scattered else (None, grid)
            energy = mf.energies.Sobolev(two_bumps, 2.0, self.torus, modes)
            state = lambda mu, flow: mu.weights if isinstance(mu, Grid) else mu.points
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.torus, SPECTRAL),
                start,
                save_at=saved.astype(self.dtype),
                observables={"state": state},
                save_measures=False,
                stepper=mf.steppers.Adaptive(1e-5, 1e-7),
            )

        one = lambda i, name: self.records.sweep(name, cell, {"scattered": [i]}, static=("scattered",))
        return one(0, "torus-grid"), one(1, "torus-particles")

    @cached_property
    def clusters(self) -> tuple[np.ndarray, np.ndarray]:
        """(start, target) in the plane: one cluster away from three."""
        n = self.preset.kernel_width
        noise = 0.15 * np.asarray(jr.normal(jr.key(self.settings.seed), (2, n, 2), self.dtype))
        centers = np.array([[0.0, 0.0], [1.5, 0.0], [2.5, 1.8]])
        return noise[0] + np.array([0.0, 1.2]), noise[1] + centers[np.arange(n) % 3]

    def mmd_flows(self) -> list[Any]:
        """One MMD flow for every kernel, with the energy distance to the target as the common yardstick."""
        preset = self.preset
        start, target = (Particles(jnp.asarray(points)) for points in self.clusters)
        distance = mf.observables.EnergyDistance(target)
        saved = self.kernel_times[1:]

        def cell(family, number):
            energy = mf.energies.MMD(FAMILIES[family](number), target)
            return mf.Simulation(
                mf.flows.Wasserstein(energy, self.plane),
                start,
                stepper=mf.steppers.Heun(preset.kernel_step),
                save_at=saved.astype(self.dtype),
                observables={"position": lambda mu, flow: mu.points, "distance": distance},
                save_measures=False,
            )

        numbers = {family: [value for _, one, value in KERNELS if one == family] for family in FAMILIES}
        tables = {
            family: self.records.sweep(family, partial(cell, family), {"number": values})
            for family, values in numbers.items()
        }
        return [tables[family].sel(number=value) for _, family, value in KERNELS]

    def linear_rates(self) -> dict[float, np.ndarray]:
        """The rates of `mf.linearize` at the uniform measure, modes 1 to 3, by order."""
        grid = Grid.uniform(self.circle, 15, dtype=self.dtype)
        flow = lambda order: mf.flows.Wasserstein(
            mf.energies.Sobolev("uniform", order), self.circle, SPECTRAL
        )
        return {s: np.asarray(mf.linearize(flow(s), grid).rates)[::-1][:6:2] for s in ORDERS}


def two_bumps(x: jax.Array) -> jax.Array:
    """A density on (R / 2 pi Z)^2 with two bumps of different height."""
    bump = lambda center, height: height * jnp.exp(2 * jnp.sum(jnp.cos(x - jnp.asarray(center)) - 1))
    # Each bump has the integral height (2 pi e^{-2} I_0(2))^2.
    return (bump((1.5, 2.0), 0.65) + bump((4.5, 4.2), 0.35)) / (2 * jnp.pi * 0.30850832255367103) ** 2
