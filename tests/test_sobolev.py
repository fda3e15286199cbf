"""Kernel mean discrepancies: closed forms, exact solution at s = 1, linear rates, PDE against particles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import mpmath
import numpy as np
import pytest

import mfjax as mf
from mfjax import kernels
from mfjax._engine.loop import trajectory
from mfjax.energies import Interaction, PorousMedium, Potential, Sobolev
from mfjax.flows import Wasserstein
from mfjax.grids import Spectral
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.steppers import RK4, Adaptive
from mfjax.testing import check_energy, check_flow, check_traces
from mfjax.theory.spectrum import linearize

LINE, PLANE = mf.domains.Torus(1), mf.domains.Torus(2, 2.0)
MASSES = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])
run = eqx.filter_jit(trajectory)
value_of = eqx.filter_jit(lambda energy, mu: energy.solve(mu).value)


def particles(domain=LINE, dtype="float64"):
    return Particles(domain.sample(jr.key(1), 5, dtype), MASSES)


def bump(x):
    return 1 + 0.5 * jnp.cos(2 * jnp.pi * x[0])


def tilted(x):
    return 1 + 0.4 * jnp.sin(2 * jnp.pi * x[0])


def end(energy, mu, stepper, t1, domain=LINE, space=None):
    flow = Wasserstein(energy, domain, **({} if space is None else {"space": space}))
    carry, records = run(mf.Simulation(flow, mu, stepper=stepper, t1=t1))
    assert int(carry.status) == 0
    return carry.state.measure, records


# --- kernels


@pytest.mark.slow_cases("0.75")
@pytest.mark.parametrize("order", [0.75, 1.0, 1.25, 1.5, 1.500001, 2.0, 2.5, 3.0])
def test_closed_form_against_the_polylogarithm(order):
    """L^{2s-1} 2 (2 pi)^{-2s} Re Li_{2s}(e^{2 pi i t}) by mpmath in 30 digits."""
    period = 2.5
    kernel, s = kernels.NegativeSobolev(order, mf.domains.Torus(1, period)), mpmath.mpf(order)
    t = np.array([0.0, 1e-6, 1e-3, 0.1, 0.25, 0.49, 0.5, 0.7])
    scale = 2 * period ** (2 * order - 1) * (2 * np.pi) ** (-2 * order)
    with mpmath.workdps(30):
        roots = [mpmath.exp(2j * mpmath.pi * mpmath.mpf(u)) for u in t]
        exact = [mpmath.re(mpmath.polylog(2 * s, z)) if z != 1 else mpmath.zeta(2 * s) for z in roots]
        exact = scale * np.array([float(v) for v in exact])
    for dtype, bar in (("float64", 1e-14 if order != 1.500001 else 1e-9), ("float32", 2e-6)):
        points = jnp.asarray(period * t, dtype)[:, None]
        value = jax.vmap(kernel, (0, None))(points, jnp.zeros((1,), dtype))
        assert value.dtype == dtype
        exact_there = exact if dtype == "float64" or order > 0.8 else None
        if exact_there is not None:
            np.testing.assert_allclose(value, exact, atol=bar * scale)


def test_closed_forms_are_bernoulli_polynomials():
    t = jnp.linspace(0, 1, 11)[:-1]
    at = lambda s: jax.vmap(lambda u: kernels.NegativeSobolev(s)(u[None], jnp.zeros(1)))(t)
    np.testing.assert_allclose(at(1.0), (t**2 - t + 1 / 6) / 2, atol=1e-15)
    np.testing.assert_allclose(at(2.0), -(t**4 - 2 * t**3 + t**2 - 1 / 30) / 24, atol=1e-15)


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0])
def test_forces_at_and_near_coincidence(order):
    force = jax.grad(lambda x: kernels.NegativeSobolev(order)(x, jnp.zeros(1)))
    assert float(force(jnp.zeros(1))[0]) == 0
    near = float(force(jnp.array([1e-8]))[0])
    assert near == pytest.approx(-0.5, rel=1e-6) if order == 1 else abs(near) < 1e-5


def test_named_cases_of_riesz_and_matern():
    x, y = jnp.array([0.3, 1.0]), jnp.array([-0.2, 0.4])
    same = lambda a, b: np.testing.assert_allclose(a(x, y), b(x, y), rtol=1e-14)
    same(kernels.Riesz(1.0, 0.7), kernels.Distance(0.7))
    same(kernels.Matern(0.5, 0.7), kernels.Laplace(0.7))
    same(
        kernels.SignedKernel(kernels.Distance()), lambda x, y: x[0] * y[0] * kernels.Distance()(x[1:], y[1:])
    )
    r = np.linalg.norm(np.subtract(x, y))
    np.testing.assert_allclose(kernels.Riesz(0.5)(x, y), -(r**0.5), rtol=1e-14)
    for smoothness in (1.5, 2.5):
        # The general formula, 2^{1-v} / Gamma(v) z^v K_v(z).
        from scipy.special import gamma, kv

        z = np.sqrt(2 * smoothness) * r / 0.7
        exact = 2 ** (1 - smoothness) / gamma(smoothness) * z**smoothness * kv(smoothness, z)
        np.testing.assert_allclose(kernels.Matern(smoothness, 0.7)(x, y), exact, rtol=1e-13)
    # Conditionally positive definite: forms in masses of sum zero are non-negative.
    points = jr.normal(jr.key(0), (12, 2))
    for kernel in (kernels.Riesz(0.5), kernels.Riesz(1.5), kernels.Matern(1.5), kernels.Matern(2.5)):
        gram = jax.vmap(jax.vmap(kernel, (None, 0)), (0, None))(points, points)
        mean_free = np.eye(12) - 1 / 12
        assert np.linalg.eigvalsh(mean_free @ gram @ mean_free)[0] > -1e-12


# --- energies

SOURCES = {
    "uniform": "uniform",
    "density": bump,
    "grid": Grid.from_density(LINE, 32, bump),
    "particles": Particles(LINE.sample(jr.key(3), 4), [0.4, 0.1, 0.3, 0.2]),
}


@pytest.mark.slow_cases("particles-1.0-None", "density-1.5-12")
@pytest.mark.parametrize(
    ("source", "order", "modes"),
    [("particles", 1.0, None), ("density", 1.5, 12)],
)
def test_generic(source, order, modes):
    make = lambda s: Sobolev(SOURCES[source], s, modes=modes)
    check_energy(make(order), particles(), variants=[make(order + 0.5)])


@pytest.mark.slow
def test_generic_in_two_dimensions_and_single_precision():
    make = lambda s: Sobolev(Particles(PLANE.sample(jr.key(3), 4)), s, PLANE, modes=3)
    check_energy(make(1.5), particles(PLANE, "float32"), variants=[make(2.5)])
    check_energy(
        Interaction(kernels.Gaussian(0.5)), particles(), variants=[Interaction(kernels.Gaussian(1.0))]
    )


@pytest.mark.slow_cases("grid", "density")
@pytest.mark.parametrize("source", SOURCES)
def test_closed_form_against_a_long_series(source):
    """Tails as the docstring states them: 2 (2 pi)^{-2s} modes^{1-2s} / (2s - 1) of the kernel."""
    modes, mu = 400, particles()
    for order in (1.0, 1.5, 2.0):
        closed, series = Sobolev(SOURCES[source], order), Sobolev(SOURCES[source], order, modes=modes)
        tail = 2 * (2 * np.pi) ** (-2 * order) * modes ** (1 - 2 * order) / (2 * order - 1)
        gap = float(value_of(closed, mu) - value_of(series, mu))
        assert abs(gap) < 2 * tail
        # The tail of K_s(0) is missing from every self-energy: it is there, and positive.
        assert gap > 0.1 * float(jnp.sum(MASSES**2)) * tail / 2


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(15,), (6, 8)])
def test_values_on_a_grid(shape):
    """Potential in the cells = series at their centers = derivative in the masses."""
    domain = LINE if len(shape) == 1 else PLANE
    masses = np.random.default_rng(0).exponential(size=(2, np.prod(shape)))
    mu, nu = (Grid(domain, shape, m / m.sum()) for m in masses)
    atoms = Particles(domain.sample(jr.key(3), 4))
    for target in ("uniform", nu, atoms, bump):
        energy = Sobolev(target, 1.3, domain)
        potential = eqx.filter_jit(type(energy).first_variation)(energy, mu)
        size = float(jnp.max(jnp.abs(potential)))
        slope = jax.grad(lambda w, energy=energy: value_of(energy, mu.with_weights(w)))(mu.weights)
        np.testing.assert_allclose(slope, potential, atol=1e-12 * size)
        series = jax.vmap(energy.potential(mu))(mu.points)
        np.testing.assert_allclose(series, potential, atol=1e-12 * size)
    # The same energy as particles at the cells, whose modes beyond those of the grid are left out.
    if len(shape) == 1:
        seen = Sobolev("uniform", 1.3, modes=7)(Particles(mu.points, mu.weights))
        np.testing.assert_allclose(Sobolev("uniform", 1.3)(mu), seen, rtol=1e-12)


@pytest.mark.slow
def test_the_order_is_swept_without_retracing():
    mu, grid = particles(), Grid.from_density(LINE, 16, bump)
    value = lambda s, mu: Sobolev("uniform", s, modes=None if isinstance(mu, Grid) else 8).solve(mu).value
    for measure in (mu, grid):
        orders = jnp.array([1.0, 1.5, 2.0])
        batch = eqx.filter_jit(jax.vmap(value, (0, None)))(orders, measure)
        np.testing.assert_allclose(batch, [value(s, measure) for s in orders], rtol=1e-12)
        assert check_traces(value, [(s, measure) for s in orders]) == 1
        slope = jax.grad(value)(1.5, measure)
        difference = (value(1.5 + 1e-5, measure) - value(1.5 - 1e-5, measure)) / 2e-5
        np.testing.assert_allclose(slope, difference, rtol=1e-8)


@pytest.mark.slow
def test_whole_runs_over_the_order_share_one_trace():
    """One program for particles, one for a grid, over s."""
    for mu, options in ((particles(), {"modes": 8}), (Grid.from_density(LINE, 16, bump), {})):
        space = Spectral() if isinstance(mu, Grid) else mf.grids.FiniteVolume()

        def final(s, mu=mu, options=options, space=space):
            flow = Wasserstein(Sobolev("uniform", s, **options), LINE, space)
            return trajectory(mf.Simulation(flow, mu, stepper=RK4(0.05), t1=0.2))[0].evaluation.energy

        orders = jnp.array([1.0, 1.5, 2.0])
        assert check_traces(jax.vmap(final), [(orders,), (orders + 0.25,)]) == 1


# --- the flow at s = 1


def exact_quantiles(x0, t):
    """x_i' = -(x_i - mean - (i - (N + 1) / 2) / N): from sum_j K'(x_i - x_j), K'(z) = z - sign(z) / 2."""
    n = len(x0)
    lattice = (np.arange(1, n + 1) - (n + 1) / 2) / n
    rest = x0 - x0.mean() - lattice
    return x0.mean() + lattice + np.exp(-np.asarray(t))[:, None] * rest


def test_exact_solution_at_s_1():
    """N = 50 against the exact quantiles; E - 1 / (24 N^2) decays at the rate 2."""
    n, times, stepper = 50, [0.5, 1.0, 2.0, 4.0], Adaptive(1e-11, 1e-12)
    x0 = 0.1 + 0.8 * np.sort(np.random.default_rng(3).random(n)) ** 1.5
    flow = Wasserstein(Sobolev("uniform", 1.0), LINE)
    carry, records = run(mf.Simulation(flow, Particles(x0[:, None]), stepper=stepper, save_at=times))
    assert int(carry.status) == 0
    seen, values = records[0].points[..., 0], np.asarray(records[1]["energy"])
    gap = np.asarray(seen) - exact_quantiles(x0, [0.0, *times])
    error = np.max(np.abs(gap - np.round(gap)))
    rate = -np.polyfit([0.0, *times], np.log(values - 1 / (24 * n**2)), 1)[0]
    print(f"error {error:.1e}, rate {rate:.6f}, steps {int(carry.steps)}")
    assert error <= 1e-10
    assert abs(rate - 2) <= 1e-3


@pytest.mark.slow
def test_energy_rate_at_s_1_is_twice_the_least_of_nu():
    """W = V' obeys W_t = (W' - nu) W + c: E = C t^{-p} e^{-2 min(nu) t}, p from the shape of the minimum.

    The linearized flow has rates between the least and the largest of nu.
    """
    nu = Grid.from_density(LINE, 64, lambda x: 1 - 0.6 * jnp.cos(2 * jnp.pi * x[0]))
    flow = Wasserstein(Sobolev(nu, 1.0), LINE, Spectral())
    times = np.array([20.0, 28.0, 40.0])
    start = Grid.from_density(LINE, 64, tilted)
    carry, records = run(mf.Simulation(flow, start, stepper=RK4(0.1), save_at=times))
    assert int(carry.status) == 0
    least, most = float(jnp.min(nu.density)), float(jnp.max(nu.density))
    logs = np.log(np.asarray(records[1]["energy"])[1:])
    _, rate, power = np.linalg.solve(np.stack([np.ones(3), -times, -np.log(times)], axis=1), logs)
    print(f"rate {rate:.4f}, predicted {2 * least:.4f}, power {power:.2f}")
    assert rate == pytest.approx(2 * least, rel=0.02)
    # The first is the mode of alternating signs, which has no derivative on an even number of cells.
    rates = linearize(flow, nu).rates[1:]
    assert least * 0.999 < float(jnp.min(rates)) < least * 1.01 and float(jnp.max(rates)) < most * 1.001


SQUARE = mf.domains.Torus(2)


def oblique(x):
    waves = jnp.cos(2 * jnp.pi * x)
    return 1 + 0.5 * waves[0] * waves[1] + 0.3 * jnp.sin(2 * jnp.pi * (x[0] + 2 * x[1]))


def along_characteristics(n, space, t1, steps):
    """The density at points that move with it, by RK4, and the energies; the places where they began."""
    start, tracers = Grid.from_density(SQUARE, n, oblique), SQUARE.sample(jr.key(2), 64)
    flow = Wasserstein(Sobolev("uniform", 1.0, SQUARE), SQUARE, space)

    def rate(y):
        mu = start.with_weights(y[0])
        now = flow.evaluate(flow.init(mu))
        return (now.tangent.weights, -jax.vmap(jax.grad(flow.energy.potential(mu)))(y[1])), now.energy

    def step(y, _):
        h, first = t1 / steps, rate(y)
        move = lambda size, k: jax.tree.map(lambda a, b: a + size * b, y, k)
        second = rate(move(h / 2, first[0]))[0]
        third = rate(move(h / 2, second))[0]
        slopes = first[0], second, third, rate(move(h, third))[0]
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, *slopes)
        return move(h, mean), first[1]

    run_all = jax.jit(lambda y: jax.lax.scan(step, y, length=steps))
    (masses, ends), energies = run_all((start.weights, tracers))
    # The trigonometric polynomial through the densities of the cells.
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    waves = np.exp(2j * np.pi * (np.asarray(ends) - 0.5 / n) @ k.T)
    density = (waves @ np.fft.fft2(np.asarray(masses).reshape(n, n)).ravel()).real
    return density, np.asarray(energies), tracers


@pytest.mark.slow
def test_a_density_in_the_plane_follows_its_characteristics():
    """s = 1, nu = 1: -Laplacian V = a - 1, so a' = -a (a - 1) along them: a / (a + (1 - a) e^{-t}).

    The energy has the rate 2 int a |grad V|^2 / int |grad V|^2, between 2 min a and 2 max a, which tend to 2.
    """
    law = lambda a, t: a / (a + (1 - a) * np.exp(-t))
    errors = {}
    for name, space in (("volumes", mf.grids.FiniteVolume()), ("modes", Spectral())):
        for n in (24, 48):
            found, _, tracers = along_characteristics(n, space, 1.0, 40)
            gap = np.abs(found - law(np.asarray(jax.vmap(oblique)(tracers)), 1.0))
            errors[name, n] = gap.mean(), gap.max()
    for (name, n), (mean, most) in errors.items():
        print(f"{name}, {n}^2 cells: mean error {mean:.1e}, largest {most:.1e}")
    assert errors["volumes", 48][0] < 4e-4 and errors["volumes", 48][1] < 4e-3
    assert errors["modes", 24][1] < 2e-3 and errors["modes", 48][1] < 1e-5
    _, energies, _ = along_characteristics(24, Spectral(), 6.0, 120)
    times = 0.05 * np.arange(120)
    rates = -np.diff(np.log(energies[::20])) / np.diff(times[::20])
    print("rates of the energy", rates)
    ends = [law(np.array([0.2, 1.8]), t) for t in times[::20]]
    assert all(2 * low < rate < 2 * high for rate, (low, high) in zip(rates, ends, strict=False))
    assert abs(rates[-1] - 2) < 0.01


@pytest.mark.slow
def test_rates_in_every_norm_in_the_plane():
    """Data in dot-H^r fall like t^-(r - q)/(s - 1) in the square of dot-H^q, q = -s being the energy.

    r = 1, s = 2, nu uniform: the exponent of the linearized flow to 0.02, that of the limit to 0.05.
    """
    order, r, n, times = 2.0, 1.0, 64, np.array([200.0, 1000.0])
    k = np.stack(np.meshgrid(*[np.arange(1 - n // 2, n // 2)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    k = k[len(k) // 2 + 1 :]
    # The border of dot-H^r in two dimensions.
    size = np.linalg.norm(k, axis=1)
    amplitude, phase = size ** -(r + 1), 2 * np.pi * np.random.default_rng(0).random(len(k))
    uniform = Grid.uniform(SQUARE, n)
    change = np.zeros(n**2)
    for a, one, turn in zip(amplitude, k, phase, strict=True):
        change += a * np.cos(2 * np.pi * np.asarray(uniform.points) @ one + turn)
    small = 0.03 / np.abs(change).max()
    norms = {q: mf.observables.SobolevNorm(uniform, q, SQUARE, n // 2 - 1) for q in (-2.0, -1.0, 0.0)}
    record = mf.simulate(
        Wasserstein(Sobolev("uniform", order, SQUARE), SQUARE, Spectral()),
        uniform.with_weights((1 + small * change) / n**2),
        stepper=RK4(50.0),
        save_at=times,
        save_measures=False,
        observables={str(q): norm for q, norm in norms.items()},
    ).observables
    np.testing.assert_allclose(record["-2.0"] ** 2 / 2, record["energy"], rtol=1e-9)
    eigenvalues = (2 * np.pi * size) ** 2
    exponent = lambda values: np.log(values[-2] / values[-1]) / np.log(times[1] / times[0])
    for q in norms:
        decay = np.exp(-2 * np.outer(times, eigenvalues ** (1 - order)))
        linear, limit = exponent(decay @ (amplitude**2 * eigenvalues**q)), (r - q) / (order - 1)
        found = exponent(record[str(q)] ** 2)
        print(f"dot-H^{q:g}: {found:.3f}, linearized {linear:.3f}, limit {limit:g}")
        assert abs(found - linear) < 0.02 and abs(found - limit) < 0.05


# --- linear rates


@pytest.mark.slow_cases("1.5", "1.0")
@pytest.mark.parametrize("order", [1.0, 1.5, 2.0])
def test_linear_rates(order):
    """(2 pi k)^{2 - 2s}: on the spectral grid, on particles with fewer modes than half their number."""
    k = np.repeat(np.arange(1, 8), 2)
    exact = np.sort((2 * np.pi * k) ** (2 - 2 * order))
    grid = linearize(Wasserstein(Sobolev("uniform", order), LINE, Spectral()), Grid.uniform(LINE, 15))
    np.testing.assert_allclose(grid.rates, exact, rtol=1e-10)
    lattice = Particles(jnp.arange(16.0)[:, None] / 16)
    scattered = linearize(Wasserstein(Sobolev("uniform", order, modes=7), LINE), lattice)
    errors = [float(np.max(np.abs(rates / exact - 1))) for rates in (grid.rates, scattered.rates[2:])]
    print(f"s = {order}: relative error {errors[0]:.1e} on the grid, {errors[1]:.1e} on particles")
    np.testing.assert_allclose(scattered.rates[2:], exact, rtol=1e-9)


@pytest.mark.slow
def test_linear_rates_of_particles_without_truncation():
    """Mode k of N particles has sum_q (2 pi |k + q N|)^{2-2s} - sum_{q != 0} (2 pi |q N|)^{2-2s}; s = 2."""
    n = 64
    flow = Wasserstein(Sobolev("uniform", 2.0), LINE)
    rates = np.sort(linearize(flow, Particles(jnp.arange(1.0 * n)[:, None] / n)).rates)[::-1]
    k = np.minimum(np.arange(1, n), n - np.arange(1, n))
    # sum_q (x + q)^{-2} = pi^2 / sin(pi x)^2.
    aliased = (1 / np.sin(np.pi * k / n) ** 2 - 1 / 3) / (4 * n**2)
    np.testing.assert_allclose(rates[: n - 1], np.sort(aliased)[::-1], rtol=1e-9)
    np.testing.assert_allclose(rates[:2], (2 * np.pi) ** -2.0, rtol=1e-6)


# --- two independent discretizations


def quantiles(n):
    """The points of mass (i - 1/2) / n of the density 1 + 0.5 cos(2 pi x)."""
    target, x = (np.arange(n) + 0.5) / n, (np.arange(n) + 0.5) / n
    for _ in range(50):
        x = x - (x + np.sin(2 * np.pi * x) / (4 * np.pi) - target) / (1 + 0.5 * np.cos(2 * np.pi * x))
    # In 64 slots for every n, so that one program moves them all.
    slots = np.concatenate([x, np.full(64 - n, 0.5)])
    return Particles(jnp.asarray(slots)[:, None], padded_weights(n, 64))


def first_modes(mu):
    return mu.integrate(jnp.exp(2j * jnp.pi * mu.points * jnp.arange(1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("order", [1.5, 2.0])
def test_pde_against_particles_from_quantiles(order):
    energy, t1 = Sobolev("uniform", order), 2.0 * (2 * np.pi) ** (2 * order - 2)
    density, _ = end(energy, Grid.from_density(LINE, 32, bump), RK4(t1 / 32), t1, space=Spectral())
    errors = []
    for n in (16, 32, 64):
        cloud, _ = end(energy, quantiles(n), RK4(t1 / 32), t1)
        errors.append(float(jnp.max(jnp.abs(first_modes(cloud) - first_modes(density)))))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    print(f"errors {errors}, orders {orders}")
    assert np.all(orders > 1.8), (errors, orders)


@pytest.mark.slow
def test_spectral_against_finite_volumes():
    """Second order in the spacing: the error of the volumes, since that of the modes is rounding."""
    energy, t1, errors = Sobolev(tilted, 1.5), 1.0, []
    fine, _ = end(energy, Grid.from_density(LINE, 32, bump), RK4(1 / 32), t1, space=Spectral())
    for n in (32, 64):
        volumes, _ = end(energy, Grid.from_density(LINE, n, bump), RK4(1 / 32), t1)
        errors.append(float(jnp.max(jnp.abs(first_modes(volumes) - first_modes(fine)))))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.35), (errors, orders)


# --- the spectral discretization


@pytest.mark.slow_cases("shape0-1.0", "shape2-1.0", "shape3-0.6666666666666666")
@pytest.mark.parametrize(("shape", "dealias"), [((15,), 1.0), ((16,), 2 / 3), ((6, 8), 1.0), ((9, 6), 2 / 3)])
def test_spectral_rates_are_exact_for_few_modes(shape, dealias):
    """div(rho grad V) + T Laplacian rho of trigonometric polynomials, their mass and their dissipation."""
    domain = LINE if len(shape) == 1 else PLANE
    q = 2 * np.pi / float(domain.period)
    rho = lambda x: 1 + 0.4 * jnp.cos(q * x[0]) + 0.3 * jnp.sin(q * x[-1])
    potential = lambda x: jnp.sin(q * x[0]) + jnp.cos(q * (x[-1] - (x[0] if len(shape) > 1 else 0)))
    mu = Grid.from_density(domain, shape, rho)
    energy = Potential(potential) + 0.1 * mf.energies.Entropy()
    now = eqx.filter_jit(Spectral(dealias).evaluate)(energy, mu)
    flux = lambda x: rho(x) * jax.grad(potential)(x) + 0.1 * jax.grad(rho)(x)
    exact = jax.vmap(lambda x: jnp.trace(jax.jacfwd(flux)(x)))(mu.points) / mu.size
    np.testing.assert_allclose(now.tangent.weights, exact, atol=1e-12 * float(jnp.max(jnp.abs(exact))))
    assert abs(float(jnp.sum(now.tangent.weights))) < 1e-14
    value = lambda w: energy.solve(mu.with_weights(w)).value
    slope = jax.jvp(value, (mu.weights,), (now.tangent.weights,))[1]
    np.testing.assert_allclose(now.dissipation, -slope, rtol=1e-12)


def test_dealiasing_removes_what_the_cells_cannot_tell_apart():
    """A product of modes 3 and 3 on 8 cells has mode 6 = -2 mod 8: present without dealiasing, gone with."""
    wave = lambda x: jnp.cos(6 * jnp.pi * x[0])
    mu = Grid.from_density(LINE, 8, lambda x: 1 + 0.5 * wave(x))
    second = lambda mu, rate: abs(complex(jnp.sum(rate * jnp.exp(-4j * jnp.pi * mu.points[:, 0]))))
    rates = [Spectral(d).evaluate(Potential(wave), mu).tangent.weights for d in (1.0, 2 / 3)]
    assert second(mu, rates[0]) > 1 and second(mu, rates[1]) < 1e-12


@pytest.mark.parametrize(("domain", "n"), [(LINE, 24), (mf.domains.Sphere(1), 16)])
def test_spectral_flows_dissipate(domain, n):
    start = lambda x: 1 + 0.4 * jnp.cos(2 * jnp.pi * x[0] / 2)
    on_torus = isinstance(domain, mf.domains.Torus)
    energy = Sobolev("uniform", 1.5, domain) if on_torus else Potential(lambda x: x[0] * x[1])
    check_flow(Wasserstein(energy, domain, Spectral()), Grid.from_density(domain, n, start))


@pytest.mark.slow
def test_a_two_dimensional_run_on_both_sides():
    """Particles that start at the cells with their masses: a deformed grid, which the density follows."""
    energy, t1 = Sobolev("uniform", 2.5, PLANE, modes=3), 0.3
    rho = lambda x: 1 + 0.3 * jnp.cos(jnp.pi * x[0]) * jnp.cos(jnp.pi * x[1])
    density, records = end(energy, Grid.from_density(PLANE, 12, rho), RK4(0.05), t1, PLANE, Spectral())
    assert np.all(np.diff(records[1]["energy"]) < 0)
    cells = Grid.from_density(PLANE, 12, rho)
    cloud, _ = end(energy, Particles(cells.points, cells.weights), RK4(0.05), t1, PLANE)
    mode = lambda mu: complex(mu.integrate(jnp.exp(1j * jnp.pi * jnp.sum(mu.points, axis=-1))))
    assert abs(mode(cloud) - mode(density)) < 1e-3 * abs(mode(cells) - mode(density))


@pytest.mark.optimized
def test_direct_sums_hold_a_block_of_phases():
    """4096 points and 1024 waves would be 16 MiB of phases, each for cosine and sine."""
    from mfjax._numerics.sums.waves import half_space

    waves, period = half_space(1024, 1), jnp.ones((), "float32")
    points = jnp.linspace(0, 1, 4097, dtype="float32")[:-1, None]
    masses = jnp.full(len(points), 1 / len(points), points.dtype)
    compiled = jax.jit(lambda x: waves.transform(x / period, masses)).lower(points).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 12 * 2**20
    exact = np.exp(-2j * np.pi * waves.k * np.asarray(points, float)[:, 0]).mean(axis=1)
    np.testing.assert_allclose(compiled(points), exact, atol=1e-4)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sobolev("uniform", 0.5)(particles()), "infinite energy for order <= d/2 = 0.5"),
        (lambda: Sobolev("uniform", 1.0, PLANE, modes=4)(particles(PLANE)), "infinite energy"),
        (lambda: Sobolev("uniform", 2.0, PLANE)(particles(PLANE)), "pass modes="),
        (lambda: jax.jit(lambda s: Sobolev("uniform", s)(particles()))(1.5), "pass modes="),
        (lambda: Sobolev("uniform", 0.0), "order must be greater than 0"),
        (lambda: Sobolev("uniform", domain=mf.domains.Sphere(1)), "lives on a Torus"),
        (lambda: Sobolev(1.0), 'target must be "uniform"'),
        (lambda: Sobolev(Grid.uniform(LINE, 8))(Grid.uniform(LINE, 9)), "use one grid"),
        (lambda: Sobolev(Grid.uniform(PLANE, 8)), "dimension 1"),
        (lambda: Sobolev()(particles(PLANE)), "dimension 1"),
        (lambda: Sobolev()(Grid.uniform(mf.domains.Interval(0.0, 1.0), 8)), "another grid"),
        (lambda: Wasserstein(Sobolev(), mf.domains.Torus(1, 2.0)).init(particles()), "the measure moves on"),
        (lambda: Sobolev("uniform", modes=0), "modes must be at least 1"),
        (lambda: kernels.NegativeSobolev(0.5), "order must be greater than 0.5"),
        (lambda: kernels.NegativeSobolev(1.0, PLANE), "closed form lives on"),
        (
            lambda: jax.jit(lambda s: Sobolev("uniform", order=s)(Particles([[0.2]])))(2.0),
            "an order known in advance only: pass modes=",
        ),
        (lambda: kernels.Riesz(2.0), "exponent must be less than 2"),
        (lambda: kernels.Matern(1.0), "smoothness must be"),
        (lambda: kernels.SignedKernel(1.0), "kernel must be a Kernel or callable"),
        (lambda: Interaction(1.0), "kernel must be a Kernel or callable"),
        (lambda: Spectral(0.0), "dealias must lie in"),
        (
            lambda: Wasserstein(PorousMedium(), LINE, Spectral()).init(Grid.uniform(LINE, 8)),
            "no form of PorousMedium",
        ),
        (
            lambda: Wasserstein(Potential(jnp.sum), mf.domains.Interval(0.0, 1.0), Spectral()).init(
                Grid.uniform(mf.domains.Interval(0.0, 1.0), 8)
            ),
            "has walls",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_order_of_the_closed_form_is_a_constant_of_differentiation():
    x = jnp.array([[0.1], [0.35], [0.8]])
    value = lambda kernel: kernels.kernel_sums(kernel, x, x, jnp.ones(3))[0]
    slopes = eqx.filter_grad(value)(kernels.NegativeSobolev(2.0))
    for name in ("order", "even", "last", "polynomial"):
        np.testing.assert_array_equal(getattr(slopes, name), 0)
    assert float(slopes.domain.period) != 0


def test_the_mode_of_alternating_signs_diffuses():
    """It has no derivative on the cells and a Laplacian all the same: the heat flow has one state of rest."""
    rates = linearize(Wasserstein(mf.energies.Entropy(), LINE, Spectral()), Grid.uniform(LINE, 8)).rates
    waves = 2 * np.pi * np.array([1, 1, 2, 2, 3, 3, 4]) / float(LINE.lengths[0])
    np.testing.assert_allclose(rates, waves**2, rtol=1e-10)
