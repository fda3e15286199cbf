"""Diffusion on a grid through the stiff steppers: exact solutions, orders, invariants, rates, derivatives.

Oracles: Fourier solutions of the heat equation, Barenblatt's of the porous medium, SciPy's Radau on an
independent NumPy right-hand side, the generalized eigenvalue problem of the linearized operator.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import mfjax as mf
from mfjax import grids
from mfjax._engine.loop import trajectory
from mfjax.energies import InternalEnergy
from mfjax.status import CFL
from mfjax.steppers.implicit import implicit_diffusion

run = eqx.filter_jit(trajectory)
CIRCLE, INTERVAL = mf.domains.Sphere(1), mf.domains.Interval(0.0, 2 * np.pi)


def teacher(gamma):
    """2/3 pi(theta) + 1/3 pi(theta - 0.4 pi), by angle on the circle and by coordinate on an interval."""

    def density(x):
        theta = jnp.arctan2(x[1], x[0]) if x.shape[0] == 2 else x[0]
        peak = lambda t: jnp.sqrt(1 + gamma) / (2 * jnp.pi * (1 + gamma * jnp.sin(t / 2) ** 2))
        return 2 / 3 * peak(theta) + 1 / 3 * peak(theta - 0.4 * jnp.pi)

    return density


def ultrafast(domain, n, gamma, order=2.0, scale=0.5, dtype=None):
    """(flow, uniform start, target masses); the target is a Grid, so that parameters share one program."""
    target = mf.measures.Grid.from_density(domain, n, teacher(gamma), dtype=dtype)
    energy = mf.energies.PowerDivergence(target, order=order, scale=scale)
    start = mf.measures.Grid.uniform(domain, n, dtype=dtype)
    return mf.flows.Wasserstein(energy, domain), start, np.asarray(target.weights)


def final(flow, mu, save_at, stepper=None, **kwargs):
    carry, ((weights, _), values) = run(mf.Simulation(flow, mu, stepper=stepper, save_at=save_at, **kwargs))
    assert int(carry.status) == 0, mf.status.describe(int(carry.status))
    return np.asarray(weights), values


@eqx.filter_jit
def fixed_steps(flow, mu, stepper, dt, count: int):
    """`count` equal steps of any stepper: (masses, error estimate of the last step)."""
    state = flow.init(mu)

    def body(carry, _):
        state, evaluation = carry
        step = stepper.step(flow, state, evaluation, dt, None, None)
        return (step.state, step.evaluation), (step.error, step.status)

    (state, _), (errors, status) = jax.lax.scan(body, (state, flow.evaluate(state)), length=count)
    return state.measure.weights, errors[-1], jnp.max(status)


@eqx.filter_jit
def march(flow, mu, stepper, dt, count):
    """`fixed_steps` for a traced `count`: one program for all step sizes, without reverse derivatives."""
    state = flow.init(mu)
    first = flow.evaluate(state)

    def body(_, carry):
        state, evaluation, _, status = carry
        step = stepper.step(flow, state, evaluation, dt, None, None)
        return step.state, step.evaluation, step.error, jnp.maximum(status, step.status)

    start = (state, first, jnp.zeros((), mu.dtype), jnp.zeros((), jnp.int32))
    state, _, error, status = jax.lax.fori_loop(0, count, body, start)
    return state.measure.weights, error, status


# --- order in space ---------------------------------------------------------------------------------------


SPACE = [
    pytest.param(CIRCLE, 10.0, 2.0, (64, 128, 256), id="quick"),
    *(
        pytest.param(domain, gamma, order, (256, 512, 1024), marks=pytest.mark.slow)
        for domain, gamma, order in itertools.product((CIRCLE, INTERVAL), (10.0, 100.0), (1.5, 2.0, 3.0))
    ),
]


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(("domain", "gamma", "order", "cells"), SPACE)
def test_second_order_in_space(domain, gamma, order, cells):
    """Ultra-fast diffusion from uniform, t = 0.5: L1 differences of cell masses on three meshes."""
    stepper = mf.steppers.Rosenbrock(1e-7, 1e-9)
    masses = []
    for n in cells:
        flow, mu, target = ultrafast(domain, n, gamma, order)
        weights, values = final(flow, mu, [0.25, 0.5], stepper)
        assert np.max(np.abs(values["mass"] - 1)) <= 1e-12
        assert np.min(values["min_weight"]) > 0
        ratio = np.max(target / weights, axis=1)
        assert np.all(np.diff(ratio) <= 1e-6 * ratio[1:])
        masses.append(weights[-1])
    change = [np.abs(a - b.reshape(-1, 2).sum(1)).sum() for a, b in itertools.pairwise(masses)]
    observed = np.log2(change[0] / change[1])
    print(f"gamma {gamma:g}, r {order:g}: order {observed:.3f}, last change {change[1]:.1e}")
    assert abs(observed - 2) < 0.2, (gamma, order, observed)


# --- heat equation: exact solutions -----------------------------------------------------------------------


def heat_case(name):
    if name == "circle":
        return CIRCLE, 64, 1.0, lambda x: x[0], 2 * np.pi
    if name == "interval":
        return mf.domains.Interval(0.0, 2.0), 64, np.pi / 2, lambda x: jnp.cos(np.pi * x[0] / 2), 2.0
    mode = lambda x: jnp.cos(np.pi * (x[0] + x[1]))
    return mf.domains.Torus(2, 2.0), 24, np.pi, mode, 2.0


@pytest.mark.slow_cases("circle", "torus")
@pytest.mark.parametrize("name", ["circle", "interval", "torus"])
def test_heat_equation(name):
    """One Fourier mode: its discrete decay rate to the tolerance, the exact one to second order."""
    domain, n, frequency, mode, length = heat_case(name)
    volume = length**domain.dim
    mu = mf.measures.Grid.from_density(domain, n, lambda x: (1 + 0.5 * mode(x)) / volume)
    time_end, axes = 0.3 / frequency**2, domain.dim
    weights, values = final(mf.flows.Wasserstein(mf.energies.Entropy(), domain), mu, [time_end / 2, time_end])
    shape = jax.vmap(mode)(mu.points)
    amplitude = float(jnp.sum(weights[-1] * shape) / jnp.sum(mu.weights * shape))
    spacing = length / n
    discrete = axes * (2 / spacing * np.sin(frequency * spacing / 2)) ** 2
    np.testing.assert_allclose(amplitude, np.exp(-discrete * time_end), rtol=3e-6)
    exact = np.exp(-axes * frequency**2 * time_end)
    # The leading error of the rate is (frequency * spacing)^2 / 12.
    assert abs(amplitude / exact - 1) < 1.1 * 0.3 * axes * (frequency * spacing) ** 2 / 12
    # Nothing but that mode is there: the scheme has its eigenvectors.
    np.testing.assert_allclose(weights[-1], (1 + 0.5 * amplitude * shape) / mu.size, atol=1e-6 / mu.size)
    assert np.max(np.abs(values["mass"] - 1)) <= 1e-12


def test_heat_from_one_cell():
    """All mass in one cell: the spreading stays non-negative and reaches the Fourier series of a block."""
    circle = mf.domains.Torus(1)
    mu = mf.measures.Grid(circle, 64, jnp.zeros(64).at[20].set(1.0))
    weights, values = final(mf.flows.Wasserstein(mf.energies.Entropy(), circle), mu, [1e-3, 5e-3])
    assert np.min(values["min_weight"]) >= 0 and np.max(np.abs(values["mass"] - 1)) <= 1e-12
    k = np.arange(1, 200)[:, None]
    angle = 2 * np.pi * k * (np.asarray(mu.points[:, 0]) - 20.5 / 64)
    series = 1 + 2 * np.sum(np.cos(angle) * np.exp(-((2 * np.pi * k) ** 2) * 5e-3), axis=0)
    assert np.abs(weights[-1] - series / 64).sum() < 5e-3


# --- time: oracles and orders -----------------------------------------------------------------------------


def reference_solution(target, spacing, order, scale, weights, t1, periodic):
    """SciPy's Radau on the semi-discrete equation, written independently in NumPy."""
    nu, n = target / spacing, len(target)
    face = 0.5 * (nu + np.roll(nu, -1))
    if not periodic:
        face[-1] = 0

    def rate(_, rho):
        p = -scale * order / (order - 1) * (nu / rho) ** (order - 1)
        flux = -face * (np.roll(p, -1) - p) / spacing
        return -(flux - np.roll(flux, 1)) / spacing

    def jacobian(_, rho):
        slope = scale * order * (nu / rho) ** (order - 1) / rho
        i, matrix = np.arange(n), np.zeros((n, n))
        matrix[i, (i + 1) % n] = (face * np.roll(slope, -1)) / spacing**2
        matrix[i, (i - 1) % n] = np.roll(face, 1) * np.roll(slope, 1) / spacing**2
        matrix[i, i] = -(face + np.roll(face, 1)) * slope / spacing**2
        return matrix

    options = {"method": "Radau", "jac": jacobian, "rtol": 1e-11, "atol": 1e-13}
    solution = scipy.integrate.solve_ivp(rate, (0, t1), weights / spacing, **options)
    assert solution.success
    return solution.y[:, -1] * spacing


@pytest.mark.slow_cases("circle")
@pytest.mark.parametrize("domain", [CIRCLE, INTERVAL], ids=["circle", "interval"])
def test_against_radau(domain):
    """The default run, and fixed steps with their declared orders, against a tight independent solution."""
    n, order, t1 = 64, 2.5, 0.2
    flow, mu, target = ultrafast(domain, n, 10.0, order)
    exact = reference_solution(target, 2 * np.pi / n, order, 0.5, np.full(n, 1 / n), t1, domain is CIRCLE)
    error = lambda weights: np.abs(np.asarray(weights) - exact).sum()
    weights, _ = final(flow, mu, [t1 / 2, t1], mf.steppers.Rosenbrock(1e-6, 1e-9))
    assert error(weights[-1]) < 3e-6
    if domain is not CIRCLE:
        return
    schemes = [
        (mf.steppers.Rosenbrock(1e-6), (64, 128)),
        (mf.steppers.RosenbrockW(1e-6), (64, 128)),
        (mf.steppers.ImplicitEuler(1.0), (64, 128)),
    ]
    for stepper, counts in schemes:
        results = [march(flow, mu, stepper, jnp.asarray(t1 / k), jnp.asarray(k)) for k in counts]
        assert all(int(status) == 0 for *_, status in results)
        errors = [error(weights) for weights, *_ in results]
        observed = np.log2(errors[0] / errors[1])
        name = type(stepper).__name__
        print(f"{name}: order in time {observed:.2f}, error {errors[1]:.1e}")
        assert abs(observed - stepper.order) < 0.3, (name, observed)
        if stepper.adaptive:
            # What the controller assumes: the estimate falls like dt to the declared order.
            estimate = np.log2(results[0][1] / results[1][1])
            assert abs(estimate - stepper.order) < 0.4, (name, estimate)


@pytest.mark.slow
def test_transport_with_diffusion():
    """Fokker-Planck on an interval: order 3 in time of the W-method, and the Gibbs state exp(-V)."""
    domain, n = mf.domains.Interval(0.0, 1.0), 48
    energy = mf.energies.Entropy() + mf.energies.Potential(lambda x: 2 * x[0])
    flow = mf.flows.Wasserstein(energy, domain)
    # Without flux through the ends at the start: incompatible data would show order reduction instead.
    mu = mf.measures.Grid.from_density(
        domain, n, lambda x: jnp.exp(-2 * x[0]) * (1 + 0.2 * jnp.cos(jnp.pi * x[0]))
    )
    stepper = mf.steppers.RosenbrockW(1e-9, 1e-11)
    steps = lambda count: march(flow, mu, stepper, jnp.asarray(0.05 / count), jnp.asarray(count))[0]
    fine = steps(256)
    errors = [float(jnp.sum(jnp.abs(steps(count) - fine))) for count in (16, 32)]
    observed = np.log2(errors[0] / errors[1])
    assert 2.7 < observed < 3.5, (observed, errors)
    # stepper=None picks the W-method here; the drift is resolved to second order in the spacing.
    weights, values = final(flow, mu, [1.0, 6.0])
    assert isinstance(mf.Simulation(flow, mu, t1=1.0).stepper, mf.steppers.RosenbrockW)
    # Fitted fluxes have the Gibbs density at the cell centers as their exact equilibrium.
    gibbs = np.exp(-2 * np.asarray(mu.points[:, 0]))
    assert np.abs(weights[-1] - gibbs / gibbs.sum()).sum() < 1e-8
    assert np.max(np.abs(values["mass"] - 1)) <= 1e-12
    # Implicit Euler: the same end for every step.
    for dt in (2e-3, 1.0):
        carry, _ = run(mf.Simulation(flow, mu, stepper=mf.steppers.ImplicitEuler(dt), t1=30.0))
        assert int(carry.status) == 0
        np.testing.assert_allclose(carry.state.measure.weights, weights[-1], atol=1e-9)
    # Without an entropy the drift is explicit: a status beyond the transport limit.
    divergence = mf.energies.PowerDivergence(lambda x: 1.0)
    flow = mf.flows.Wasserstein(divergence + mf.energies.Potential(lambda x: 2 * x[0]), domain)
    carry, _ = run(mf.Simulation(flow, mu, stepper=mf.steppers.ImplicitEuler(0.1), t1=3.0))
    assert int(carry.status) == CFL


# --- invariants -------------------------------------------------------------------------------------------


@eqx.filter_jit
def euler_step(flow, mu, dt):
    stepper, state = mf.steppers.ImplicitEuler(dt), flow.init(mu)
    step = stepper.step(flow, state, flow.evaluate(state), dt, None, None)
    return step.state.measure.weights, step.evaluation, step.status


@pytest.mark.slow_cases("circle")
@pytest.mark.parametrize("domain", [CIRCLE, INTERVAL], ids=["circle", "interval"])
def test_implicit_euler_invariants(domain):
    """Rough data over six decades, any step: converged, mass kept, positive, max(target/mu) never rises."""
    generator = np.random.default_rng(0)
    for gamma, order, dt in itertools.product((10.0, 100.0), (1.5, 2.0, 3.0), (1e-6, 1e-3, 1.0, 1e3)):
        flow, mu, target = ultrafast(domain, 128, gamma, order)
        weights = 10 ** generator.uniform(-6, 0, 128)
        mu = mu.with_weights(jnp.asarray(weights / weights.sum()))
        moved, evaluation, status = euler_step(flow, mu, jnp.asarray(dt))
        case = (gamma, order, dt)
        assert int(status) == 0, case
        assert abs(float(jnp.sum(moved)) - 1) <= 1e-14, case
        assert float(jnp.min(moved)) > 0, case
        assert float(jnp.max(target / moved)) <= float(jnp.max(target / mu.weights)) * (1 + 1e-12), case
        assert float(jnp.min(target / moved)) >= float(jnp.min(target / mu.weights)) * (1 - 1e-12), case
        assert float(evaluation.energy) < float(flow.evaluate(flow.init(mu)).energy), case


@pytest.mark.slow
def test_implicit_euler_run_never_raises_the_maximum():
    flow, mu, target = ultrafast(CIRCLE, 256, 100.0)
    sim = mf.Simulation(flow, mu, stepper=mf.steppers.ImplicitEuler(1.0), steps=30)
    carry, ((weights, _), values) = run(sim)
    assert int(carry.status) == 0
    ratio = np.max(target / np.asarray(weights), axis=1)
    assert np.all(np.diff(ratio) <= 1e-12 * ratio[1:])
    assert np.all(np.diff(values["energy"]) <= 1e-14)
    np.testing.assert_allclose(ratio[-1], 1, atol=1e-9)


def test_energy_balance_of_the_default():
    """Energy lost equals dissipation integrated along the run, to the order of the trapezoidal rule."""
    defects = []
    for rtol in (1e-6, 1e-8):
        flow, mu, _ = ultrafast(CIRCLE, 256, 10.0)
        _, values = final(flow, mu, [7.0, 8.0], mf.steppers.Rosenbrock(rtol, 1e-3 * rtol))
        lost = values["energy"][0] - values["energy"][-1]
        defects.append(abs(float(values["dissipated"][-1] / lost - 1)))
        assert np.all(np.diff(values["energy"]) < 0) and np.all(np.asarray(values["dissipation"]) > 0)
    # Order 4(3): the step falls by 100^(1/4), the trapezoidal defect by its square.
    assert defects[1] < 0.2 * defects[0] and defects[1] < 3e-4, defects


# --- rates ------------------------------------------------------------------------------------------------


def test_chi_square_rate():
    """Fitted on t in [7, 8], gamma = 10: twice the gap of the linearized operator, within one percent."""
    flow, mu, target = ultrafast(CIRCLE, 256, 10.0)
    n, h = 256, 2 * np.pi / 256
    nu = target / h
    face = 0.5 * (nu + np.roll(nu, -1)) / h**2
    i, stiff = np.arange(n), np.zeros((n, n))
    stiff[i, i] = face + np.roll(face, 1)
    stiff[i, (i + 1) % n] = stiff[(i + 1) % n, i] = -face
    gap = scipy.linalg.eigh(stiff, np.diag(nu), eigvals_only=True)[1]
    assert abs(gap - 1.06097) < 2e-4
    # The library's own linearization at the target has the same spectrum.
    rate = lambda w: grids.FiniteVolume().evaluate(flow.energy, mu.with_weights(w)).tangent.weights
    spectrum = np.sort(-np.linalg.eigvals(np.asarray(jax.jit(jax.jacfwd(rate))(jnp.asarray(target)))).real)
    np.testing.assert_allclose(spectrum[1], gap, rtol=1e-6)
    weights, _ = final(flow, mu, [7.0, 8.0], mf.steppers.Rosenbrock(1e-7, 1e-10))
    chi_square = np.sum((target / weights - 1) ** 2 * weights, axis=1)
    fitted = np.log(chi_square[1] / chi_square[2])
    print(f"chi-square rate {fitted:.5f}, 2 gap {2 * gap:.5f}")
    assert abs(fitted / (2 * gap) - 1) < 0.01


# --- two dimensions ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ultrafast_diffusion_on_the_torus():
    """A target of one coordinate gives the one-dimensional solution; a full one is second order in space."""
    torus, line = mf.domains.Torus(2, 4.0), mf.domains.Torus(1, 4.0)
    density = lambda z: 1 / (1 + 10 * jnp.sin(jnp.pi * z / 4) ** 2)
    flow_1 = mf.flows.Wasserstein(mf.energies.PowerDivergence(lambda x: density(x[0]) / 1.2), line)
    exact, _ = final(flow_1, mf.measures.Grid.uniform(line, 24), [0.05, 0.1])
    along = lambda axis: mf.measures.Grid.from_density(torus, 24, lambda x: density(x[axis]), mass=None)
    line_target = mf.measures.Grid.from_density(line, 24, lambda x: density(x[0]) / 1.2, mass=None)
    for axis in (0, 1):
        target = along(axis)
        # Divided by the length of the other axis, so that density in two dimensions is that in one over 4.
        target = target.with_weights(target.weights / (1.2 * 4))
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target), torus)
        weights, values = final(flow, mf.measures.Grid.uniform(torus, 24), [0.05, 0.1])
        marginal = weights[-1].reshape(24, 24).sum(1 - axis)
        np.testing.assert_allclose(marginal, exact[-1], atol=3e-6 / 24)
        assert np.max(np.abs(values["mass"] - 1)) <= 1e-12
    assert abs(float(line_target.mass) - float(target.mass)) < 1e-12


@pytest.mark.slow
def test_torus_refinement():
    """Two modes off the axes, four neighbors coupled: second order in space, mass and signs kept."""
    torus = mf.domains.Torus(2, 4.0)

    def density(x):
        bump = lambda z: 1 / (1 + 3 * jnp.sin(jnp.pi * z / 4) ** 2)
        return 0.5 * bump(x[0] + 1) * bump(x[1]) + 0.5 * bump(x[0] - 1) * bump(x[1] - 1)

    masses = []
    for n in (12, 24, 48):
        target = mf.measures.Grid.from_density(torus, n, density)
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target, 2.0, 0.5), torus)
        start = mf.measures.Grid.uniform(torus, n)
        weights, error, _ = march(flow, start, mf.steppers.Rosenbrock(1e-4, 1e-4), jnp.asarray(5e-3), 40)
        assert float(error) < 1 and abs(float(jnp.sum(weights)) - 1) <= 1e-12 and float(jnp.min(weights)) > 0
        masses.append(np.asarray(weights).reshape(n, n))
    pool = lambda w: w.reshape(len(w) // 2, 2, -1, 2).sum((1, 3))
    change = [np.abs(a - pool(b)).sum() for a, b in itertools.pairwise(masses)]
    assert abs(np.log2(change[0] / change[1]) - 2) < 0.2, change


# --- derivatives, batches, precision ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["implicit", "rosenbrock"])
def test_hyper_gradients(scheme):
    """d(final energy)/d(order, scale, one target mass), against finite differences."""
    _, mu, target = ultrafast(CIRCLE, 24, 10.0)
    stepper = {"implicit": mf.steppers.ImplicitEuler(0.05), "rosenbrock": mf.steppers.Rosenbrock()}[scheme]

    def final_energy(parameters):
        order, scale, tilt = parameters
        tilted = mu.with_weights(jnp.asarray(target).at[3].multiply(tilt))
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(tilted, order, scale), CIRCLE)
        weights, *_ = fixed_steps(flow, mu, stepper, jnp.asarray(0.05), 4)
        probe = mf.energies.PowerDivergence(mu.with_weights(jnp.asarray(target)), 2.0, 1.0)
        return probe(mu.with_weights(weights))

    at = jnp.array([2.2, 0.6, 1.1])
    gradient = jax.jit(jax.value_and_grad(final_energy))
    _, slope = gradient(at)
    value = lambda parameters: gradient(parameters)[0]
    for i in range(3):
        step = jnp.zeros(3).at[i].set(1e-5)
        difference = (value(at + step) - value(at - step)) / 2e-5
        np.testing.assert_allclose(slope[i], difference, rtol=1e-6)


@pytest.mark.slow
def test_second_derivative_of_implicit_euler():
    """d^2(final energy)/d(order)^2 against differences of the first derivative."""
    flow, mu, _ = ultrafast(CIRCLE, 24, 10.0)

    def final_energy(order):
        energy = mf.energies.PowerDivergence(flow.energy.target, order)
        return flow.energy(implicit_diffusion(((1.0, energy),), mu, jnp.asarray(0.2))[0])

    slope = jax.jit(jax.jacfwd(final_energy))
    difference = (slope(2.2 + 3e-4) - slope(2.2 - 3e-4)) / 6e-4
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacfwd(final_energy)))(2.2), difference, rtol=1e-5)


def test_gradient_at_equilibrium():
    """Where nothing moves, the derivative with respect to the target is neither NaN nor zero."""
    _, mu, _ = ultrafast(CIRCLE, 16, 10.0)

    def first_mass(tilt):
        target = mu.with_weights(mu.weights.at[0].multiply(tilt))
        parts = ((1.0, mf.energies.PowerDivergence(target)),)
        return implicit_diffusion(parts, mu, jnp.asarray(1e3))[0].weights[0]

    # In the limit of long steps the masses are those of the target, normalized.
    np.testing.assert_allclose(jax.jit(jax.grad(first_mass))(1.0), (1 / 16) * (1 - 1 / 16), rtol=1e-3)


@pytest.mark.slow
def test_vmap_equals_loop():
    """A batch over order, scale and target is each of its runs, and identical cells are identical."""
    cases = [(1.5, 0.5, 10.0), (2.0, 1.0, 30.0), (2.0, 1.0, 30.0), (3.0, 0.5, 10.0)]
    flows = [ultrafast(CIRCLE, 32, g, r, s)[0] for r, s, g in cases]
    start = mf.measures.Grid.uniform(CIRCLE, 32)
    sims = [mf.Simulation(f, start, save_at=[0.1, 0.2], stepper=mf.steppers.Rosenbrock()) for f in flows]
    stack = jax.tree.map(lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *sims)
    carry, ((weights, _), _) = eqx.filter_jit(eqx.filter_vmap(trajectory))(stack)
    assert np.all(np.asarray(carry.status) == 0)
    for i, sim in enumerate(sims):
        alone, ((solo, _), _) = run(sim)
        np.testing.assert_allclose(weights[i], solo, rtol=1e-12)
        assert int(carry.steps[i]) == int(alone.steps)
    np.testing.assert_array_equal(weights[1], weights[2])
    stack = jax.tree.map(lambda *x: jnp.stack(x) if eqx.is_array(x[0]) else x[0], *flows)
    batch = eqx.filter_vmap(lambda flow: euler_step(flow, start, jnp.asarray(0.1))[0])(stack)
    for i, flow in enumerate(flows):
        np.testing.assert_allclose(batch[i], euler_step(flow, start, jnp.asarray(0.1))[0], rtol=1e-12)


@pytest.mark.slow
def test_single_precision():
    """The default and implicit Euler in float32: dtype kept, mass to rounding, close to float64."""
    double, *_ = ultrafast(CIRCLE, 256, 10.0)
    exact, _ = final(double, mf.measures.Grid.uniform(CIRCLE, 256), [7.0, 8.0], mf.steppers.Rosenbrock())
    flow, mu, target = ultrafast(CIRCLE, 256, 10.0, dtype=jnp.float32)
    for stepper in (None, mf.steppers.ImplicitEuler(0.05)):
        weights, values = final(flow, mu, [0.5, 8.0], stepper)
        assert weights.dtype == np.float32 and values["energy"].dtype == np.float32
        assert np.max(np.abs(np.asarray(values["mass"]) - 1)) <= 2e-6
        ratio = np.max(target / weights, axis=1)
        assert np.all(np.diff(ratio) <= (1e-3 if stepper is None else 1e-5) * ratio[1:])
        np.testing.assert_allclose(weights[-1], exact[-1], rtol=2e-3)


# --- an internal energy written by a user -----------------------------------------------------------------


class PorousMedium(InternalEnergy):
    """1/2 int rho^2, d_t rho = div(rho grad rho): pressure rho^2 / 2, convex, degenerate where rho = 0."""

    def integrand(self, density, points):
        return 0.5 * density**2

    def derivative(self, density, points):
        return density

    def pressure(self, density, points):
        return 0.5 * density**2

    def mobility(self, points):
        return jnp.ones(points.shape[:1], points.dtype)


@pytest.mark.parametrize("scheme", ["implicit", "default"])
def test_barenblatt(scheme):
    """A compactly supported profile spreads: R^3 = R0^3 + 4.5 t, never negative, the front in its place."""
    domain, n, t1 = mf.domains.Interval(-2.0, 2.0), 200, 0.2
    radius = lambda t: (0.8**3 + 4.5 * t) ** (1 / 3)
    faces = np.linspace(-2, 2, n + 1)

    def masses(t):
        s = np.clip(faces / radius(t), -1, 1)
        return np.diff(0.75 * (s - s**3 / 3))

    mu = mf.measures.Grid(domain, n, masses(0.0))
    flow = mf.flows.Wasserstein(PorousMedium(), domain)
    stepper = mf.steppers.ImplicitEuler(1e-3) if scheme == "implicit" else None
    weights, values = final(flow, mu, [t1 / 2, t1], stepper)
    assert np.min(weights) >= 0
    assert np.max(np.abs(values["mass"] - 1)) <= 1e-12
    assert np.abs(weights[-1] - masses(t1)).sum() < 5e-3
    beyond = np.abs(faces[:-1]) > radius(t1) + 0.15
    assert weights[-1][beyond].sum() < 1e-6


# --- choices and refusals ---------------------------------------------------------------------------------


@pytest.mark.wrong_calls
def test_defaults_and_refusals():
    flow, mu, _ = ultrafast(CIRCLE, 16, 10.0)
    assert isinstance(mf.Simulation(flow, mu, t1=1.0).stepper, mf.steppers.Rosenbrock)
    drift = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x[0]), CIRCLE)
    assert isinstance(mf.Simulation(drift, mu, t1=1.0).stepper, mf.steppers.Adaptive)
    mixed = mf.flows.Wasserstein(flow.energy + drift.energy, CIRCLE)
    particles = mf.measures.Particles(mu.points)
    wrong = [
        (mixed, mu, mf.steppers.Rosenbrock(), "RosenbrockW"),
        (drift, mu, mf.steppers.ImplicitEuler(0.1), "internal energy"),
        (drift, mu, mf.steppers.RosenbrockW(), "internal energy"),
        (drift, particles, mf.steppers.ImplicitEuler(0.1), "Grid, got Particles"),
        (drift, particles, mf.steppers.Rosenbrock(), "Grid, got Particles"),
    ]
    for a_flow, measure, stepper, message in wrong:
        with pytest.raises(ValueError, match=message):
            mf.Simulation(a_flow, measure, stepper=stepper, t1=1.0)
    for bad in (lambda: mf.steppers.ImplicitEuler(0.0), lambda: mf.steppers.Rosenbrock(rtol=-1.0)):
        with pytest.raises(ValueError, match="greater than 0"):
            bad()
