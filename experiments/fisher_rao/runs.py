"""The runs: modes on S^1 and S^2, a teacher, neurons, measures of both signs, births and deaths."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.special import roots_jacobi

import mfjax as mf
from _lab.records import Records, Runs, times_of
from mfjax.measures import Grid, Particles
from mfjax.problems import CircleTeacher, relu_coefficients

from .gradient_flow import neurons

# (alpha, beta) of trained outer weights, and of those bound to the length of the inner ones.
BETAS = (2.0, 4.0)
SHOWN = 5
GAMMA = 10.0
# Dimensions of the spheres whose zones are seen, and where the density of a teacher jumps, off the equator.
DIMS = (1, 2, 3, 10)
EDGE = np.pi / 3
# Teachers of zones with r, their smoothness in the scale of dot-H^r.
ROUGH = {"jump": 0.5, "kink": 1.5}
SIGNED = CircleTeacher(GAMMA, centers=(0.6, -1.8), masses=(0.6, -0.4))


def circle_points(angle):
    """Unit vectors of angles."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def circle_modes(degree):
    """The observable int cos(k theta) dmu, k = 0, ..., degree."""

    def modes(mu, flow):
        angle = jnp.arctan2(mu.points[:, 1], mu.points[:, 0])
        return mu.integrate(jnp.cos(angle[:, None] * jnp.arange(degree + 1)))

    return modes


def legendre(z, degree):
    """P_0, ..., P_degree at numbers z, along the last axis."""
    values = [jnp.ones_like(z), z]
    for k in range(1, degree):
        values.append(((2 * k + 1) * z * values[-1] - k * values[-2]) / (k + 1))
    return jnp.stack(values[: degree + 1], axis=-1)


def sphere_modes(mu, flow):
    """The observable int P_l(z) dmu on S^2, l = 0, ..., SHOWN."""
    return mu.integrate(legendre(mu.points[:, 2], SHOWN))


def sphere_coefficients():
    """(1/2) int kappa(u) P_l(u) du, l = 0, ..., SHOWN, of the ReLU kernel on S^2, u = cos t."""
    node, weight = np.polynomial.legendre.leggauss(400)
    t = np.arccos(node)
    kappa = (np.sin(t) + (np.pi - t) * node) / (2 * np.pi)
    return 0.5 * (weight * kappa) @ np.asarray(legendre(jnp.asarray(node), SHOWN))


def growth_decay(energy, masses, target, beta):
    """F(mu_t) <= 1 / (1 / F(mu_0) + 4 beta t / max chi^2) for a quadratic F that vanishes at the target.

    2 F = int V d(mu - nu) <= |V| |1 - dnu/dmu| in L^2(mu), and dF/dt <= -beta |V|^2, by growth alone. What
    is measured along the run is chi^2 = |1 - dnu/dmu|^2, so the bound is one a posteriori.
    """
    worst = np.max(np.sum((masses - target) ** 2 / masses, axis=-1))
    return mf.bounds.Algebraic(energy[0], 4 * beta / worst, "decay by growth")


def rough_teacher(kind, dim, amplitude=0.5, nodes=400):
    """Particles at the nodes of a quadrature: a zonal law with a jump at EDGE, or a kink at the equator."""
    at = EDGE if kind == "jump" else np.pi / 2
    node, weight = np.polynomial.legendre.leggauss(nodes)
    angle = np.concatenate([at * (node + 1) / 2, at + (np.pi - at) * (node + 1) / 2])
    volume = np.concatenate([at * weight, (np.pi - at) * weight]) * np.sin(angle) ** (dim - 1)
    volume = volume / volume.sum()
    shape = np.where(angle < at, 1.0, 0.0) if kind == "jump" else np.abs(np.cos(angle))
    shape = shape - volume @ shape
    return Particles(angle[:, None], volume * (1 + amplitude * shape / np.abs(shape).max()))


class Zones(NamedTuple):
    """A population risk on the zones of S^d; the misfit of the uniform law and linear rates, by harmonic."""

    risk: mf.energies.Risk
    gap: np.ndarray
    rates: np.ndarray

    def linear_energy(self, times):
        """The energy of the flow that starts at the uniform law, linearized there."""
        squares = self.gap**2
        return np.exp(-2 * np.outer(times, self.rates)) @ squares / (2 * squares.size)


class Neurons(Runs):
    """Measures of neurons on spheres, by modes, masses and places."""

    def __init__(self, records: Records):
        super().__init__(records)
        self.circle = mf.domains.Sphere(1)
        self.features = mf.features.CircleModes(relu_coefficients(0.0, self.preset.degree, dtype=self.dtype))
        # Before any sweep: a tracer would not leave the cell that first asked for them.
        self.uniform_risk = self.population(np.eye(1, self.preset.degree + 1)[0] + 0j)
        self.teacher_risk = self.population(CircleTeacher(GAMMA).fourier(self.preset.degree))

    def population(self, moments: Any, features: Any = None) -> mf.energies.Risk:
        """The population risk of a teacher with these moments int e^{ik theta} dnu, k = 0, ..., degree."""
        y = self.features.image(jnp.asarray(moments)).astype(self.dtype)
        return mf.energies.Risk(features or self.features, self.features.inputs(), y)

    def zones(self, kind: str, dim: int) -> Zones:
        """The ReLU population risk of a rough teacher on S^dim, seen by zones."""
        degree = self.preset.zone_degree
        coefficients = relu_coefficients(0.0, degree, dim, dtype=self.dtype)
        features = mf.features.ZonalModes(coefficients, dim)
        image = lambda mu: features.matrix(mu.points, features.inputs()) @ mu.weights
        y = image(rough_teacher(kind, dim)).astype(self.dtype)
        risk = mf.energies.Risk(features, features.inputs(), y)
        k = np.arange(degree + 1)
        rates = (k * (k + dim - 1) + BETAS[0]) * np.asarray(coefficients)
        # Of all harmonics the uniform law has the constant alone.
        uniform = np.where(k == 0, np.asarray(features.image(jnp.ones(degree + 1, self.dtype))), 0)
        return Zones(risk, np.asarray(y) - uniform, rates)

    def zone_series(self, kind: str, dim: int) -> Any:
        """A rough teacher learnt from the uniform law, on S^dim by its zones: particles with masses."""
        domain, preset, risk = mf.domains.Zonal(dim), self.preset, self.zones(kind, dim).risk
        # The uniform law at Gauss nodes: errors of other ones fall as slowly as what is looked for.
        height, masses = roots_jacobi(preset.zones, dim / 2 - 1, dim / 2 - 1)
        start = Particles(jnp.asarray(np.arccos(height)[:, None], self.dtype), masses / masses.sum())

        def cell(beta):
            flow = mf.flows.WassersteinFisherRao(risk, domain, 1.0, beta)
            return mf.Simulation(
                flow,
                start,
                stepper=mf.steppers.RK4(preset.zone_step),
                save_at=preset.times(preset.zone_time, preset.zone_step),
                save_measures=False,
            )

        return self.records.sweep(f"zones-{kind}-{dim}", cell, {"beta": BETAS[:1]})

    def angles(self, width: int):
        """Evenly spaced angles."""
        return 2 * jnp.pi * (jnp.arange(width, dtype=self.dtype) + 0.5) / width

    def simulation(self, flow: Any, mu: Any, end: float, stepper: Any = None, **observables: Any):
        """An unevaluated run to `end`."""
        return mf.Simulation(
            flow,
            mu,
            stepper=stepper or mf.steppers.RK4(self.preset.step),
            save_at=self.preset.times(end),
            observables=observables,
            save_measures=False,
        )

    def circle_series(self, on_grid: bool) -> Any:
        """Modes of the perturbed uniform law on S^1, as particles with masses or as a density."""
        preset, modes = self.preset, circle_modes(SHOWN)

        def cell(beta, amplitude):
            angle = self.angles(preset.cells if on_grid else preset.width)
            waves = 0.5 + sum(jnp.cos(k * angle) for k in range(1, SHOWN + 1))
            masses = (1 + amplitude * waves) / angle.size
            grid = Grid.uniform(self.circle, angle.size, dtype=self.dtype)
            mu = grid.with_weights(masses) if on_grid else Particles(circle_points(angle), masses)
            flow = mf.flows.WassersteinFisherRao(self.uniform_risk, self.circle, 1.0, beta)
            return self.simulation(flow, mu, preset.time, modes=modes)

        name = "circle-density" if on_grid else "circle-particles"
        return self.records.sweep(name, cell, {"beta": BETAS, "amplitude": preset.amplitudes})

    def sphere_series(self) -> Any:
        """Modes of the perturbed uniform law on S^2: particles at the nodes of a quadrature."""
        rings, domain = self.preset.rings, mf.domains.Sphere(2)
        node, weight = np.polynomial.legendre.leggauss(rings)
        angle = np.pi * (np.arange(2 * rings) + 0.5) / rings
        z = np.repeat(node, 2 * rings)
        around = np.tile(np.stack([np.cos(angle), np.sin(angle)], axis=-1), (rings, 1))
        points = np.concatenate([np.sqrt(1 - z**2)[:, None] * around, z[:, None]], axis=1)
        points = jnp.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), self.dtype)
        masses = jnp.asarray(np.repeat(weight, 2 * rings) / (4 * rings), self.dtype)
        energy = mf.energies.MMD(mf.kernels.ArcCosine(), Particles(points, masses))
        shape = legendre(points[:, 2], SHOWN) @ jnp.array([0.5, *[1.0] * SHOWN], self.dtype)

        def cell(beta, amplitude):
            mu = Particles(points, masses * (1 + amplitude * shape))
            flow = mf.flows.WassersteinFisherRao(energy, domain, 1.0, beta)
            stepper = mf.steppers.RK4(2 * self.preset.step)
            return self.simulation(flow, mu, self.preset.time, stepper, modes=sphere_modes)

        axes = {"beta": BETAS, "amplitude": self.preset.amplitudes[-1:]}
        return self.records.sweep("sphere-particles", cell, axes)

    def teacher_series(self) -> Any:
        """A density that learns the teacher with two bumps, from the uniform law."""
        modes = circle_modes(min(12, self.preset.degree))
        masses = lambda mu, flow: mu.weights

        def cell(beta):
            grid = Grid.uniform(self.circle, self.preset.cells, dtype=self.dtype)
            flow = mf.flows.WassersteinFisherRao(self.teacher_risk, self.circle, 1.0, beta)
            return self.simulation(flow, grid, self.preset.teacher_time, modes=modes, masses=masses)

        data = self.records.sweep("teacher", cell, {"beta": BETAS})
        target = np.asarray(Grid.from_density(self.circle, self.preset.cells, CircleTeacher(GAMMA)).weights)
        for beta in BETAS:
            run = data.sel(beta=beta)
            bound = growth_decay(run.energy.values, run.masses.values, target, beta)
            self.records.bound(f"teacher beta={beta:g}", bound, times_of(data), run.energy.values)
        return data

    def neuron_series(self) -> Any:
        """Particles on S^1 and, integrated by themselves, the neurons that they stand for."""
        seed = jr.key(self.settings.seed)
        for_angle, for_mass = jr.split(seed)
        width = self.preset.students
        angle = 2 * jnp.pi * jr.uniform(for_angle, (width,), self.dtype)
        masses = 0.02 + 0.1 * jr.uniform(for_mass, (width,), self.dtype)
        teachers, c = circle_points(jnp.array([0.3, 2.2, 4.2], self.dtype)), jnp.array([1.0, 0.6, 0.4])
        energy = mf.energies.MMD(mf.kernels.ArcCosine(), Particles(teachers, c.astype(self.dtype)))
        end = min(40.0, self.preset.time)
        records = {"place": lambda mu, flow: mu.points, "masses": lambda mu, flow: mu.weights}

        def cell(beta):
            flow = mf.flows.WassersteinFisherRao(energy, self.circle, 1.0, beta)
            stepper = mf.steppers.RK4(0.1 * self.preset.step)
            return self.simulation(flow, Particles(circle_points(angle), masses), end, stepper, **records)

        def compare(data):
            times, axes = times_of(data), data.place.dims
            start = np.sqrt(np.asarray(masses))[:, None] * np.asarray(circle_points(angle))
            b, gap = np.zeros(data.place.shape), np.zeros(data.energy.shape)
            for i, beta in enumerate(BETAS):
                a, b[i] = neurons(times, beta == 4.0, start, np.asarray(teachers), np.asarray(c))
                length = np.linalg.norm(b[i], axis=-1)
                by_mass = np.abs(a * length - data.masses.values[i]).max(axis=1)
                by_place = np.abs(b[i] / length[..., None] - data.place.values[i]).max(axis=(1, 2))
                gap[i] = np.maximum(by_mass, by_place)
            return data.assign(neurons=(axes, b), gap=(data.energy.dims, gap))

        return self.records.sweep("neurons", cell, {"beta": BETAS}, derive=compare)

    def signed_series(self, on_grid: bool) -> Any:
        """Both signs at once, towards a teacher of a positive and a negative bump."""
        pair, n = mf.domains.Signed(self.circle), self.preset.cells if on_grid else self.preset.width
        energy = self.population(
            SIGNED.fourier(self.preset.degree), mf.features.SignedFeatures(self.features)
        )
        grid = Grid(pair, n, dtype=self.dtype)
        start = grid if on_grid else Particles(grid.points)

        def cell(beta):
            flow = mf.flows.WassersteinFisherRao(energy, pair, 1.0, beta)
            records = {"masses": lambda mu, flow: mu.weights, "place": lambda mu, flow: mu.points}
            return self.simulation(flow, start, self.preset.time, **records)

        name = "signed-density" if on_grid else "signed-particles"
        return self.records.sweep(name, cell, {"beta": BETAS[:1]})

    def birth_flow(self) -> mf.flows.WassersteinFisherRao:
        """The flow whose masses are realized by births and deaths."""
        return mf.flows.WassersteinFisherRao(self.teacher_risk, self.circle, 1.0, BETAS[0])

    def birth_series(self) -> Any:
        """Births and deaths from M particles of mass 1.5 / M."""
        modes = circle_modes(2)

        def cell(width, seed):
            slots = jnp.arange(2 * width)
            points = circle_points(self.angles(width)[slots % width])
            masses = jnp.where(slots < width, 1.5 / width, 0).astype(self.dtype)
            return mf.Simulation(
                self.birth_flow(),
                Particles(points, masses),
                stepper=mf.steppers.BirthDeath(self.preset.birth_step),
                save_at=np.linspace(0, self.preset.birth_time, 17)[1:],
                observables={"modes": modes},
                key=jr.key(seed),
                save_measures=False,
            )

        axes = {"width": self.preset.widths, "seed": self.settings.seeds}
        return self.records.sweep("births", cell, axes)

    def masses_series(self) -> Any:
        """The same flow, in the same steps, with masses that grow."""

        def cell(beta):
            flow = self.birth_flow()
            angle = self.angles(self.preset.width)
            mu = Particles(circle_points(angle), jnp.full(angle.shape, 1.5 / angle.size, self.dtype))
            return mf.Simulation(
                flow,
                mu,
                stepper=mf.steppers.Euler(self.preset.birth_step),
                save_at=np.linspace(0, self.preset.birth_time, 17)[1:],
                observables={"modes": circle_modes(2)},
                save_measures=False,
            )

        return self.records.sweep("masses", cell, {"beta": BETAS[:1]})
