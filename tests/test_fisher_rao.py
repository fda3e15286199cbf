"""Wasserstein-Fisher-Rao flows: neurons, linear rates, orders, signed measures, birth and death."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import mfjax as mf
from mfjax import status
from mfjax._engine.loop import trajectory
from mfjax.energies import MMD, Entropy, Potential, Risk
from mfjax.features import CircleModes, ReLU, SignedFeatures
from mfjax.flows import State, Wasserstein, WassersteinFisherRao
from mfjax.kernels import ArcCosine
from mfjax.measures import Grid, Particles
from mfjax.problems import relu_coefficients
from mfjax.steppers import RK4, Adaptive, BirthDeath, Euler, EulerMaruyama, Heun
from mfjax.testing import check_flow, check_stepper_order

CIRCLE = mf.domains.Sphere(1)
PAIR = mf.domains.Signed(CIRCLE)
MASSES = jnp.array([0.1, 0.3, 0.7, 0.15, 0.25])
DEGREE = 6


def on_circle(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def population(moments=(), dtype="float64", degree=DEGREE):
    """The ReLU population risk on S^1 up to `degree`; the teacher is 1 + 2 sum_k moments_k cos(k theta)."""
    features = CircleModes(relu_coefficients(0.0, degree, dtype=dtype))
    fourier = jnp.zeros(degree + 1, jnp.result_type(dtype, complex)).at[0].set(1.0)
    for k, value in dict(moments).items():
        fourier = fourier.at[k].set(value)
    return Risk(features, features.inputs(), features.image(fourier).astype(dtype))


def particles(domain=CIRCLE, dtype="float64"):
    return Particles(domain.sample(jr.key(1), 5, dtype), MASSES)


def smooth_grid(domain=CIRCLE, n=16, dtype="float64"):
    """A density that is positive and has all low modes."""
    return Grid.from_density(domain, n, lambda x: jnp.exp(x[-2] + 0.5 * x[-1]), mass=1.3, dtype=dtype)


def teacher(domain=CIRCLE):
    return Particles(domain.sample(jr.key(3), 4), jnp.array([0.5, 0.2, 0.4, 0.3]))


SIGNED_RISK = Risk(
    SignedFeatures(ReLU()), jr.normal(jr.key(2), (9, 2)), jnp.sin(jr.normal(jr.key(5), (9,))) + 0.3
)
FLOWS = {
    "free": (WassersteinFisherRao(population({1: 0.2}), CIRCLE, 0.7, 2.0), CIRCLE),
    "balanced": (WassersteinFisherRao(population({2: 0.2}), CIRCLE, 0.7, 2.0, balanced=True), CIRCLE),
    "Fisher-Rao": (WassersteinFisherRao(MMD(ArcCosine(), teacher()), CIRCLE, 0.0, 2.0), CIRCLE),
    "signed": (WassersteinFisherRao(SIGNED_RISK, PAIR, 0.7, 2.0), PAIR),
}


run = eqx.filter_jit(trajectory)


def ended(flow, mu, stepper, steps, key=None):
    """The measure after so many steps of a run that must not fail."""
    carry, _ = run(mf.Simulation(flow, mu, stepper=stepper, steps=steps, save_every=steps, key=key))
    assert int(carry.status) == status.OK
    return carry.state.measure


@pytest.mark.slow_cases("signed", "Fisher-Rao", "balanced")
@pytest.mark.parametrize("name", FLOWS)
def test_generic(name):
    flow, domain = FLOWS[name]
    check_flow(flow, particles(domain))
    if name in ("balanced", "signed"):
        check_flow(flow, smooth_grid(domain))


@pytest.mark.slow
def test_generic_single_precision():
    flow = WassersteinFisherRao(population({1: 0.2}, "float32"), CIRCLE, 0.7, 2.0)
    check_flow(flow, smooth_grid(dtype="float32"))


def test_generic_with_entropy_on_a_grid():
    flow = WassersteinFisherRao(population({1: 0.2}) + 0.1 * Entropy(), CIRCLE, 0.7, 2.0)
    check_flow(flow, smooth_grid())


# Classical orders in time: masses by their logarithms, on a grid beside rates of transport.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["free", "balanced"])
def test_order_four_on_particles(name):
    check_stepper_order(RK4, FLOWS[name][0], particles(), t1=4.0, steps=(16, 24, 32))


class Unlimited(mf.grids.Discretization):
    """Central fluxes, smooth in the masses: limiters would hide the order in time."""

    def evaluate(self, energy, mu, carry=None):
        now = mf.grids.FiniteVolume().evaluate(energy, mu, carry)
        drift = mf.grids.face_slopes(energy.first_variation(mu), mu)[0]
        flux = 0.5 * (mu.density + jnp.roll(mu.density, -1)) * drift
        return eqx.tree_at(lambda e: e.tangent.weights, now, flux - jnp.roll(flux, 1))


@pytest.mark.parametrize("stepper", [Heun, RK4])
def test_orders_of_transport_with_reaction_on_a_grid(stepper):
    flow = WassersteinFisherRao(population({1: 0.4}), CIRCLE, 2.0, 5.0, space=Unlimited())
    check_stepper_order(stepper, flow, smooth_grid(), t1=2.0, steps=(16, 24, 32))


# The neurons that the flow describes, integrated by themselves.


def kernel_and_gradient(b, other):
    """E relu(b . z) relu(c . z) and its gradient in b, for all pairs; NumPy only."""
    norm, size = np.linalg.norm(b, axis=1)[:, None], np.linalg.norm(other, axis=1)[None, :]
    t = np.arccos(np.clip(b @ other.T / (norm * size), -1, 1))
    value = norm * size * (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    along = (size * np.sin(t) / norm)[:, :, None] * b[:, None, :]
    return value, (along + (np.pi - t)[:, :, None] * other[None]) / (2 * np.pi)


def neurons_at(t1, kind, a, b, c, teachers):
    """Gradient flow of 1/2 E (sum_i a_i relu(b_i . z) - sum_j c_j relu(teacher_j . z))^2 up to `t1`.

    "free" trains a and b; "bound" has a_i = |b_i| and trains b.
    """
    n = len(a)

    def rate(_, flat):
        b = flat[n:].reshape(n, -1)
        a = flat[:n] if kind == "free" else np.linalg.norm(b, axis=1)
        value, gradient = kernel_and_gradient(b, np.concatenate([b, teachers]))
        errors = np.concatenate([a, -c])
        slope_a, slope_b = value @ errors, a[:, None] * np.einsum("ijd,j->id", gradient, errors)
        if kind == "bound":
            slope_b = slope_b + slope_a[:, None] * b / np.linalg.norm(b, axis=1)[:, None]
        return -np.concatenate([slope_a, slope_b.ravel()])

    start = np.concatenate([a, b.ravel()])
    end = solve_ivp(rate, (0, t1), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    b = end[n:].reshape(n, -1)
    return (end[:n] if kind == "free" else np.linalg.norm(b, axis=1)), b


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("kind", "beta"), [("free", 2.0), ("bound", 4.0)])
def test_neurons_by_gradient_flow(kind, beta, dim):
    """(1, 2): sum_i a_i relu(b_i . z), a_i = |b_i|; (1, 4): sum_i |b_i| relu(b_i . z); to 1e-8."""
    domain, t1 = mf.domains.Sphere(dim), 4.0
    mu = Particles(domain.sample(jr.key(1), 5), MASSES)
    nu = Particles(domain.sample(jr.key(3), 4), jnp.array([0.5, 0.2, 0.4, 0.3]))
    sim = mf.Simulation(
        WassersteinFisherRao(MMD(ArcCosine(), nu), domain, 1.0, beta), mu, stepper=RK4(0.02), t1=t1
    )
    end = run(sim)[0].state.measure
    size = np.sqrt(np.asarray(MASSES))
    start = size[:, None] * np.asarray(mu.points)
    a, b = neurons_at(t1, kind, size, start, np.asarray(nu.weights), np.asarray(nu.points))
    length = np.linalg.norm(b, axis=1)
    errors = [np.max(np.abs(end.weights - a * length)), np.max(np.abs(end.points - b / length[:, None]))]
    print(f"(1, {beta:g}) on S^{dim}: masses to {errors[0]:.1e}, directions to {errors[1]:.1e}")
    assert max(errors) < 1e-8
    # Far from where they began, so that the agreement says something.
    assert np.max(np.abs(end.weights - MASSES)) > 0.05
    assert np.max(np.abs(end.points - mu.points)) > 0.05


@pytest.mark.slow
def test_neurons_of_both_signs():
    signs, t1 = np.array([1.0, -1.0, 1.0, -1.0, -1.0]), 4.0
    domain = CIRCLE
    on_pair = lambda sign, x: jnp.concatenate([jnp.asarray(sign)[:, None], x], axis=1)
    place, nu = domain.sample(jr.key(1), 5), teacher()
    target = Particles(on_pair([1.0, 1.0, -1.0, -1.0], nu.points), nu.weights)
    sim = mf.Simulation(
        WassersteinFisherRao(MMD(mf.kernels.SignedKernel(ArcCosine()), target), PAIR, 1.0, 2.0),
        Particles(on_pair(signs, place), MASSES),
        stepper=RK4(0.02),
        t1=t1,
    )
    end = run(sim)[0].state.measure
    size, c = np.sqrt(np.asarray(MASSES)), np.asarray(nu.weights) * np.array([1, 1, -1, -1])
    a, b = neurons_at(t1, "free", signs * size, size[:, None] * np.asarray(place), c, np.asarray(nu.points))
    length = np.linalg.norm(b, axis=1)
    np.testing.assert_array_equal(end.points[:, 0], signs)
    np.testing.assert_allclose(end.weights * signs, a * length, atol=1e-8)
    np.testing.assert_allclose(end.points[:, 1:], b / length[:, None], atol=1e-8)


# Linear rates, and what the network cannot see.


def fourier(mu, degree=5):
    """The cosine moments 0, ..., degree of a measure on the circle."""
    angle = jnp.arctan2(mu.points[:, 1], mu.points[:, 0])
    return jnp.stack([mu.integrate(jnp.cos(k * angle)) for k in range(degree + 1)])


def perturbed(size, n=32):
    angle = 2 * jnp.pi * (jnp.arange(n) + 0.5) / n
    density = 1 + size * (0.5 + sum(jnp.cos(k * angle) for k in range(1, 6)))
    return Particles(on_circle(angle), density / n)


@eqx.filter_jit
def modes_in_time(flow, mu, times):
    observables = {"modes": lambda nu, flow: fourier(nu)}
    sim = mf.Simulation(flow, mu, stepper=RK4(0.1), save_at=times, observables=observables)
    return trajectory(sim)[1][1]["modes"]


def test_linear_rates_of_seen_modes_and_invisible_odd_ones():
    """(alpha k^2 + beta) c_k within 1 % for k = 0, 1, 2, 4; modes 3 and 5 move at second order only."""
    coefficients = np.asarray(relu_coefficients(0.0, 5))
    for alpha, beta in ((1.0, 2.0), (0.5, 4.0)):
        flow = WassersteinFisherRao(population(), CIRCLE, alpha, beta)
        change = {}
        for size in (2e-4, 1e-4):
            values = np.asarray(modes_in_time(flow, perturbed(size), jnp.array([1.0, 5.0])))
            change[size] = np.abs(values[-1] - values[0])
        rates = np.log(np.abs(values[0] - [1, 0, 0, 0, 0, 0]) / np.abs(values[-1] - [1, 0, 0, 0, 0, 0])) / 5
        predicted = (alpha * np.arange(6) ** 2 + beta) * coefficients
        seen = [0, 1, 2, 4]
        print(f"({alpha}, {beta}): measured / predicted {rates[seen] / predicted[seen]} for k = {seen}")
        np.testing.assert_allclose(rates[seen], predicted[seen], rtol=0.01)
        for k in (3, 5):
            assert predicted[k] == 0
            fall = change[2e-4][k] / change[1e-4][k]
            print(f"mode {k}: its change falls {fall:.4f} times at half the amplitude")
            assert 1e-3 < change[1e-4][k] / 1e-4**2 < 1
            assert fall == pytest.approx(4, rel=0.02)


@pytest.mark.slow
def test_invisible_modes_alone_do_not_move():
    angle = 2 * jnp.pi * (jnp.arange(32) + 0.5) / 32
    mu = Particles(on_circle(angle), (1 + 0.5 * jnp.cos(3 * angle) - 0.3 * jnp.sin(5 * angle)) / 32)
    now = WassersteinFisherRao(population(), CIRCLE, 1.0, 2.0).rate(State(mu))
    np.testing.assert_allclose(now.points, 0, atol=1e-15)
    np.testing.assert_allclose(now.growth, 0, atol=1e-15)


@pytest.mark.slow_cases("1.0-2.0", "1.0-0.0")
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 2.0), (0.0, 1.0), (1.0, 0.0)])
def test_linearized_rates(alpha, beta):
    """(alpha k^2 + beta) c_k with k exact on particles, sin(pi k / n) n / pi on n cells."""
    flow, n = WassersteinFisherRao(population(), CIRCLE, alpha, beta), 16
    grid = Grid.uniform(CIRCLE, n)
    k = np.arange(-DEGREE, DEGREE + 1)
    c = np.asarray(relu_coefficients(0.0, DEGREE))[abs(k)]
    for mu, symbol in ((Particles(grid.points), k), (grid, np.sin(np.pi * k / n) * n / np.pi)):
        spectrum = mf.linearize(flow, mu)
        predicted = np.sort((alpha * symbol**2 + beta) * c)
        predicted = predicted[predicted > 0]
        rates = np.asarray(spectrum.rates)
        error = np.max(np.abs(rates[-len(predicted) :] / predicted - 1))
        print(f"({alpha}, {beta}) on {type(mu).__name__}: relative error {error:.1e}")
        assert error < 1e-6
        np.testing.assert_allclose(rates[: -len(predicted)], 0, atol=1e-12)
    assert "cell masses" in spectrum.note and "fixed" not in spectrum.note


# Two discretizations, positivity, reductions.


@pytest.mark.slow
def test_grid_against_particles_is_second_order():
    """Low moments of the density on n cells against 160 particles with masses, for alpha = beta."""
    flow = WassersteinFisherRao(population({1: 0.3, 2: 0.2}), CIRCLE, 1.0, 1.0)
    at_end = lambda mu: fourier(ended(flow, mu, RK4(0.1), 20))
    fine = smooth_grid(n=160)
    exact = at_end(Particles(fine.points, fine.weights))
    cells = [40, 80]
    errors = [float(jnp.max(jnp.abs(at_end(smooth_grid(n=n)) - exact))) for n in cells]
    order = np.log2(errors[0] / errors[1])
    assert 1.8 < order < 2.7, (order, errors)
    assert errors[-1] < 3e-4


@pytest.mark.parametrize("stepper", [Euler(0.5), Heun(0.5), RK4(0.5)])
def test_no_step_makes_a_mass_negative(stepper):
    """Steps far beyond the explicit limit of m' = -beta V m, below that of transport on cells."""
    flow = WassersteinFisherRao(Potential(lambda x: x[1]), CIRCLE, 0.01, 80.0)
    for mu in (particles(), smooth_grid()):
        state = flow.init(mu)
        now = flow.evaluate(state)
        assert 0.5 * float(jnp.max(-now.tangent.growth)) > 10 and float(now.max_step) > 0.5
        step = stepper.step(flow, state, now, jnp.asarray(0.5), None, None)
        weights = np.asarray(step.state.measure.weights)
        assert np.all(weights > 0) and np.all(np.isfinite(weights))


def test_mass_stays_when_balanced_and_moves_when_free():
    for mu in (particles(), smooth_grid()):
        for name, stays in (("balanced", True), ("free", False)):
            flow = FLOWS[name][0]
            state = flow.init(mu)
            step = Euler(2.0).step(flow, state, flow.evaluate(state), jnp.asarray(2.0), None, None)
            drift = abs(float(step.state.measure.mass / mu.mass) - 1)
            assert drift < 1e-14 if stays else drift > 1e-2


def test_mirror_descent_on_the_simplex_is_exact_for_a_linear_energy():
    """alpha = 0, balanced: m_i proportional to m_i(0) e^{-beta t V(x_i)}, whatever the step."""
    flow = WassersteinFisherRao(Potential(lambda x: x[0]), CIRCLE, 0.0, 2.0, balanced=True)
    mu = particles()
    exact = mu.weights * jnp.exp(-2.0 * 3.0 * mu.points[:, 0])
    for stepper, steps in ((Euler(1.5), 2), (RK4(3.0), 1)):
        end = ended(flow, mu, stepper, steps)
        np.testing.assert_allclose(end.weights, exact * mu.mass / jnp.sum(exact), rtol=1e-13)
        np.testing.assert_allclose(end.points, mu.points, rtol=1e-14)


def test_without_reaction_it_is_the_wasserstein_flow():
    energy = population({1: 0.3})
    for mu in (particles(), smooth_grid()):
        flows = WassersteinFisherRao(energy, CIRCLE, 1.0, 0.0), Wasserstein(energy, CIRCLE)
        ours, theirs = (flow.evaluate(flow.init(mu)) for flow in flows)
        np.testing.assert_array_equal(ours.tangent.growth, 0)
        plain = eqx.tree_at(lambda e: e.tangent.growth, ours, None)
        assert jax.tree.structure(plain) == jax.tree.structure(theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), plain, theirs)


@pytest.mark.slow
def test_one_species_alone_is_the_unsigned_flow():
    plain = population({1: 0.3})
    signed = Risk(SignedFeatures(plain.features), plain.data.x, plain.data.y)
    flows = WassersteinFisherRao(plain, CIRCLE, 1.0, 2.0), WassersteinFisherRao(signed, PAIR, 1.0, 2.0)
    points = lambda sign, x: jnp.concatenate([jnp.full((len(x), 1), sign), x], axis=1)
    one = smooth_grid()
    alone = Grid.uniform(PAIR, 16).with_weights(jnp.concatenate([jnp.zeros(16), one.weights]))
    particle = particles()
    for a, b in ((particle, Particles(points(1.0, particle.points), MASSES)), (one, alone)):
        ours, theirs = (flow.evaluate(flow.init(mu)).tangent for flow, mu in zip(flows, (a, b), strict=True))
        np.testing.assert_allclose(theirs.growth[-a.size :], ours.growth, rtol=1e-12)
        if a is one:
            np.testing.assert_allclose(theirs.weights[-16:], ours.weights, atol=1e-15)
            np.testing.assert_array_equal(theirs.weights[:16], 0)
            np.testing.assert_allclose(theirs.growth[:16], -ours.growth, rtol=1e-12)
        else:
            np.testing.assert_allclose(theirs.points[:, 1:], ours.points, atol=1e-15)
            np.testing.assert_array_equal(theirs.points[:, 0], 0)


def test_potentials_of_the_two_signs_are_opposite():
    potential = SIGNED_RISK.potential(particles(PAIR))
    for point in CIRCLE.sample(jr.key(8), 3):
        plus, minus = (potential(jnp.concatenate([jnp.array([s]), point])) for s in (1.0, -1.0))
        assert float(plus) == -float(minus) != 0


def test_transport_keeps_the_mass_of_each_sign():
    flow, mu = WassersteinFisherRao(SIGNED_RISK, PAIR, 1.0, 0.0), smooth_grid(PAIR)
    end = ended(flow, mu, Euler(0.02), 10)
    for species in (slice(0, 16), slice(16, 32)):
        assert float(jnp.sum(end.weights[species])) == pytest.approx(
            float(jnp.sum(mu.weights[species])), 1e-13
        )
    assert float(jnp.max(jnp.abs(end.weights - mu.weights))) > 1e-3


@pytest.mark.slow
def test_single_precision_follows_double_precision():
    ends = []
    for dtype in ("float32", "float64"):
        flow = WassersteinFisherRao(population({1: 0.3}, dtype), CIRCLE, 1.0, 2.0)
        sim = mf.Simulation(flow, smooth_grid(dtype=dtype), stepper=Adaptive(1e-4), t1=2.0)
        ends.append(run(sim)[0].state.measure.weights)
        assert ends[-1].dtype == dtype
    np.testing.assert_allclose(*ends, rtol=2e-3)


# Birth and death.


def test_births_and_deaths_reweight_in_the_mean():
    """4000 keys: mass and two moments of the mean measure within 4 standard errors of the exact ones."""
    flow, dt = WassersteinFisherRao(Potential(lambda x: x[0]), CIRCLE, 0.0, 2.0), 0.7
    mu = Particles(CIRCLE.sample(jr.key(1), 12), jnp.where(jnp.arange(12) < 5, 0.2, 0.0))
    state = flow.init(mu)
    now = flow.evaluate(state)
    exact = flow.move(state, now.tangent, jnp.asarray(dt)).measure
    statistics = lambda nu: nu.integrate(jnp.stack([nu.points[:, 0] ** k for k in range(3)], axis=-1))

    @jax.jit
    @jax.vmap
    def realized(key):
        step = BirthDeath(dt).step(flow, state, now, jnp.asarray(dt), key, None)
        return statistics(step.state.measure), step.status

    values, outcomes = realized(jr.split(jr.key(0), 4000))
    assert np.all(np.asarray(outcomes) == status.OK)
    error = np.std(np.asarray(values), axis=0) / np.sqrt(4000)
    z = (np.mean(np.asarray(values), axis=0) - np.asarray(statistics(exact))) / error
    assert np.all(np.abs(z) < 4), z
    assert np.all(error > 0)


@pytest.mark.parametrize("scheme", [EulerMaruyama, BirthDeath])
def test_births_and_deaths_diffuse_with_the_noise_of_the_flow(scheme):
    """Without reaction a quadratic well keeps its Ornstein-Uhlenbeck process: variance within z < 4."""
    line, dt, temperature = mf.domains.Euclidean(1), 0.05, 0.5
    well = Potential(lambda x: 0.5 * x[0] ** 2) + temperature * Entropy()
    flow = WassersteinFisherRao(well, line, 1.0, 0.0, blur=0.5)
    end = ended(flow, Particles(jnp.zeros((4000, 1))), scheme(dt), 20, jr.key(3))
    exact = 2 * temperature * dt * (1 - (1 - dt) ** 40) / (1 - (1 - dt) ** 2)
    np.testing.assert_array_equal(end.weights, 1 / 4000)
    assert abs(float(jnp.var(end.points)) - exact) < 4 * exact * np.sqrt(2 / 4000)


def test_births_and_deaths_follow_the_masses_in_time():
    """A whole run of 400 particles of equal mass against masses that grow: within 4 standard errors."""
    flow = WassersteinFisherRao(Potential(lambda x: x[0] + 0.2), CIRCLE, 1.0, 1.0)
    point = jnp.array([[jnp.cos(1.2), jnp.sin(1.2)]])
    start = Particles(jnp.tile(point, (800, 1)), jnp.where(jnp.arange(800) < 400, 1 / 400, 0.0))
    end = ended(flow, start, BirthDeath(0.05), 20, jr.key(0))
    exact = ended(flow, Particles(point), Euler(0.05), 20)
    # All particles move alike: the number alive is a branching process of this mean.
    np.testing.assert_allclose(end.points[0], exact.points[0], rtol=1e-12)
    ratio, mean = float(end.mass), float(exact.mass)
    spread = np.sqrt(20 * 0.25 / 400) * max(1.0, mean)
    assert abs(ratio - mean) < 4 * spread and mean < 0.9


@pytest.mark.slow
def test_slots_do_not_change_what_is_born():
    flow = WassersteinFisherRao(population({1: 0.4}), CIRCLE, 1.0, 20.0)
    ends = []
    for capacity in (24, 40):
        mu = Particles.sample(CIRCLE, jr.key(1), 8, capacity=capacity)
        end = ended(flow, mu, BirthDeath(0.05), 8, jr.key(4))
        ends.append(np.asarray(end.points)[np.asarray(end.weights) > 0])
    assert len(ends[0]) != 8
    np.testing.assert_allclose(*ends, rtol=1e-12)


def test_too_few_slots_are_a_status():
    flow = WassersteinFisherRao(Potential(lambda x: -3.0 + 0 * x[0]), CIRCLE, 0.0, 1.0)
    mu = Particles.sample(CIRCLE, jr.key(1), 8, capacity=16)
    with pytest.raises(mf.SimulationError, match="larger capacity") as stopped:
        mf.simulate(flow, mu, stepper=BirthDeath(0.1), steps=8, key=jr.key(0))
    history = stopped.value.run
    assert int(history.status) == status.OVERFLOW
    assert 1 < np.sum(np.asarray(history.observables["status"]) == status.OK) < 9
    assert np.sum(np.asarray(history.final.weights) > 0) <= 16


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WassersteinFisherRao(1.0, CIRCLE), "energy must be an Energy"),
        (lambda: WassersteinFisherRao(population(), "circle"), "domain must be a Domain"),
        (lambda: WassersteinFisherRao(population(), CIRCLE, space=3), "space must be an mf.grids.Disc"),
        (lambda: WassersteinFisherRao(population(), CIRCLE, -1.0), "transport must be at least 0"),
        (lambda: WassersteinFisherRao(population(), CIRCLE, 1.0, -1.0), "reaction must be at least 0"),
        (lambda: WassersteinFisherRao(Entropy(), CIRCLE).init(particles()), "run this flow on a Grid"),
        (lambda: WassersteinFisherRao(population(), CIRCLE).init(jnp.ones(3)), "must be Particles or Grid"),
        (lambda: mf.domains.Signed("circle"), "domain must be a Domain"),
        (
            lambda: mf.Simulation(
                Wasserstein(population(), CIRCLE), particles(), stepper=BirthDeath(0.1), steps=1
            ),
            "Wasserstein has none",
        ),
        (
            lambda: mf.Simulation(FLOWS["free"][0], smooth_grid(), stepper=BirthDeath(0.1), steps=1),
            "BirthDeath moves particles",
        ),
        (
            lambda: mf.Simulation(FLOWS["free"][0], particles(), stepper=BirthDeath(0.1), steps=1),
            "pass key=",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_arc_cosine_kernel_is_that_of_relu():
    """Its Fourier coefficients on the circle, a mean over Gaussian inputs, derivatives at 0 and pi."""
    kernel, n = ArcCosine(), 4096
    angle = 2 * np.pi * np.arange(n) / n
    at = lambda t: kernel(jnp.array([1.0, 0.0]), jnp.stack([jnp.cos(t), jnp.sin(t)]))
    coefficients = np.fft.rfft(np.asarray(jax.vmap(at)(jnp.asarray(angle)))).real / n
    # 2 n times the dropped coefficient of degree n, and rounding.
    np.testing.assert_allclose(coefficients[:17], relu_coefficients(0.0, 16), rtol=0, atol=1e-14)
    x, p = mf.problems.gaussian_quadrature(32, 512)
    b, c = jnp.array([0.3, 1.2]), jnp.array([-1.0, 0.4])
    mean = p @ (ReLU().matrix(b[None], x)[:, 0] * ReLU().matrix(c[None], x)[:, 0])
    assert float(kernel(b, c)) == pytest.approx(float(mean), rel=1e-4)
    both = lambda t: [jax.grad(at)(t), jax.grad(jax.grad(at))(t), jax.jacfwd(jax.grad(at))(t)]
    derivatives = jax.jit(both)
    # kappa(t) = (pi - pi t^2 / 2 + |t|^3 / 3 + ...) / (2 pi), and |pi - t|^3 / 3 at the other end.
    for t, second in ((0.0, -0.5), (jnp.pi, 0.0), (1e-4, -0.5 + 1e-4 / jnp.pi)):
        slopes = derivatives(t)
        np.testing.assert_allclose(slopes[1:], second, atol=1e-7)
        np.testing.assert_allclose(slopes[0], -0.5 * t if t < 1 else 0.0, atol=1e-7)
    mixed = jax.jacfwd(jax.grad(kernel), 1)(b, b)
    assert np.all(np.isfinite(mixed)) and np.all(np.isfinite(jax.grad(kernel)(jnp.zeros(2), b)))
    # Homogeneous of degree one in each argument: grad kappa(b, c) . b = kappa(b, c).
    assert float(jax.grad(kernel)(b, c) @ b) == pytest.approx(float(kernel(b, c)), rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [EulerMaruyama, BirthDeath], ids=["masses", "births"])
@pytest.mark.parametrize("balanced", [False, True])
def test_noisy_particles_grow_as_the_density_does(balanced, scheme):
    """Entropy as noise and, by an estimate of stated width, as growth: 24 runs of 512 particles at t = 0.3.

    Masses grow, or particles are born and die.

    Integrals within 4 standard errors and the squared width of the estimate; fixed key.
    """
    loop, width = mf.domains.Torus(1), 0.04
    energy = (
        mf.energies.Potential(lambda x: 0.5 + 0.3 * jnp.cos(2 * jnp.pi * x[0])) + 0.05 * mf.energies.Entropy()
    )
    flow = mf.flows.WassersteinFisherRao(energy, loop, 1.0, 2.0, balanced=balanced, blur=width)
    density = lambda x: 1 + 0.8 * jnp.sin(2 * jnp.pi * x[0])
    end = mf.simulate(flow, Grid.from_density(loop, 64, density), t1=0.3).final

    def integrals(mu):
        angle = 2 * jnp.pi * mu.points[:, 0]
        return jnp.append(
            mu.integrate(jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.cos(2 * angle)], 1)), mu.mass
        )

    place = jnp.linspace(0, 1, 4097)
    mass = place + 0.8 * (1 - jnp.cos(2 * jnp.pi * place)) / (2 * jnp.pi)

    def run(seed):
        keys = jr.split(jr.key(seed))
        points = jnp.interp(jr.uniform(keys[0], (512,)), mass, place)[:, None]
        free = jnp.zeros((512 if scheme is BirthDeath else 0, 1))
        mu = Particles(jnp.append(points, free, 0), jnp.append(jnp.full(512, 1 / 512), free))
        return integrals(mf.simulate(flow, mu, stepper=scheme(0.3 / 40), steps=40, key=keys[1]).final)

    found, exact = np.asarray(jax.jit(jax.vmap(run))(jnp.arange(24))), np.asarray(integrals(end))
    error = found.std(axis=0, ddof=1) / np.sqrt(24)
    print("noisy growth:", found.mean(axis=0), exact, error)
    assert np.all(np.abs(found.mean(axis=0) - exact) < 4 * error + 10 * width**2)
    moved = np.abs(exact - np.asarray(integrals(Grid.from_density(loop, 64, density))))
    assert np.max(4 * error + 10 * width**2) < 0.2 * np.max(moved)
