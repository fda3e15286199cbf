"""Flows: dissipation at the recorded rate, agreement with the published algorithms, and their limits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import MMD, Batches, Entropy, Potential, PowerDivergence, ReducedRisk, Risk
from mfjax.features import RBF, ReLU, Ridge, Weighted
from mfjax.flows import OuterMomentum, PropagationOfChaos, SeparatedVariables, TwoTimescale, Wasserstein
from mfjax.measures import Particles
from mfjax.regularizers import Quadratic
from mfjax.steppers import RK4, Euler
from mfjax.testing import check_flow, check_traces

CIRCLE, TORUS, PLANE = mf.domains.Sphere(1), mf.domains.Torus(2, 4.0), mf.domains.Euclidean(2)
BOX = mf.domains.Box([-1.5, -1.5], [1.5, 1.5])
TANH = Ridge(jnp.tanh)
MASSES = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])


# Away from the minimizer, where the rate of u would be pure rounding.
MARKS = {name: jnp.array([1.0, -0.5, 2.0, 0.3, 0.0]) for name in ("u", "H")}


def particles(domain=CIRCLE, dtype="float64", marks=None):
    return Particles(domain.sample(jr.key(1), 5, dtype), MASSES, marks)


def data(dtype="float64"):
    x = jr.normal(jr.key(2), (9, 2), dtype)
    return x, jnp.sin(x @ jnp.array([1.0, 0.5], dtype)) + 0.3


def reduced(features=TANH, lam=1e-2, center=1.0, dtype="float64"):
    return ReducedRisk(features, *data(dtype), lam=lam, regularizer=Quadratic(center))


def discrepancy(domain, kernel=mf.kernels.Gaussian):
    return MMD(kernel(0.7, domain), Particles(domain.sample(jr.key(3), 4)))


FLOWS = {
    "reduced risk on the circle": (Wasserstein(reduced(ReLU(0.5)), CIRCLE), CIRCLE),
    "reduced risk on the torus": (Wasserstein(reduced(RBF(TORUS, scale=1.0)), TORUS), TORUS),
    "discrepancy on the torus": (Wasserstein(discrepancy(TORUS), TORUS), TORUS),
    "discrepancy on the plane": (Wasserstein(discrepancy(PLANE, mf.kernels.Distance), PLANE), PLANE),
    "risk in a box": (Wasserstein(Risk(Weighted(Ridge(jnp.sin)), data()[0][:, :1], data()[1]), BOX), BOX),
    "two timescales": (TwoTimescale(reduced(), CIRCLE, rate=3.0), CIRCLE),
    "two timescales on the torus": (TwoTimescale(reduced(RBF(TORUS, scale=1.0)), TORUS, 3.0), TORUS),
    "outer momentum": (OuterMomentum(reduced(), CIRCLE, 0.7, 0.1), CIRCLE),
    "propagation of chaos in a box": (PropagationOfChaos(Risk(Weighted(TANH), *data(), 0.1), BOX), BOX),
    "averages": (mf.flows.Averaged(Wasserstein(reduced(), CIRCLE)), CIRCLE),
    "reduced variance": (
        mf.flows.VarianceReduced(
            Wasserstein(ReducedRisk(TANH, *data(), lam=0.1, batches=Batches(3)), CIRCLE), 4
        ),
        CIRCLE,
    ),
    "separated variables in a box": (
        SeparatedVariables(Risk(Weighted(TANH), *data(), 0.1), BOX, jnp.sum),
        BOX,
    ),
}


@pytest.mark.slow_cases(
    "reduced risk on the circle",
    "separated variables in a box",
    "two timescales on the torus",
    "reduced risk on the torus",
    "discrepancy on the torus",
    "discrepancy on the plane",
    "risk in a box",
    "propagation of chaos in a box",
    "averages",
    "reduced variance",
)
@pytest.mark.parametrize("name", FLOWS)
def test_generic(name):
    flow, domain = FLOWS[name]
    check_flow(flow, particles(domain, marks=MARKS))


@pytest.mark.slow
def test_generic_single_precision():
    flow = TwoTimescale(reduced(dtype="float32"), CIRCLE, 3.0)
    check_flow(flow, particles(dtype="float32", marks=MARKS))


def varpro_by_hand(omega, u, x, y, lam, c):
    """grad of the risk at fixed u, per unit of mass and divided by lam, for tanh features; NumPy only."""
    m = np.asarray(MASSES)
    z = np.tanh(x @ omega.T)
    error = (z @ (m * u) - y) / len(y)
    gradient = (u[:, None] * (((1 - z**2) * error[:, None]).T @ x)) / lam
    outer = (error @ z) / lam + u - c
    return gradient, outer


def tangential(omega, v):
    return v - np.sum(v * omega, axis=1, keepdims=True) * omega


def test_one_step_of_two_timescales_is_the_published_algorithm():
    """(III.44): omega - M tau grad_omega L, u - eta grad_u R, both from the old state, at uniform masses.

    In flow time gamma = eta / (M tau); with masses m_i in place of 1/M nothing else changes.
    """
    tau, lam, c, rate = 0.05, 1e-2, 1.0, 4.0
    flow, mu = TwoTimescale(reduced(lam=lam, center=c), CIRCLE, rate), particles()
    u0 = np.asarray(MARKS["u"])
    state = flow.init(particles(marks=MARKS))
    step = Euler(tau).step(flow, state, flow.evaluate(state), jnp.asarray(tau), None, None)
    omega, (x, y) = np.asarray(mu.points), map(np.asarray, data())
    gradient, outer = varpro_by_hand(omega, u0, x, y, lam, c)
    moved = omega - tau * tangential(omega, gradient)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(step.state.measure.points, moved, rtol=1e-12)
    np.testing.assert_allclose(step.state.measure.marks["u"], u0 - tau * rate * outer, rtol=1e-12)


@pytest.mark.slow
def test_one_step_of_variable_projection_is_the_published_algorithm():
    tau, lam, c = 0.05, 1e-2, 1.0
    energy, mu = reduced(lam=lam, center=c), particles()
    flow = Wasserstein(energy, CIRCLE)
    state = flow.init(mu)
    step = Euler(tau).step(flow, state, flow.evaluate(state), jnp.asarray(tau), None, None)
    omega, (x, y) = np.asarray(mu.points), map(np.asarray, data())
    gradient, _ = varpro_by_hand(omega, np.asarray(energy.outer_weights(mu)), x, y, lam, c)
    moved = omega - tau * tangential(omega, gradient)
    np.testing.assert_allclose(
        step.state.measure.points, moved / np.linalg.norm(moved, axis=1, keepdims=True), rtol=1e-10
    )


@eqx.filter_jit
def end(flow, mu, dt, t1):
    return trajectory(mf.Simulation(flow, mu, stepper=RK4(dt), t1=t1))[0].state.measure


@pytest.mark.slow
def test_variable_projection_is_the_limit_of_two_timescales_at_rate_one_over_gamma():
    energy, mu, t1 = reduced(lam=0.1), particles(), 0.5
    limit = end(Wasserstein(energy, CIRCLE), mu, 0.01, t1).points
    gammas = np.array([100.0, 200.0, 400.0])
    errors = [
        float(jnp.linalg.norm(end(TwoTimescale(energy, CIRCLE, g), mu, 0.2 / g, t1).points - limit))
        for g in gammas
    ]
    slope = np.polyfit(np.log(gammas), np.log(errors), 1)[0]
    assert -1.1 < slope < -0.9, (slope, errors)


def test_outer_weights_start_at_the_exact_minimizer():
    flow = TwoTimescale(reduced(), CIRCLE, rate=2.0)
    state = flow.init(particles())
    np.testing.assert_allclose(state.measure.marks["u"], reduced().outer_weights(particles()), rtol=1e-12)
    now = flow.evaluate(state)
    np.testing.assert_allclose(now.tangent.marks["u"], 0, atol=1e-10)
    np.testing.assert_allclose(now.energy, reduced()(particles()), rtol=1e-10)
    # Then the features move as those of variable projection do.
    varpro = Wasserstein(reduced(), CIRCLE)
    np.testing.assert_allclose(now.tangent.points, varpro.rate(varpro.init(particles())).points, rtol=1e-8)


def test_two_timescales_are_stable_below_the_stated_rate_only():
    """rate * tau < 2 lam / (lambda_max(K) + lam), K the Gram operator of the features, at frozen features."""
    lam, tau, mu = 1e-2, 1.0, particles()
    phi = np.tanh(np.asarray(data()[0]) @ np.asarray(mu.points).T) / 3 * np.sqrt(MASSES)
    bound = 2 * lam / (np.linalg.eigvalsh(phi.T @ phi)[-1] + lam)
    exact = reduced(lam=lam).outer_weights(mu)

    def after(rate):
        flow = TwoTimescale(reduced(lam=lam), CIRCLE, rate)
        u = exact + 1e-3 * jr.normal(jr.key(5), exact.shape)
        step = lambda _, u: u + tau * flow.rate(mf.flows.State(mu.with_marks(u=u))).marks["u"]
        return float(jnp.max(jnp.abs(jax.lax.fori_loop(0, 2000, step, u) - exact)))

    assert after(0.98 * bound) < 2e-3
    assert after(1.02 * bound) > 1.0


def test_a_particle_at_a_face_moves_inwards_and_not_outwards():
    flow = Wasserstein(Potential(lambda x: -jnp.sum(x)), mf.domains.Interval(0.0, 1.0))
    mu = Particles(jnp.array([[0.0], [0.5], [1.0]]))
    now = flow.evaluate(flow.init(mu))
    np.testing.assert_array_equal(now.tangent.points, [[1.0], [1.0], [0.0]])
    assert float(now.dissipation) == pytest.approx(2 / 3)
    two = TwoTimescale(reduced(), BOX, rate=1.0)
    corners = Particles(jnp.array([[-1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]]))
    state = two.init(corners.with_marks(u=jnp.ones(3)))
    free = eqx.filter_jit(TwoTimescale(reduced(), PLANE, rate=1.0).rate)(state).points
    held = eqx.filter_jit(two.rate)(state).points
    np.testing.assert_array_equal(held, jnp.where(free * corners.points > 0, 0.0, free))
    assert np.any(held) and not np.all(held)


def test_the_recorded_energy_of_a_noisy_flow_is_its_smooth_part():
    smooth, mu = Potential(lambda x: jnp.sum(x**2)), particles(PLANE)
    noisy, quiet = (Wasserstein(e, PLANE) for e in (smooth + 0.3 * Entropy(), smooth))
    assert noisy.stochastic and not quiet.stochastic
    assert float(noisy.temperature) == pytest.approx(0.3)
    a, b = noisy.evaluate(noisy.init(mu)), quiet.evaluate(quiet.init(mu))
    np.testing.assert_allclose(a.energy, b.energy, rtol=1e-14)
    np.testing.assert_allclose(a.tangent.points, b.tangent.points, rtol=1e-14)
    brownian = Wasserstein(Entropy(), PLANE)
    np.testing.assert_array_equal(brownian.rate(brownian.init(mu)).points, 0)


@pytest.mark.slow
def test_swept_numbers_do_not_retrace():
    """lam, center, bias, the scale of a kernel, gamma and dt are leaves of the compiled run."""
    mu = particles()

    def varpro(lam, center, bias, scale, dt):
        energy = reduced(ReLU(bias), lam, center) + MMD(mf.kernels.Gaussian(scale), mu)
        return mf.Simulation(Wasserstein(energy, CIRCLE), mu, stepper=Euler(dt), steps=2)

    def fast(lam, gamma, dt):
        flow = TwoTimescale(reduced(lam=lam), CIRCLE, gamma)
        return mf.Simulation(flow, mu, stepper=Euler(dt), steps=2)

    first = (1e-2, 1.0, 0.5, 1.0, 0.1)
    calls = [varpro(*first[:i], 1.5 * first[i], *first[i + 1 :]) for i in range(len(first))]
    assert check_traces(trajectory, [(varpro(*first),)] + [(sim,) for sim in calls]) == 1
    calls = [fast(1e-2, 2.0, 0.1), fast(1e-3, 2.0, 0.1), fast(1e-2, 3.0, 0.1), fast(1e-2, 2.0, 0.2)]
    assert check_traces(trajectory, [(sim,) for sim in calls]) == 1


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Wasserstein(1.0, CIRCLE), "energy must be an Energy"),
        (lambda: Wasserstein(reduced(), "circle"), "domain must be a Domain"),
        (lambda: Wasserstein(reduced(), CIRCLE).init(jnp.ones((3, 2))), "must be Particles or Grid"),
        (lambda: Wasserstein(reduced(), CIRCLE).init(Particles(jnp.ones((3, 2)))), "does not lie on"),
        (
            lambda: Wasserstein(PowerDivergence(lambda x: 1.0), CIRCLE).init(particles()),
            "run this flow on a Grid",
        ),
        (
            lambda: TwoTimescale(Potential(jnp.sum), CIRCLE, 1.0),
            "needs a ReducedRisk or PopulationReducedRisk, one alone, got Potential",
        ),
        (lambda: TwoTimescale(reduced(), CIRCLE, 0.0), "rate must be greater than 0"),
        (
            lambda: TwoTimescale(reduced(lam=0.0), CIRCLE, 1.0),
            "the lam of a TwoTimescale flow must be greater than 0",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
