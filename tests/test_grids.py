"""Space discretization on a grid: conservation, positivity, order in space, dissipation, linear solves."""

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import mfjax as mf
from mfjax import grids
from mfjax._engine.loop import trajectory
from mfjax.grids.diffusion import conductance, stiffness
from mfjax.grids.rates import linearized

run = eqx.filter_jit(trajectory)
evaluate = eqx.filter_jit(grids.FiniteVolume().evaluate)
transport_rate = eqx.filter_jit(lambda mu, v: grids.transport_rate(mu, grids.face_slopes(v, mu)))

dense_and_solve = eqx.filter_jit(lambda matrix, b: (jax.vmap(matrix)(jnp.eye(b.size)).T, matrix.solve(b)))


@eqx.filter_jit
def march(flow, mu, stepper, dt, count):
    """`count` equal steps of a stepper."""
    state = flow.init(mu)

    def body(_, carry):
        step = stepper.step(flow, *carry, dt, None, None)
        return step.state, step.evaluation

    return jax.lax.fori_loop(0, count, body, (state, flow.evaluate(state)))[0].measure.weights


DOMAINS = {
    "circle": (mf.domains.Sphere(1), 24),
    "interval": (mf.domains.Interval(-1.0, 2.0), 24),
    "torus": (mf.domains.Torus(2, 2.0), (6, 8)),
    "box": (mf.domains.Box([0.0, 0.0], [1.0, 2.0]), (6, 5)),
    "sphere": (mf.domains.Sphere(2), (7, 5)),
    "zones": (mf.domains.Zonal(3), 24),
}


def random_measure(domain, n, seed, dtype=np.float64, zeros=False):
    generator = np.random.default_rng(seed)
    grid = mf.measures.Grid.uniform(domain, n, dtype=dtype)
    weights = generator.exponential(size=grid.size) ** 3 * np.asarray(grid.relative_volume)
    if zeros:
        weights *= generator.random(grid.size) < 0.6
        weights[0] += 1e-3
    return grid.with_weights(jnp.asarray(weights / weights.sum(), dtype))


def smooth_density(x):
    return 1 + 0.4 * jnp.sin(1.3 * jnp.sum(x) + 0.5)


def energies(domain, mu):
    target = random_measure(domain, mu.shape, 7)
    kernel = mf.kernels.Gaussian(0.7, domain)
    return {
        "entropy": mf.energies.Entropy(),
        "power": mf.energies.PowerDivergence(smooth_density, order=2.5, scale=0.3),
        "potential": mf.energies.Potential(lambda x: jnp.sum(jnp.cos(3 * x))),
        "mmd": mf.energies.MMD(kernel, target),
        "porous": 0.2 * mf.energies.PorousMedium(2.5),
        "joint": mf.energies.MMD(kernel, target) + 0.3 * mf.energies.Entropy() + mf.energies.PorousMedium(),
        "mixed": mf.energies.MMD(kernel, target)
        + 0.3 * mf.energies.Entropy()
        + 0.1 * mf.energies.PowerDivergence(smooth_density)
        + 2.0 * mf.energies.Potential(lambda x: jnp.sum(x**2)),
    }


ENERGIES = ["entropy", "power", "potential", "mmd", "porous", "joint", "mixed"]


@pytest.mark.slow_cases("sphere-mixed", "torus-entropy", "circle-mixed", "zones-mixed", "box-mixed")
@pytest.mark.parametrize(
    "where, name",
    [(w, "mixed") for w in ("circle", "box", "sphere", "zones")]
    + [(w, e) for w in ("interval", "torus") for e in ENERGIES],
)
def test_mass_and_dissipation_are_exact(where, name):
    """Rates sum to zero, and the recorded dissipation is minus the derivative of the recorded energy."""
    domain, n = DOMAINS[where]
    mu = random_measure(domain, n, 0)
    energy = energies(domain, mu)[name]
    flow = mf.flows.Wasserstein(energy, domain)
    evaluation = evaluate(energy, mu, flow.init(mu).carry)
    rate = evaluation.tangent.weights
    assert abs(float(jnp.sum(rate))) <= 1e-14 * float(jnp.sum(jnp.abs(rate)))
    value = lambda weights: energy(mu.with_weights(weights))
    energy_now, slope = jax.jvp(value, (mu.weights,), (rate,))
    np.testing.assert_allclose(evaluation.energy, energy_now, rtol=1e-13)
    np.testing.assert_allclose(evaluation.dissipation, -slope, rtol=1e-10)
    if name != "mixed":
        assert float(evaluation.dissipation) > 0


def angle_potential(x):
    return jnp.sin(2 * jnp.arctan2(x[1], x[0]))


@pytest.mark.slow_cases("power", "entropy")
@pytest.mark.parametrize("name", ["entropy", "power", "potential"])
def test_dissipation_tends_to_the_fisher_information(name):
    """-sum V m' against int rho |V'|^2 with V' known in closed form: second order in the spacing."""
    density = lambda x: (1 + 0.5 * x[0]) / (2 * jnp.pi)
    target = lambda x: (1 - 0.3 * x[1]) / (2 * jnp.pi)
    energy, variation = {
        "entropy": (mf.energies.Entropy(), lambda x: jnp.log(density(x))),
        "power": (mf.energies.PowerDivergence(target, 3.0), lambda x: -((target(x) / density(x)) ** 3)),
        "potential": (mf.energies.Potential(angle_potential), angle_potential),
    }[name]
    at = lambda f: lambda angle: f(jnp.stack([jnp.cos(angle), jnp.sin(angle)]))
    angles = 2 * jnp.pi * jnp.arange(4096) / 4096
    information = lambda a: at(density)(a) * jax.grad(at(variation))(a) ** 2
    exact = 2 * jnp.pi * float(jnp.mean(jax.vmap(information)(angles)))
    errors = []
    for n in (32, 64, 128):
        mu = mf.measures.Grid.from_density(mf.domains.Sphere(1), n, density)
        errors.append(abs(float(grids.FiniteVolume().evaluate(energy, mu).dissipation) - exact))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.2), orders


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), where=st.sampled_from(sorted(DOMAINS)))
def test_transport_is_positive_at_its_limit(seed, where):
    """Explicit Euler at `max_step` keeps masses >= 0 for rough data with empty cells and any velocity."""
    domain, n = DOMAINS[where]
    mu = random_measure(domain, n, seed, zeros=True)
    potential = jnp.asarray(np.random.default_rng(seed + 1).normal(size=mu.size))
    rate, longest = transport_rate(mu, potential)
    moved = mu.weights + longest * rate
    assert float(jnp.min(moved)) >= -1e-16
    assert abs(float(jnp.sum(rate)) * float(longest)) <= 1e-15


def test_transport_limit_is_not_overcautious():
    """Three times the limit loses positivity somewhere, so the test above can fail."""
    domain, n = DOMAINS["circle"]
    lowest = 0.0
    for seed in range(5):
        mu = random_measure(domain, n, seed)
        rate, longest = transport_rate(mu, jnp.asarray(np.random.default_rng(seed).normal(size=n)))
        lowest = min(lowest, float(jnp.min(mu.weights + 3 * longest * rate)))
    assert lowest < -1e-3


@pytest.mark.parametrize("where", DOMAINS)
def test_resting_mass_stays(where):
    domain, n = DOMAINS[where]
    mu = random_measure(domain, n, 3)
    rate, longest = transport_rate(mu, jnp.full(mu.size, 4.0))
    assert float(jnp.max(jnp.abs(rate))) == 0 and np.isinf(longest)


def test_roundings_beside_empty_cells_carry_nothing():
    """Masses below zero by rounding are not moved, and give no height that rides a share beyond two.

    A compiler that joins products and sums leaves them where mass ends: heights of 1e15 followed.
    """
    mu = mf.measures.Grid.uniform(mf.domains.Interval(-1.0, 1.0), 8)
    mu = mu.with_weights(jnp.array([0.0, 7e-42, -1e-28, 1.5e-24, 2e-6, 0.5, 0.5, 0.0]))
    height = jnp.linspace(-1.0, 1.0, 8)
    for sign in (1.0, -1.0):
        faces = (jnp.full(8, sign),)
        rates, longest = grids.riding_rate(height, faces, mu)
        assert np.max(np.abs(rates)) <= 2 * np.ptp(height) / (2 * float(longest)) and longest > 0
        moved = grids.transport_rate(mu, tuple(-v for v in faces))[0]
        assert float(moved[2]) >= 0 and abs(float(jnp.sum(moved))) < 1e-15


def test_shift_and_reflection_equivariance():
    """Rotating or mirroring the circle, data and potential together, moves the rates along."""
    domain, n = DOMAINS["circle"]
    mu = random_measure(domain, n, 5)
    potential = jnp.asarray(np.random.default_rng(6).normal(size=n))
    rate, _ = transport_rate(mu, potential)
    for change in (lambda v: jnp.roll(v, 7), lambda v: v[::-1]):
        moved, _ = transport_rate(mu.with_weights(change(mu.weights)), change(potential))
        np.testing.assert_allclose(moved, change(rate), atol=1e-15)


def carried_masses(n, time):
    """Exact cell masses of d_t rho = -(rho sin theta)', from rho = (1 + cos(theta - 1)/2) / 2 pi.

    Characteristics tan(theta/2) = tan(theta_0/2) e^t.
    """
    faces = 2 * np.pi * np.arange(n + 1) / n
    origin = 2 * np.arctan2(np.sin(faces / 2) * np.exp(-time), np.cos(faces / 2))
    cumulative = (origin + 0.5 * np.sin(origin - 1)) / (2 * np.pi)
    return np.diff(cumulative)


def test_transport_order_and_exact_solution():
    """Second order in L1 against the exact solution by characteristics (an extremum included)."""
    circle = mf.domains.Sphere(1)
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x[0]), circle)
    stepper = mf.steppers.Adaptive(1e-7, 1e-9)
    errors = []
    for n in (50, 100, 200):
        mu = mf.measures.Grid.uniform(circle, n).with_weights(jnp.asarray(carried_masses(n, 0.0)))
        moved = march(flow, mu, stepper, jnp.asarray(0.4 / n), 2 * n)
        errors.append(np.sum(np.abs(moved - carried_masses(n, 0.8))))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.25) and errors[-1] < 1e-3, (orders, errors)


def test_transport_of_a_product_on_the_torus():
    """A separable potential on the 2-torus moves a product density as the product of two circles."""
    torus = mf.domains.Torus(2, 2 * np.pi)
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: jnp.cos(x[0]) + jnp.cos(x[1])), torus)
    errors = []
    for n in (24, 48):
        weights = np.multiply.outer(carried_masses(n, 0.0), carried_masses(n, 0.0)).ravel()
        mu = mf.measures.Grid(torus, n, weights)
        moved = march(flow, mu, mf.steppers.Adaptive(1e-6, 1e-8), jnp.asarray(0.5 / n), n)
        exact = np.multiply.outer(carried_masses(n, 0.5), carried_masses(n, 0.5)).ravel()
        errors.append(np.sum(np.abs(moved - exact)))
    assert 1.7 < np.log2(errors[0] / errors[1]) < 2.3, errors


@pytest.mark.slow_cases("float32")
def test_discontinuous_data_stay_positive(dtype):
    """A block beside empty cells: no negative mass, no mass lost, under the default stepper."""
    circle = mf.domains.Sphere(1)
    weights = jnp.zeros(60).at[10:20].set(0.1).astype(dtype)
    mu = mf.measures.Grid(circle, 60, weights, dtype=dtype)
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x[0]), circle)
    carry, (_, values) = run(mf.Simulation(flow, mu, save_at=[0.1, 0.3, 0.6]))
    assert int(carry.status) == 0
    assert carry.state.measure.weights.dtype == dtype
    assert float(jnp.min(values["min_weight"])) >= 0
    drift = float(jnp.max(jnp.abs(values["mass"] - 1)))
    assert drift <= {"float64": 1e-13, "float32": 2e-6}[dtype]


@pytest.mark.slow_cases("sphere-0.0001", "box-0.0001", "circle-0.0001", "torus-0.0001", "box-1.0")
@pytest.mark.parametrize("tau", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("where", DOMAINS)
def test_linear_solve_against_dense(where, tau):
    """(I + tau G) x = b against NumPy, for the fluxes of one and of two internal energies, and with drift."""
    domain, n = DOMAINS[where]
    mu = random_measure(domain, n, 1)
    # Slopes of pressures within a factor of ten: the error of a solve grows with their ratio.
    mu = mu.with_weights(0.5 / mu.size * mu.relative_volume + 0.5 * mu.weights)
    generator = np.random.default_rng(2)
    b = jnp.asarray(generator.normal(size=mu.size))
    terms = [(0.7, mf.energies.PowerDivergence(smooth_density)), (0.2, mf.energies.Entropy())]
    drift = grids.face_slopes(jnp.asarray(generator.normal(size=mu.size)), mu)
    for parts, faces in ((terms[:1], None), (terms, None), (terms, drift)):
        pairs, curvilinear = linearized(mu, faces, tuple(parts)), mu.metric is not None
        matrix = grids.ShiftedFluxes(pairs, jnp.asarray(tau), mu.periodic, curvilinear)
        dense, x = dense_and_solve(matrix, b)
        dense = np.asarray(dense)
        np.testing.assert_allclose(dense.sum(0), 1, rtol=1e-9, atol=1e-16 * tau * np.abs(dense).max())
        assert np.all(np.linalg.inv(dense) > -1e-12)
        scale = float(jnp.max(jnp.abs(b)))
        # Several axes are solved to a relative residual of 1e-10.
        bar = 1e-8 if matrix.banded and tau > 1e3 else 1e-11 if matrix.banded else 1e-9
        if where == "zones" and tau > 1e3:
            # The volume of S^3 makes densities low, pressures of the power divergence steep: tau times
            # rates come to 3e11, beside which rounding loses the 1.
            bar = 1e-6
        np.testing.assert_allclose(x, np.linalg.solve(dense, b), atol=bar * scale)
        np.testing.assert_allclose(jnp.sum(x), jnp.sum(b), atol=1e-12 * scale * mu.size)


# Beyond 512 cells every second one is eliminated first, also twice, from even and odd numbers.
@pytest.mark.parametrize("cells", [513, 1026, 1031])
@pytest.mark.parametrize("periodic", [True, False], ids=["circle", "walls"])
def test_halved_systems(cells, periodic, dtype):
    """Rates over eight decades against a dense solve: relative accuracy of every entry, sums, a batch."""
    rng = np.random.default_rng(cells)
    forward, backward = rng.random((2, cells)) * 10 ** rng.uniform(-4, 4, (2, cells))
    if not periodic:
        forward[-1] = backward[-1] = 0
    left, dense = np.roll(backward, 1), np.diag(1 + forward + np.roll(backward, 1))
    i = np.arange(cells)
    dense[(i + 1) % cells, i] -= forward
    dense[i - 1, i] -= left
    right = rng.random((2, cells))
    half = jnp.asarray(0.5, dtype)

    @jax.jit
    @jax.vmap
    def solve(b):
        pairs = ((2 * jnp.asarray(forward, dtype), 2 * jnp.asarray(backward, dtype)),)
        return grids.ShiftedFluxes(pairs, half, (periodic,)).solve(b)

    found = np.asarray(solve(jnp.asarray(right, dtype)))
    assert found.dtype == dtype
    exact = np.linalg.solve(dense, right.T).T
    np.testing.assert_allclose(found, exact, rtol=1e-9 if dtype == "float64" else 2e-3)
    np.testing.assert_allclose(found.sum(1), right.sum(1), rtol=1e-12 if dtype == "float64" else 1e-5)


def test_stiffness_is_symmetric_and_non_negative():
    for domain, n in DOMAINS.values():
        mu = random_measure(domain, n, 1)
        through = conductance((0.4, mf.energies.PowerDivergence(smooth_density)), mu)
        dense = np.asarray(jax.vmap(lambda v, c=through: stiffness(c, v))(jnp.eye(mu.size)))
        np.testing.assert_allclose(dense, dense.T, atol=1e-15 * np.abs(dense).max())
        eigenvalues = np.linalg.eigvalsh(dense)
        assert eigenvalues[0] > -1e-13 * eigenvalues[-1] and eigenvalues[1] > 1e-3 * eigenvalues[-1] / mu.size


@pytest.mark.wrong_calls
def test_grid_of_another_domain_is_refused():
    circle, interval = mf.domains.Sphere(1), mf.domains.Interval(0.0, 1.0)
    entropy = mf.energies.Entropy()
    with pytest.raises(ValueError, match="another grid"):
        mf.flows.Wasserstein(entropy, mf.domains.Torus(1)).init(mf.measures.Grid.uniform(interval, 8))
    with pytest.raises(ValueError, match="another grid"):
        shifted = mf.measures.Grid.uniform(mf.domains.Interval(0.0, 0.5), 8)
        mf.flows.Wasserstein(entropy, interval).init(shifted)
    with pytest.raises(ValueError, match="must have shape"):
        mf.flows.Wasserstein(entropy, circle).init(mf.measures.Grid.uniform(interval, 8))
    with pytest.raises(ValueError, match="discretize a Grid"):
        grids.require_grid(mf.measures.Particles(jnp.ones((3, 1))), interval)
    with pytest.raises(ValueError, match="one grid"):
        target = mf.measures.Grid.uniform(interval, 16)
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target), interval)
        flow.init(mf.measures.Grid.uniform(interval, 8))


@pytest.mark.slow
@pytest.mark.parametrize("domain", [mf.domains.Torus(1), mf.domains.Zonal(3)], ids=["boxes", "zones"])
def test_a_grid_that_a_compiled_function_keeps_is_checked(domain):
    """Its numbers are constants there, also those that are made from them."""
    mu, energy = mf.measures.Grid.uniform(domain, 8), mf.energies.Entropy()
    flow = mf.flows.Wasserstein(energy, domain)
    start = lambda t1: mf.Simulation(flow, mu, stepper=mf.steppers.Euler(1e-4), t1=t1).measure.weights
    np.testing.assert_array_equal(jax.jit(start)(1.0), mu.weights)
    other = mf.measures.Grid.uniform(mf.domains.Zonal(2), 8)
    with pytest.raises(ValueError, match=r"the measure lives on another grid than|does not lie on Torus"):
        jax.jit(lambda t1: mf.Simulation(flow, other, t1=t1).measure.weights)(1.0)


@pytest.mark.slow
def test_gradients_are_finite_and_right():
    """d/d(weights) of a rate functional, limiter included, against finite differences; no NaN at rest."""
    domain, n = DOMAINS["circle"]
    mu = random_measure(domain, n, 4)
    energy = energies(domain, mu)["mixed"]
    probe = jnp.asarray(np.random.default_rng(9).normal(size=n))
    value = lambda w: probe @ grids.FiniteVolume().evaluate(energy, mu.with_weights(w)).tangent.weights
    direction = jnp.asarray(np.random.default_rng(10).normal(size=n)) * mu.weights
    gradient = float(jax.grad(value)(mu.weights) @ direction)
    step = 1e-6
    difference = (value(mu.weights + step * direction) - value(mu.weights - step * direction)) / (2 * step)
    np.testing.assert_allclose(gradient, difference, rtol=1e-6)
    rest = mf.measures.Grid.uniform(domain, n).weights
    assert bool(jnp.all(jnp.isfinite(jax.grad(value)(rest))))
