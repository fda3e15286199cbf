"""Ultra-fast diffusion by particles: spacings of the power divergence, and the quantization energy.

Oracles: adaptive quadrature of the cells, the velocity of the limit by derivatives of its first variation,
the density on a grid extrapolated over two meshes, Zador's law.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, interpolate

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Quantization, Spacings
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.steppers import RK4, Adaptive, Proximal, Rosenbrock

run = eqx.filter_jit(trajectory)
CIRCLE, TORUS, INTERVAL = mf.domains.Sphere(1), mf.domains.Torus(1), mf.domains.Interval(-1.0, 1.0)
DOMAINS = {"circle": CIRCLE, "torus": TORUS, "interval": INTERVAL}


class Wave:
    """(1 + a cos k s + b cos 2 k s) / L of arc length s, a whole wave if the domain is closed, else half."""

    def __init__(self, domain, a=0.3, b=0.0):
        axis = domain.axes[0]
        self.domain, self.a, self.b, self.lower = domain, a, b, float(axis.lower)
        self.length = float(axis.upper) - self.lower
        self.k = (2 if axis.closed else 1) * np.pi / self.length

    def __call__(self, x):
        turn = self.k * (self.domain.coordinates(x)[0] - self.lower)
        return (1 + self.a * jnp.cos(turn) + self.b * jnp.cos(2 * turn)) / self.length

    def cumulative(self, s):
        turn = self.k * s
        return (s + (self.a * np.sin(turn) + self.b * np.sin(2 * turn) / 2) / self.k) / self.length

    def quantiles(self, levels):
        """The points at some levels of mass, counted from the lower end."""
        s = levels * self.length
        for _ in range(60):
            turn = self.k * s
            slope = (1 + self.a * np.cos(turn) + self.b * np.cos(2 * turn)) / self.length
            s = s - (self.cumulative(s) - levels) / slope
        return jax.vmap(self.domain.point)(jnp.asarray(s + self.lower)[:, None])

    def particles(self, n):
        return Particles(self.quantiles((np.arange(n) + 0.5) / n))


def target(domain):
    """Of which particles become the quantizers: even about the ends, as `Wave` is, so that nothing turns."""
    return Wave(domain, -0.5, 0.2)


def orders(errors):
    return np.log2(np.divide(errors[:-1], errors[1:]))


# --- against integrals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torus", "interval"])
def test_the_value_is_the_integral_over_the_cells(name):
    """To rounding, for unequal masses and orders between the whole ones, by few cells that are not small."""
    domain = DOMAINS[name]
    random = np.random.default_rng(0)
    x, m = np.sort(random.uniform(-1, 1, 7)), random.dirichlet(np.ones(7))
    if name == "torus":
        x = 0.5 * (x + 1)
    nu = lambda x: 1 + 0.5 * jnp.cos(jnp.pi * 2 * x[0])
    cost = lambda r, x, side, m, p: (r / m) ** p * (1 + 0.5 * np.cos(2 * np.pi * (x + side * r)))
    value = jax.jit(lambda p: Quantization(nu, domain, p)(Particles(jnp.asarray(x)[:, None], m)))
    for p in (1.0, 1.5, 2.0, 3.3):
        total = 0.0
        for i in range(7):
            for side in (1, -1):
                j, inside = (i + side) % 7, 0 <= i + side < 7
                if inside or name == "torus":
                    reach = (side * (x[j] - x[i])) % 1.0 * m[i] / (m[i] + m[j])
                else:
                    reach = 1 - side * x[i]
                total += integrate.quad(cost, 0, reach, (x[i], side, m[i], p), epsabs=0, epsrel=1e-13)[0]
        np.testing.assert_allclose(value(p), total, rtol=1e-13)


def test_equal_masses_give_the_classical_energy():
    """N^p times int min_i |x - x_i|^p dnu, by the midpoint rule over the circle; the rest is padding."""
    energy, points = Quantization(target(CIRCLE), CIRCLE, 3), CIRCLE.sample(jax.random.key(1), 9)
    value = jax.jit(lambda n: energy.solve(Particles(points, padded_weights(n, 9))).value)
    fine = Grid.uniform(CIRCLE, 4000)
    angle = lambda x: np.arctan2(x[:, 1], x[:, 0])
    density = jax.vmap(energy.density)(fine.points)
    for n in (1, 2, 9):
        away = np.abs((angle(fine.points)[:, None] - angle(points[:n]) + np.pi) % (2 * np.pi) - np.pi)
        classical = np.sum(np.min(away, axis=1) ** 3 * density) * float(fine.volume)
        np.testing.assert_allclose(value(n), n**3 * classical, rtol=1e-5)


# --- the limit of many particles --------------------------------------------------------------------------


@pytest.mark.slow_cases("equal-circle", "alternating-torus", "equal-interval")
@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("masses", ["equal", "alternating"])
def test_the_value_tends_to_that_of_the_limit(name, masses):
    """C int nu mu^-p: to second order, also where the masses of neighbors differ by a factor of three."""
    domain, p = DOMAINS[name], 2.5
    energy = Quantization(target(domain), domain, p)
    mu = Grid.from_density(domain, 4096, Wave(domain))
    exact = float(mu.volume * jnp.sum(jax.vmap(target(domain))(mu.points) / mu.density**p)) / (2**p * (p + 1))
    np.testing.assert_allclose(energy.energy(mu), exact, rtol=1e-12)
    errors, value = [], eqx.filter_jit(lambda mu: energy.solve(mu).value)
    for n in (32, 128):
        m = (np.ones(n) if masses == "equal" else np.tile([0.5, 1.5], n // 2)) / n
        at = Particles(Wave(domain).quantiles(np.cumsum(m) - 0.5 * m), m)
        errors.append(abs(float(value(at)) / exact - 1))
    print(f"value, {name}, {masses} masses: {errors}, order {orders(errors) / 2}")
    assert abs(orders(errors)[0] / 2 - 2) < 0.15 and errors[-1] < 1e-3, errors


@pytest.mark.slow_cases("circle-2.0", "torus-1.5", "torus-2.0", "interval-2.0")
@pytest.mark.parametrize("p", [2.0, 1.5])
@pytest.mark.parametrize("name", DOMAINS)
def test_velocities_tend_to_those_of_the_limit(name, p):
    """-grad U' of the power divergence at the particles: second order, first for the one beside a wall."""
    domain, f = DOMAINS[name], Wave(DOMAINS[name])
    energy = Quantization(target(domain), domain, p)
    variation = lambda x: energy.energy.derivative(f(x)[None], x[None])[0]
    spacings = Spacings(energy.energy, domain)

    @eqx.filter_jit
    def gaps(mu):
        exact = jax.vmap(jax.grad(variation))(mu.points)
        size = lambda v: jnp.sqrt(jnp.mean(v**2))
        return jnp.stack([size(e.gradient_field(mu) - exact) for e in (energy, spacings)]) / size(exact)

    errors = np.asarray([gaps(f.particles(n)) for n in (32, 128)])
    found = orders(errors)[0] / 2
    print(f"velocity, {name}, p = {p:g}: orders {found}, errors {errors[-1]}")
    assert abs(found[0] - 2) < 0.1 and found[1] > (1.4 if name == "interval" else 1.9), (found, errors)
    assert np.all(errors[-1] < 3e-3), errors


def extrapolated(energy, n, t1):
    """The cumulative mass of the density at the faces of n cells, from n and 2 n of them."""
    domain, masses = energy.domain, []
    for cells in (n, 2 * n):
        grid = Grid.uniform(domain, cells)
        wave = Wave(domain)
        lower = float(domain.coordinates(grid.points[0])[0] - 0.5 * grid.spacing[0]) - wave.lower
        mu = grid.with_weights(np.diff(wave.cumulative(lower + np.linspace(0, wave.length, cells + 1))))
        sim = mf.Simulation(
            mf.flows.Wasserstein(energy.energy, domain), mu, t1=t1, stepper=Rosenbrock(1e-7, 1e-9)
        )
        carry, _ = run(sim)
        assert int(carry.status) == 0
        masses.append(np.asarray(carry.state.measure.weights).reshape(n, -1).sum(axis=1))
    levels = wave.cumulative(lower) + np.append(0, np.cumsum((4 * masses[1] - masses[0]) / 3))
    return lower + np.linspace(0, wave.length, n + 1), levels


@pytest.mark.slow
@pytest.mark.parametrize("estimate", ["quantization", "spacings"])
@pytest.mark.parametrize(("name", "p"), [("circle", 2.0), ("circle", 4.0), ("interval", 1.5), ("torus", 2.0)])
def test_particles_follow_the_density_at_second_order(name, p, estimate):
    """Quantiles of a smooth density: the levels of the density at the particles, half a decay time later."""
    domain, wave = DOMAINS[name], Wave(DOMAINS[name])
    energy = Quantization(target(domain), domain, p)
    moving = energy if estimate == "quantization" else Spacings(energy.energy, domain)
    t1 = 0.5 * 2**p / (p * wave.length**p * wave.k**2)
    places, levels = extrapolated(energy, 128, t1)
    # Mass over arc length, less a straight line, which returns to where it began.
    bend = levels - places / wave.length
    bend[-1] = bend[0]
    bend = interpolate.CubicSpline(places, bend, bc_type="periodic" if domain.closed[0] else "not-a-knot")
    errors = []
    for n in (16, 32, 64):
        flow = mf.flows.Wasserstein(moving, domain)
        carry, _ = run(mf.Simulation(flow, wave.particles(n), t1=t1, stepper=Adaptive(1e-7, 1e-9)))
        assert int(carry.status) == 0
        end = np.asarray(jax.vmap(domain.coordinates)(carry.state.measure.points)[:, 0]) - wave.lower
        reached = bend(end) + end / wave.length
        errors.append(np.max(np.abs(reached - (np.arange(n) + 0.5) / n)))
    print(f"{estimate}, {name}, p = {p:g}: errors of levels {errors}, orders {orders(errors)}")
    assert np.all(np.abs(orders(errors) - 2) < 0.1), errors


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), [("interval", 1.5), ("circle", 4.0), ("circle", 2.0)])
def test_zador(name, p):
    """At rest: C Z^(p + 1), and points that are quantiles of nu^(1/(p + 1)), both to second order."""
    domain, nu = DOMAINS[name], target(DOMAINS[name])
    energy, wave = Quantization(nu, domain, p), Wave(domain)
    s = np.linspace(0, wave.length, 2001)
    at = jax.vmap(lambda s: domain.point((s + wave.lower)[None]))(jnp.asarray(s))
    best = interpolate.CubicSpline(s, np.asarray(jax.vmap(nu)(at)) ** (1 / (p + 1))).antiderivative()
    total = best(wave.length)
    errors, values = [], []
    for n in (8, 16):
        slow = 2**p / (p * wave.length**p * wave.k**2)
        sim = mf.Simulation(
            mf.flows.Wasserstein(energy, domain), wave.particles(n), stepper=Proximal(5 * slow), steps=25
        )
        carry, (_, recorded) = run(sim)
        assert int(carry.status) == 0
        values.append(abs(float(recorded["energy"][-1]) / (total ** (p + 1) / (2**p * (p + 1))) - 1))
        end = np.asarray(jax.vmap(domain.coordinates)(carry.state.measure.points)[:, 0]) - wave.lower
        levels = best(np.sort(end)) / total
        errors.append(np.max(np.abs(levels - (np.arange(n) + 0.5) / n)))
    print(f"Zador, {name}, p = {p:g}: values off by {values}, levels by {errors}")
    assert abs(orders(values)[0] - 2) < 0.3 and abs(orders(errors)[0] - 2) < 0.4, (values, errors)


# --- derivatives ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_derivatives_of_runs(dtype):
    """Of a number at the end, in the order, the density and the start, against central differences."""

    @jax.jit
    def end(numbers):
        p, a, shift = numbers
        nu = jax.tree_util.Partial(lambda a, x: 1 + a * x[0] + 0.3 * x[1] ** 2, a)
        mu = Wave(CIRCLE).particles(6)
        points = mu.points.astype(dtype)
        angles = jnp.arctan2(points[:, 1], points[:, 0]) + shift * jnp.asarray(
            [0.1, -0.2, 0.3, 0, 0.2, 0.1], dtype
        )
        mu = Particles(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1))
        flow = mf.flows.Wasserstein(Quantization(nu, CIRCLE, p), CIRCLE)
        carry, _ = trajectory(mf.Simulation(flow, mu, stepper=RK4(1e-3), steps=4))
        return jnp.sum(carry.state.measure.points[:, 0] ** 3)

    at = jnp.asarray([2.3, 0.4, 0.1], dtype)
    step = float(jnp.finfo(dtype).eps) ** (1 / 3)
    exact = jax.jit(jax.grad(end))(at)
    assert exact.dtype == dtype
    differences = [(end(at.at[i].add(step)) - end(at.at[i].add(-step))) / (2 * step) for i in range(3)]
    np.testing.assert_allclose(exact, differences, rtol={"float32": 3e-2, "float64": 1e-7}[dtype], atol=step)
