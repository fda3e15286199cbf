"""Steppers: declared orders, exact moments of the noise, the proximal inequality, optimizers as steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy import stats

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Entropy, Potential, ReducedRisk
from mfjax.features import ReLU, Ridge
from mfjax.flows import TwoTimescale, Wasserstein
from mfjax.grids.evaluation import evaluation
from mfjax.measures import Grid, Particles, Tangent
from mfjax.steppers import RK4, Adaptive, Euler, EulerMaruyama, Heun, Optax, Proximal
from mfjax.testing import check_stepper_order, check_traces, finished

LINE, PLANE, CIRCLE = mf.domains.Euclidean(1), mf.domains.Euclidean(2), mf.domains.Sphere(1)
TORUS = mf.domains.Torus(1)


run = eqx.filter_jit(trajectory)


def quadratic(x):
    """0.5 x_1^2 + x_2^2: exact flow e^{-t} x_1, e^{-2t} x_2."""
    return 0.5 * x[0] ** 2 + x[1] ** 2


def reduced(lam=1e-2):
    x = jr.normal(jr.key(2), (9, 2))
    return ReducedRisk(Ridge(jnp.tanh), x, jnp.sin(x[:, 0]) + 0.3, lam=lam)


def scattered(domain, n=5, dtype="float64"):
    return Particles(domain.sample(jr.key(1), n, dtype))


# Steps small enough for the asymptotic regime and errors above rounding.
@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (Euler, (64, 128, 256)),
        (Heun, (32, 64, 128)),
        (RK4, (8, 16, 32)),
        (Proximal, (64, 128, 256)),
        (lambda dt: Optax(optax.sgd, dt, learning_rate=dt), (64, 128, 256)),
    ],
    ids=["Euler", "Heun", "RK4", "Proximal", "Optax"],
)
def test_order_against_the_exact_flow(make, steps):
    mu = scattered(PLANE)
    exact = Particles(mu.points * jnp.exp(-jnp.array([1.0, 2.0])))
    check_stepper_order(make, Wasserstein(Potential(quadratic), PLANE), mu, steps=steps, exact=exact, bar=0.1)


@pytest.mark.slow
def test_order_on_the_circle_against_the_exact_flow():
    """V = -cos(theta): tan(theta/2) decays as e^{-t}."""
    mu = scattered(CIRCLE)
    angle = np.arctan2(mu.points[:, 1], mu.points[:, 0])
    angle = 2 * np.arctan(np.tan(angle / 2) * np.exp(-1.0))
    exact = Particles(np.stack([np.cos(angle), np.sin(angle)], -1))
    flow = Wasserstein(Potential(lambda x: -x[0]), CIRCLE)
    for make, steps in ((Heun, (16, 32, 64)), (RK4, (8, 16, 32)), (Proximal, (64, 128, 256))):
        check_stepper_order(make, flow, mu, steps=steps, exact=exact, bar=0.15)


def test_order_with_marks():
    flow = TwoTimescale(reduced(0.1), CIRCLE, rate=2.0)
    check_stepper_order(RK4, flow, scattered(CIRCLE), t1=0.25, steps=(8, 16, 32), bar=0.3)


def test_a_wrong_order_is_noticed():
    flow = Wasserstein(Potential(quadratic), PLANE)
    with pytest.raises(AssertionError, match=r"order 1\.\d+ instead of 2"):
        check_stepper_order(Euler, flow, scattered(PLANE), order=2, bar=0.5)


@pytest.mark.slow
def test_adaptive_error_follows_the_tolerance():
    flow, mu = Wasserstein(Potential(quadratic), PLANE), scattered(PLANE)
    exact, errors, counts = mu.points * jnp.exp(-jnp.array([1.0, 2.0])), [], []
    for rtol in (1e-4, 1e-6, 1e-8):
        end, values = finished(flow, mu, Adaptive(rtol, 1e-12), t1=1.0)
        errors.append(float(jnp.max(jnp.abs(end.points - exact))))
        counts.append(int(values["steps"][-1]))
        assert errors[-1] < 3 * rtol
    # Local error at most rtol at third order: steps grow as rtol^(-1/3), a factor 4.6 per pair of digits.
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert 3.5 < counts[2] / counts[1] < 5.5


# Noise.
def ou(rate):
    return Wasserstein(Potential(lambda x: 0.5 * rate * jnp.sum(x * x)) + 0.5 * Entropy(), LINE)


def test_discrete_moments_of_the_ornstein_uhlenbeck_process():
    """x <- (1 - a dt) x + sqrt(2 T dt) xi has mean and variance in closed form at every dt."""
    n, rate, dt, steps = 4000, 2.0, 0.1, 12
    mu = Particles(jnp.full((n, 1), 1.5))
    end, _ = finished(ou(rate), mu, EulerMaruyama(dt), steps=steps, save_every=steps, key=jr.key(7))
    shrink = 1 - rate * dt
    mean, variance = 1.5 * shrink**steps, 2 * 0.5 * dt * (1 - shrink ** (2 * steps)) / (1 - shrink**2)
    x = np.asarray(end.points[:, 0])
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / n)
    assert stats.kstest(x, stats.norm(mean, np.sqrt(variance)).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_weak_error_is_first_order_in_mean_and_variance():
    """Against the exact law x_0 e^{-at}, (T/a)(1 - e^{-2at}); sampling errors by their z-scores."""
    n, rate, t1, x0 = 40_000, 2.0, 1.0, 10.0
    law = np.array([x0 * np.exp(-rate * t1), 0.5 / rate * (1 - np.exp(-2 * rate * t1))])
    counts, gaps = (4, 8, 16, 32), []
    for steps in counts:
        mu = Particles(jnp.full((n, 1), x0))
        end, _ = finished(ou(rate), mu, EulerMaruyama(t1 / steps), t1=t1, key=jr.key(9))
        x = np.asarray(end.points[:, 0])
        shrink = 1 - rate * t1 / steps
        variance = (t1 / steps) * (1 - shrink ** (2 * steps)) / (1 - shrink**2)
        expected = np.array([x0 * shrink**steps, variance])
        sampling = np.array([np.sqrt(variance / n), variance * np.sqrt(2 / n)])
        assert np.all(np.abs([x.mean(), x.var()] - expected) < 4 * sampling), steps
        gaps.append(np.abs([x.mean(), x.var()] - law))
    slope = lambda kept, k: -np.polyfit(np.log(counts[kept]), np.log(np.array(gaps)[kept, k]), 1)[0]
    mean, variance = slope(slice(1, 4), 0), slope(slice(0, 3), 1)
    print(f"weak order {mean:.3f} of the mean, {variance:.3f} of the variance")
    # Three sampling errors are 0.06 and 0.2 of a slope; the next order in dt adds 0.03 and 0.15.
    assert abs(mean - 1) < 0.1 and abs(variance - 1) < 0.35


@pytest.mark.slow
def test_strong_error_is_first_order_for_additive_noise():
    """Path by path, against the exact mean given the increments: e^{-a dt} x + (1 - e^{-a dt}) / (a dt) dW.

    The noise depends on (key, step, particle) only: without a drift the path is the noise itself.
    """
    n, rate, t1, counts, errors = 500, 2.0, 1.0, (16, 32, 64), []
    mu = Particles(LINE.sample(jr.key(3), n))
    for steps in counts:
        stepper, dt = EulerMaruyama(t1 / steps), t1 / steps
        free = Wasserstein(0.5 * Entropy(), LINE)
        alone = mf.Simulation(free, mu, stepper=stepper, steps=steps, save_every=1, key=jr.key(4))
        noise = np.diff(np.asarray(run(alone)[1][0].points)[..., 0], axis=0)
        assert noise.shape == (steps, n) and abs(noise.var() / dt - 1) < 4 * np.sqrt(2 / noise.size)
        end, _ = finished(ou(rate), mu, stepper, t1=t1, key=jr.key(4))
        x, decay = np.asarray(mu.points)[:, 0], np.exp(-rate * dt)
        for increment in noise:
            x = decay * x + (1 - decay) / (rate * dt) * increment
        errors.append(np.sqrt(np.mean((x - np.asarray(end.points)[:, 0]) ** 2)))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(f"strong order {slope:.3f}")
    assert abs(slope - 1) < 0.15


def test_without_noise_it_is_euler():
    flow, mu = Wasserstein(Potential(quadratic), PLANE), scattered(PLANE)
    ends = [finished(flow, mu, scheme(0.1), steps=5)[0].points for scheme in (EulerMaruyama, Euler)]
    np.testing.assert_array_equal(*ends)


@pytest.mark.slow
def test_noise_belongs_to_the_particle_and_not_to_the_padding():
    narrow = Particles.sample(PLANE, jr.key(0), 3)
    wide = Particles.sample(PLANE, jr.key(0), 3, capacity=6)
    flow = Wasserstein(Potential(quadratic) + 0.5 * Entropy(), PLANE)
    ends = [finished(flow, mu, EulerMaruyama(0.1), steps=4, key=jr.key(5))[0].points for mu in (narrow, wide)]
    np.testing.assert_allclose(ends[1][:3], ends[0], rtol=1e-12)
    gaps = np.linalg.norm(ends[1][:, None] - ends[1][None], axis=-1)
    assert np.min(gaps[~np.eye(6, dtype=bool)]) > 1e-3


@pytest.mark.slow
def test_reflected_noise_stays_in_the_box_and_keeps_it_uniform():
    box = mf.domains.Box([0.0, -1.0], [1.0, 2.0])
    mu = Particles(box.sample(jr.key(2), 3000))
    flow = Wasserstein(0.3 * Entropy(), box)
    end, _ = finished(flow, mu, EulerMaruyama(0.1), steps=20, save_every=20, key=jr.key(3))
    assert bool(jnp.all(jax.vmap(box.contains)(end.points)))
    for axis, law in enumerate((stats.uniform(0, 1), stats.uniform(-1, 3))):
        assert stats.kstest(end.points[:, axis], law.cdf).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 2])
def test_uniform_is_stationary_for_brownian_motion_on_spheres(dim):
    n, sphere = 4000, mf.domains.Sphere(dim)
    flow = Wasserstein(Entropy(), sphere)
    mu = Particles(sphere.sample(jr.key(4), n))
    end, _ = finished(flow, mu, EulerMaruyama(0.02), steps=100, save_every=100, key=jr.key(6))
    x, k = np.asarray(end.points), dim + 1
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-12)
    # It has moved by order one, and first and second moments are those of the uniform law.
    assert np.mean(np.sum(x * np.asarray(mu.points), axis=1)) < 0.2
    assert np.max(np.abs(x.mean(0)) * np.sqrt(n * k)) < 4
    fourth = 3 / (k * (k + 2))
    assert np.max(np.abs((x**2).mean(0) - 1 / k) * np.sqrt(n / (fourth - 1 / k**2))) < 4


@pytest.mark.parametrize("dim", [1, 2])
def test_brownian_motion_on_spheres_decays_at_the_right_rate(dim):
    """E[x_t] = e^{-dim T t} x_0: the first spherical harmonic; bias O(dt) plus a sampling error."""
    n, sphere, t1, dt = 4000, mf.domains.Sphere(dim), 0.5, 0.005
    pole = jnp.zeros((n, dim + 1)).at[:, 0].set(1.0)
    flow = Wasserstein(Entropy(), sphere)
    end, _ = finished(flow, Particles(pole), EulerMaruyama(dt), steps=100, save_every=100, key=jr.key(8))
    expected = np.exp(-dim * t1)
    assert abs(float(end.points[:, 0].mean()) - expected) < 4 * 0.6 / np.sqrt(n) + 2 * dt


# Proximal.
STIFF = jnp.array([1e3, 1.0])


@pytest.mark.slow
def test_proximal_is_implicit_euler_and_stable_where_euler_is_not(dtype):
    """For a quadratic potential each step divides by 1 + dt a; Euler multiplies by 1 - dt a = -99."""
    flow = Wasserstein(Potential(lambda x: 0.5 * jnp.sum(STIFF.astype(x.dtype) * x * x)), PLANE)
    mu = scattered(PLANE, dtype=dtype)
    end, _ = finished(flow, mu, Proximal(0.1, rtol=1e-6), steps=10)
    assert end.points.dtype == dtype
    exact = np.asarray(mu.points) / (1 + 0.1 * np.asarray(STIFF)) ** 10
    np.testing.assert_allclose(end.points, exact, atol={"float32": 1e-4, "float64": 1e-6}[dtype])
    carry, _ = run(mf.Simulation(flow, mu, stepper=Euler(0.1), steps=10))
    assert not float(carry.evaluation.energy) < 1e6


@pytest.mark.slow
@pytest.mark.parametrize("dt", [0.05, 5.0])
def test_each_proximal_step_obeys_the_variational_inequality(dt):
    """F(x^{k+1}) + W_2^2 / (2 dt) <= F(x^k), the distance recomputed here as an arc length."""
    flow, mu = Wasserstein(reduced(1e-3), CIRCLE), scattered(CIRCLE)
    _, (history, values) = run(mf.Simulation(flow, mu, stepper=Proximal(dt), steps=5))
    assert int(values["status"][-1]) == 0
    cosine = np.sum(np.asarray(history.points[1:] * history.points[:-1]), axis=-1)
    transport = np.sum(np.asarray(history.weights[1:]) * np.arccos(np.clip(cosine, -1, 1)) ** 2, axis=-1)
    energy = np.asarray(values["energy"])
    assert np.all(energy[1:] + transport / (2 * dt) <= energy[:-1] + 1e-10)
    assert energy[1] < 0.9 * energy[0]


@pytest.mark.slow
def test_proximal_step_is_a_minimizer():
    """No random nearby displacement has a lower objective: checked without any derivative."""
    dt, mu = 0.1, scattered(TORUS)
    energy = mf.energies.MMD(mf.kernels.Gaussian(0.1, TORUS), Particles([[0.2], [0.6]]))
    flow = Wasserstein(energy, TORUS)
    end, _ = finished(flow, mu, Proximal(dt), steps=1)
    v = jax.vmap(TORUS.displacement)(end.points, mu.points)

    @jax.jit
    @jax.vmap
    def objective(noise):
        moved = Particles(jax.vmap(TORUS.retract)(mu.points, v + noise), mu.weights)
        return energy.solve(moved).value + jnp.sum(mu.weights[:, None] * (v + noise) ** 2) / (2 * dt)

    noise = 1e-3 * jr.normal(jr.key(0), (200, *v.shape))
    values = objective(jnp.concatenate([0 * noise[:1], noise]))
    assert float(jnp.min(values[1:] - values[0])) > 0


def test_proximal_motion_is_held_at_the_faces():
    box = mf.domains.Interval(0.0, 1.0)
    flow = Wasserstein(Potential(lambda x: 0.5 * (x[0] - 1.5) ** 2), box)
    mu = Particles(jnp.array([[0.0], [0.5], [1.0]]))
    end, _ = finished(flow, mu, Proximal(1.0), steps=1)
    # Free minimizer (x + 1.5) / 2, cut at the face.
    np.testing.assert_allclose(end.points, [[0.75], [1.0], [1.0]], atol=1e-7)


@pytest.mark.slow
def test_proximal_ignores_padding():
    mu = scattered(CIRCLE)
    # Axes: normalizing them again changes no bit, whatever the compiler makes of it.
    axes = jnp.array([[1.0, 0.0], [0.0, -1.0]])
    wide = Particles(jnp.concatenate([mu.points, axes]), jnp.append(mu.weights, jnp.zeros(2)))
    flow = Wasserstein(attraction(1.0), CIRCLE)
    ends = [finished(flow, nu, Proximal(0.2), steps=2)[0].points for nu in (mu, wide)]
    np.testing.assert_allclose(ends[1][:5], ends[0], rtol=1e-9)
    np.testing.assert_array_equal(ends[1][5:], wide.points[5:])


def attraction(strength):
    """A nonlocal energy on the circle whose particles interact, with one parameter."""
    discrepancy = mf.energies.MMD(mf.kernels.Gaussian(0.7), Particles([[1.0, 0.0], [0.6, 0.8]]))
    return strength * discrepancy + Potential(lambda x: 0.1 * x[1])


@pytest.mark.slow
def test_derivatives_pass_through_a_proximal_step():
    """d(final energy)/d(parameter), reverse and forward, against a central difference; masses are unequal."""
    mu = Particles(scattered(CIRCLE).points, [0.1, 0.3, 0.2, 0.15, 0.25])

    def final(strength):
        flow, stepper = Wasserstein(attraction(strength), CIRCLE), Proximal(2.0, rtol=1e-12)
        return trajectory(mf.Simulation(flow, mu, stepper=stepper, steps=2, save_every=2))[
            0
        ].evaluation.energy

    step = 1e-5
    value = jax.jit(final)
    difference = (value(1.5 + step) - value(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(final))(1.5), difference, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(final))(1.5), difference, rtol=1e-6)


def test_a_minimizer_at_a_kink_is_reported():
    flow = Wasserstein(Potential(lambda x: jnp.sum(jnp.abs(x - 0.1))), LINE)
    carry, _ = run(mf.Simulation(flow, Particles([[0.3]]), stepper=Proximal(1.0), steps=1))
    assert int(carry.status) == mf.status.NOT_CONVERGED


@pytest.mark.slow
def test_relu_steps_need_a_tolerance_above_the_jumps_of_the_slope():
    x = jr.normal(jr.key(2), (400, 2))
    flow = Wasserstein(ReducedRisk(ReLU(), x, jnp.abs(x[:, 0]), lam=1e-2), CIRCLE)
    sims = [
        mf.Simulation(flow, scattered(CIRCLE), stepper=Proximal(0.1, atol=atol), steps=6)
        for atol in (1e-2, 0.0)
    ]
    loose, tight = [run(sim)[1][1] for sim in sims]
    assert int(loose["status"][-1]) == 0 and np.all(np.diff(loose["energy"]) < 0)
    assert int(tight["status"][-1]) == mf.status.NOT_CONVERGED


# Optimizers.
def test_plain_sgd_is_euler():
    for flow in (Wasserstein(Potential(lambda x: x[0]), CIRCLE), TwoTimescale(reduced(), CIRCLE, rate=0.5)):
        mu, ends = scattered(CIRCLE), []
        for stepper in (Optax(optax.sgd(0.01), dt=0.01), Euler(0.01)):
            end, values = finished(flow, mu, stepper, steps=5)
            ends.append((end.points, end.marks, values["energy"]))
        for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


def test_adam_against_numpy(dtype):
    """Five steps of Adam on grad V = x: no mass appears."""
    mu = Particles(scattered(LINE, dtype=dtype).points, [0.1, 0.3, 0.2, 0.15, 0.25])
    flow = Wasserstein(Potential(lambda x: 0.5 * jnp.sum(x * x)), LINE)
    end, _ = finished(flow, mu, Optax(optax.adam, 1.0, learning_rate=0.1), steps=5)
    assert end.points.dtype == dtype
    x = np.asarray(mu.points, np.float64)
    m = v = 0
    for k in range(1, 6):
        m, v = 0.9 * m + 0.1 * x, 0.999 * v + 0.001 * x**2
        x = x - 0.1 * (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8)
    np.testing.assert_allclose(end.points, x, rtol={"float32": 1e-5, "float64": 1e-10}[dtype])


def test_momentum_stays_on_the_sphere_and_in_the_tangent_space():
    sphere = mf.domains.Sphere(2)
    flow = Wasserstein(Potential(lambda x: x[0] + 0.5 * x[1] ** 2), sphere)
    end, values = finished(flow, scattered(sphere), Optax(optax.sgd(0.1, momentum=0.9), 0.1), steps=200)
    np.testing.assert_allclose(jnp.linalg.norm(end.points, axis=1), 1, rtol=1e-12)
    assert float(values["energy"][-1]) == pytest.approx(-1.0, abs=1e-3)


RATED = optax.inject_hyperparams(optax.adam)


@pytest.mark.slow
def test_rates_and_clock_do_not_retrace():
    flow, mu = Wasserstein(Potential(quadratic), PLANE), scattered(PLANE)
    for factory in (optax.adam, RATED):
        sims = [
            mf.Simulation(flow, mu, stepper=Optax(factory, dt, learning_rate=rate), steps=3)
            for dt, rate in ((0.1, 0.1), (0.1, 0.2), (0.2, 0.1))
        ]
        assert check_traces(trajectory, [(sim,) for sim in sims]) == 1
    ends = [run(sim)[0].state.measure.points for sim in sims]
    assert np.max(np.abs(ends[0] - ends[1])) > 1e-2
    np.testing.assert_array_equal(ends[0], ends[2])


def test_the_final_energy_is_differentiable_in_the_learning_rate():
    flow, mu = Wasserstein(Potential(quadratic), PLANE), scattered(PLANE)

    def final(rate):
        stepper = Optax(optax.sgd, 0.1, learning_rate=rate)
        return trajectory(mf.Simulation(flow, mu, stepper=stepper, steps=3))[0].evaluation.energy

    step, value = 1e-6, jax.jit(final)
    difference = (value(0.1 + step) - value(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(final))(0.1), difference, rtol=1e-7)


def test_a_step_cut_short_shortens_its_updates():
    flow, mu = Wasserstein(Potential(quadratic), PLANE), scattered(PLANE)
    ends = [finished(flow, mu, s, t1=0.25)[0].points for s in (Optax(optax.sgd(0.1), 0.1), Euler(0.1))]
    np.testing.assert_allclose(*ends, rtol=1e-12)


def noisy(domain):
    return Wasserstein(Potential(lambda x: jnp.sum(x)) + Entropy(), domain)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Euler(0.0), "dt must be greater than 0"),
        (lambda: Heun(-1.0), "dt must be greater than 0"),
        (lambda: RK4(np.nan), "dt must be finite"),
        (lambda: Euler([0.1, 0.2]), "dt must be a scalar"),
        (lambda: Adaptive(rtol=0.0), "rtol must be greater than 0"),
        (lambda: Proximal(0.1, rtol=-1.0), "rtol must be greater than 0"),
        (lambda: Proximal(0.1, max_iterations=0), "max_iterations must be at least 1"),
        (lambda: Euler(0.1).validate(noisy(LINE), scattered(LINE)), "use steppers.EulerMaruyama"),
        (lambda: Proximal(0.1).validate(noisy(LINE), scattered(LINE)), "use steppers.EulerMaruyama"),
        (lambda: EulerMaruyama(0.1).validate(noisy(CIRCLE), Grid.uniform(CIRCLE, 8)), "moves particles"),
        (
            lambda: Proximal(0.1).validate(Wasserstein(reduced(), CIRCLE), Grid.uniform(CIRCLE, 8)),
            "ImplicitEuler",
        ),
        (
            lambda: Proximal(0.1).validate(TwoTimescale(reduced(), CIRCLE, 1.0), scattered(CIRCLE)),
            "TwoTimescale",
        ),
        (lambda: Optax(3.0, 0.1), "transformation must be"),
        (lambda: Optax(optax.sgd(0.1), 0.0), "dt must be greater than 0"),
        (lambda: Optax(optax.sgd(0.1), 0.1, learning_rate=0.1), "fixed: pass the function"),
        (lambda: Optax(optax.sgd, 0.1), "could not be built"),
        (lambda: Optax(optax.sgd, 0.1, learning_rate="fast"), "learning_rate must be numeric"),
        (lambda: Optax(lambda: None, 0.1), "did not return"),
        (
            lambda: Optax(optax.sgd(0.1), 0.1).validate(
                Wasserstein(reduced(), CIRCLE), Grid.uniform(CIRCLE, 8)
            ),
            "Grid",
        ),
        (
            lambda: mf.Simulation(noisy(LINE), scattered(LINE), stepper=EulerMaruyama(0.1), steps=1),
            "pass key=jax.random.key",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Constant(mf.flows.Flow):
    """Masses of a grid at a rate that never changes."""

    rate: jax.Array
    energy: mf.energies.Energy = Entropy()
    domain: mf.domains.Domain = TORUS

    def init(self, mu):
        return mf.flows.State(mu)

    def evaluate(self, state):
        return evaluation(Tangent(weights=self.rate), 0.0, 0.0, state.measure.dtype)


@pytest.mark.parametrize("make", [Euler, RK4])
def test_masses_below_zero_by_rounding_are_zero_and_by_more_an_error(make, dtype):
    mu = Grid(TORUS, 4, [0.5, 0.5, 0.0, 0.0], dtype=dtype)
    eps = float(jnp.finfo(dtype).eps)
    for share, status in ((0.1, mf.status.OK), (10.0, mf.status.NEGATIVE_MASS)):
        # Of the mean mass, which is 1/4.
        rate = jnp.asarray([-0.1, 0.1, -share * eps / 4, 0.0], dtype)
        carry, _ = run(mf.Simulation(Constant(rate), mu, stepper=make(1.0), steps=1))
        assert int(carry.status) == status
        if status == mf.status.OK:
            weights = np.asarray(carry.state.measure.weights)
            assert weights[2] == 0 and not np.signbit(weights[2])
            np.testing.assert_allclose(weights, [0.4, 0.6, 0, 0], rtol=4 * eps)
