"""Langevin dynamics: exact moments of both schemes, coupling, rates, information, losses of a risk."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Entropy, Potential, Risk
from mfjax.features import Function
from mfjax.flows import Wasserstein
from mfjax.measures import Particles, Tangent
from mfjax.observables import FreeEnergy
from mfjax.steppers import EulerMaruyama, Heun, StochasticHeun
from mfjax.steppers.noise import brownian
from mfjax.theory import fit_rate

LINE = mf.domains.Euclidean(1)
SCHEMES = {"Euler-Maruyama": EulerMaruyama, "stochastic Heun": StochasticHeun}

# dX = -(a X + c mean(X)) dt + sqrt(2 T) dW: the risk of linear features at one datum is the attraction.
A, C, T, N = 1.5, 0.7, 0.4, 4
ENERGY = Risk(Function(lambda xi, x: xi[0] * x[0]), [[np.sqrt(C)]], [0.0], lam=A) + T * Entropy()
FLOW = Wasserstein(ENERGY, LINE)
START = Particles(jnp.array([[2.0], [1.0], [-0.5], [3.0]]))
T1 = 1.0


@eqx.filter_jit
def one_step(flow, stepper, mu, key):
    state = flow.init(mu)
    moved = stepper.step(flow, state, flow.evaluate(state), stepper.dt, key, None)
    return moved.state.measure.points[:, 0]


def increment(stepper, key):
    """sqrt(2 T dt) xi (N,) of a step."""
    state = FLOW.init(START)
    return brownian(FLOW, state, FLOW.evaluate(state), stepper.dt, key).points[:, 0]


def affine(stepper):
    """(R, S): a step of the library is x <- R x + S B, B the Brownian increment; both (N, N)."""
    key = jr.key(3)
    noise = increment(stepper, key)
    place = lambda x: Particles(x[:, None])
    step = lambda x: one_step(FLOW, stepper, place(x), key)
    shift = step(jnp.zeros(N))
    r = np.stack([step(e) - shift for e in jnp.eye(N)], axis=1)
    # Linear, to rounding, at any state.
    np.testing.assert_allclose(step(START.points[:, 0]), r @ START.points[:, 0] + shift, atol=1e-14)
    return r, np.asarray(shift), np.asarray(noise)


def projections():
    """On the mean and on its complement, which decay at the rates A + C and A."""
    mean = np.full((N, N), 1 / N)
    return mean, np.eye(N) - mean


def coefficients(name, h):
    """R and S on each of the two spaces, from the scheme on paper."""
    rates = np.array([A + C, A])
    if name == "Euler-Maruyama":
        return 1 - h * rates, np.ones(2)
    return 1 - h * rates + 0.5 * (h * rates) ** 2, 1 - 0.5 * h * rates


def lift(pair):
    mean, rest = projections()
    return pair[0] * mean + pair[1] * rest


def step_matrices(stepper):
    """(R, S) of `affine` on the library's step: R by its columns, S from independent increments."""
    r, shift, noise = affine(stepper)
    shifts, noises = [shift], [noise]
    for i in range(N - 1):
        key = jr.key(100 + i)
        shifts.append(np.asarray(one_step(FLOW, stepper, Particles(jnp.zeros((N, 1))), key)))
        noises.append(np.asarray(increment(stepper, key)))
    # N increments span the space: S is what maps them to the shifts.
    return r, np.linalg.solve(np.stack(noises), np.stack(shifts)).T


def moments(r, s, h, steps):
    """E[X] (N,) and Cov[X] (N, N) after so many steps of x <- R x + S B."""
    m, cov = np.asarray(START.points[:, 0]), np.zeros((N, N))
    for _ in range(steps):
        m, cov = r @ m, r @ cov @ r.T + 2 * T * h * s @ s.T
    return m, cov


def exact_moments(t):
    rates = np.array([A + C, A])
    return lift(np.exp(-rates * t)) @ np.asarray(START.points[:, 0]), lift(
        T / rates * (1 - np.exp(-2 * rates * t))
    )


@pytest.mark.slow_cases("0.1-Euler-Maruyama")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("h", [0.1, 0.02])
def test_a_step_is_the_affine_map_on_paper(name, h):
    r, shift, noise = affine(SCHEMES[name](h))
    expected_r, expected_s = map(lift, coefficients(name, h))
    np.testing.assert_allclose(r, expected_r, atol=1e-13)
    np.testing.assert_allclose(shift, expected_s @ noise, atol=1e-13)


@pytest.mark.parametrize("name", SCHEMES)
def test_weak_order_from_the_exact_moment_recursion(name):
    """Moments of the scheme are rational functions of h: their error over h^order extrapolates to a limit.

    The limit is the coefficient of the modified equation: for a rate a, log R = -a h + c h^(p+1), hence an
    error t c h^p e^{-a t} in the mean.
    """
    order = SCHEMES[name].order
    steps = np.array([16, 32, 64, 128, 256, 512])
    errors = []
    for n in steps:
        h = T1 / n
        r, s = step_matrices(SCHEMES[name](h))
        m, cov = moments(r, s, h, n)
        mean, covariance = exact_moments(T1)
        errors.append([np.abs(m - mean).max(), np.abs(cov - covariance).max()])
    errors = np.array(errors)
    observed = np.log2(errors[:-1] / errors[1:])
    # Orders at steps h and h/2 approach the limit like h: one extrapolation removes that term.
    limit = 2 * observed[1:] - observed[:-1]
    print(f"{name}: weak orders {observed[-1]}, extrapolated {limit[-1]}")
    assert np.all(np.abs(observed[-1] - order) < 0.02)
    assert np.all(np.abs(limit[-1] - order) < 1e-3)
    rates = np.array([A + C, A])
    # Coefficients c of log R.
    c = -(rates**2) / 2 if order == 1 else rates**3 / 6
    leading = np.abs(lift(T1 * c * np.exp(-rates * T1)) @ np.asarray(START.points[:, 0])).max()
    scaled = errors[:, 0] * (steps / T1) ** order
    assert 2 * scaled[-1] - scaled[-2] == pytest.approx(leading, rel=1e-3)


@pytest.mark.parametrize("name", SCHEMES)
def test_moments_of_runs_are_those_of_the_recursion(name):
    """Independent copies of the N-particle system, coarse steps: 4 standard errors on 4 + 10 moments."""
    copies, n = 4000, 5
    h = T1 / n
    stepper = SCHEMES[name](h)

    @jax.jit
    @jax.vmap
    def end(key):
        sim = mf.Simulation(FLOW, START, stepper=stepper, steps=n, save_every=n, key=key)
        return trajectory(sim)[0].state.measure.points[:, 0]

    x = np.asarray(end(jr.split(jr.key(11), copies)))
    m, cov = moments(*map(lift, coefficients(name, h)), h, n)
    z_means = np.max(np.abs(x.mean(0) - m) / np.sqrt(np.diag(cov) / copies))
    products = (x - m).T @ (x - m) / copies
    spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / copies)
    z_products = np.max(np.abs(products - cov) / spread)
    print(f"{name}: standard errors off by at most {z_means:.2f} in means, {z_products:.2f} in products")
    assert max(z_means, z_products) < 4
    # Coarse enough that the bias of the scheme would be seen: the law itself is refused.
    if name == "Euler-Maruyama":
        law = exact_moments(T1)
        assert np.max(np.abs(x.mean(0) - law[0]) / np.sqrt(np.diag(law[1]) / copies)) > 6


@pytest.mark.parametrize("name", SCHEMES)
def test_strong_order_is_one(name):
    """E|X_t - x_t|^2 exactly, by the joint recursion of scheme and solution over the same Brownian path.

    Over a step the solution gains I = int e^{-a(h-s)} dW sqrt(2 T); E[I B], E[I^2] and E[B^2] are known.
    """
    errors, counts = [], np.array([16, 32, 64, 128])
    # In the difference of two particles, on which the mean does not act, the solution is one-dimensional.
    rate, along = A, np.array([1.0, -1.0, 0, 0]) / np.sqrt(2)
    for n in counts:
        h = T1 / n
        full_r, full_s = step_matrices(SCHEMES[name](h))
        r, s = along @ full_r @ along, along @ full_s @ along
        np.testing.assert_allclose(full_r @ along, r * along, atol=1e-12)
        np.testing.assert_allclose(full_s @ along, s * along, atol=1e-12)
        decay = np.exp(-rate * h)
        joint = 2 * T * np.array([[(1 - decay**2) / (2 * rate), (1 - decay) / rate], [0, h]])
        joint[1, 0] = joint[0, 1]
        step, gain = np.diag([decay, r]), np.diag([1.0, s])
        second = np.ones((2, 2))
        for _ in range(n):
            second = step @ second @ step + gain @ joint @ gain
        errors.append(np.sqrt(second[0, 0] - 2 * second[0, 1] + second[1, 1]))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(f"{name}: strong order {slope:.3f}")
    assert abs(slope - 1) < 0.05


BENT = Wasserstein(
    Risk(Function(lambda xi, x: jnp.tanh(xi[0] * x[0])), [[1.0], [2.0]], [0.5, -0.3], lam=0.5)
    + Potential(lambda x: 2 * jnp.log(jnp.cosh(x[0])))
    + T * Entropy(),
    LINE,
)


def ends_on_one_path(scheme, counts, increments):
    """Particles at time T1 / 2 on every path, for each number of steps of the library's scheme."""

    def end(path, n):
        h, steps = 0.5 * T1 / n, path.reshape(n, -1, N).sum(axis=1)

        def step(mu, db):
            state = BENT.init(mu)
            evaluation = BENT.evaluate(state)
            stepper = scheme(h)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(f"{scheme.__module__}.brownian", lambda *_: Tangent(points=db[:, None]))
                moved = stepper.step(BENT, state, evaluation, stepper.dt, jr.key(0), None)
            return moved.state.measure, None

        return jax.lax.scan(step, START, steps)[0].points[:, 0]

    return [jax.jit(jax.vmap(lambda path, n=n: end(path, n)))(increments) for n in counts]


@pytest.mark.slow_cases("stochastic Heun")
@pytest.mark.parametrize("name", SCHEMES)
def test_weak_order_of_nonlinear_interaction(name):
    """tanh neurons, a well that is not quadratic: E mean(x) at h, h/2, h/4, whose differences fall by 2^p.

    The three step sizes share their Brownian paths, so that the standard error of a difference is far below
    it: at least 15 times.
    """
    scheme, paths, fine = SCHEMES[name], 40_000, 16
    order, counts = scheme.order, (4, 8, 16)
    draws = jr.normal(jr.key(8), (paths, fine, N))
    ends = ends_on_one_path(scheme, counts, np.sqrt(T * T1 / fine) * draws)
    values = [np.asarray(jnp.mean(x, axis=1)) for x in ends]
    first, second = values[0] - values[1], values[1] - values[2]
    z = [np.sqrt(paths) * d.mean() / d.std() for d in (first, second)]
    observed = np.log2(first.mean() / second.mean())
    # Of log2 of the ratio, the two differences taken as independent.
    error = np.hypot(1 / z[0], 1 / z[1]) / np.log(2)
    print(f"{name}: weak order {observed:.3f}, standard error {error:.3f}, z of the differences {z}")
    assert min(np.abs(z)) > 15
    assert abs(observed - order) < 0.15 + 3 * error


@pytest.mark.parametrize("name", SCHEMES)
def test_one_key_couples_two_starts_synchronously(name):
    """The difference of two linear runs has no noise: it is R^n times the first one."""
    h, n = 0.1, 20
    stepper, other = SCHEMES[name](h), Particles(START.points - 3.0)
    end = eqx.filter_jit(lambda sim: trajectory(sim)[0].state.measure.points[:, 0])
    sims = [
        mf.Simulation(FLOW, mu, stepper=stepper, steps=n, save_every=n, key=jr.key(5))
        for mu in (START, other)
    ]
    gap = end(sims[0]) - end(sims[1])
    r = lift(coefficients(name, h)[0])
    expected = np.linalg.matrix_power(r, n) @ np.asarray(START.points - other.points)[:, 0]
    np.testing.assert_allclose(gap, expected, atol=1e-13)


def test_without_noise_stochastic_heun_is_heun():
    flow = Wasserstein(ENERGY.terms[0][1], LINE)
    run = eqx.filter_jit(trajectory)
    ends = [
        run(mf.Simulation(flow, START, stepper=scheme(0.1), steps=5))[0].state.measure.points
        for scheme in (StochasticHeun, Heun)
    ]
    np.testing.assert_array_equal(*ends)


@pytest.mark.slow_cases("float32")
def test_both_schemes_see_the_same_noise(dtype):
    """Without a drift both are the Brownian path itself; the dtype is that of the particles."""
    mu = Particles(START.points.astype(dtype))
    ends = [
        trajectory(
            mf.Simulation(Wasserstein(0.5 * Entropy(), LINE), mu, stepper=scheme(0.1), steps=4, key=jr.key(2))
        )[0].state.measure.points
        for scheme in SCHEMES.values()
    ]
    assert ends[0].dtype == dtype
    np.testing.assert_array_equal(*ends)


# Observables.
def test_free_energy_of_particles_tends_to_that_of_their_law():
    """T log-density of a normal law of variance v: -T (1 + log(2 pi v)) / 2, beside lam v / 2."""
    v, m = 0.7, 1500
    x = np.sqrt(v) * jr.normal(jr.key(4), (m, 1))
    energy = 0.3 * Entropy() + Potential(lambda z: 0.5 * z[0] ** 2)
    exact = 0.5 * v - 0.15 * (1 + np.log(2 * np.pi * v))
    # Standard deviations: 0.5 v sqrt(2 / M) of the potential, 0.3 sqrt((0.5 + 0.4) / M) of the rest.
    free = eqx.filter_jit(FreeEnergy(energy))
    assert abs(float(free(Particles(x))) - exact) < 4 * 0.02
    # Padding has no part in it.
    wide = Particles(jnp.concatenate([x[:50], x[:3]]), jnp.append(jnp.full(50, 0.02), jnp.zeros(3)))
    np.testing.assert_allclose(free(wide), free(Particles(x[:50])), rtol=1e-12)


def test_free_energy_of_other_masses_and_domains():
    """Of mass M it is int mu log mu = M (estimate + log M); on the circle distances are arcs."""
    x = jnp.arange(200.0)[:, None] / 200
    law, heavy = Particles(x), Particles(x, jnp.full(200, 2 / 200))
    one = float(FreeEnergy(Entropy())(law))
    assert float(FreeEnergy(Entropy())(heavy)) == pytest.approx(2 * (one + np.log(2)), rel=1e-12)
    # On a circle of length L the estimate is that of the line, scaled.
    circle, angle = mf.domains.Sphere(1), 2 * jnp.pi * x[:, 0]
    around = Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))
    line = float(FreeEnergy(Entropy(), domain=mf.domains.Torus(1))(law))
    assert float(FreeEnergy(Entropy(), domain=circle)(around)) == pytest.approx(
        line - np.log(2 * np.pi), rel=1e-9
    )
    # Traced, too few particles with mass are seen in their number alone.
    few = jax.jit(lambda m: FreeEnergy(Entropy())(Particles(x[:5], m)))
    assert np.isnan(few(jnp.array([0.5, 0.3, 0.2, 0.0, 0.0])))
    # Without noise there is nothing to estimate: particles may coincide.
    still = Particles(jnp.ones((2, 1)))
    assert float(FreeEnergy(Potential(lambda z: z[0] ** 2))(still)) == 1.0


@pytest.mark.parametrize("grid", [False, True])
def test_free_energy_of_heights_is_that_of_pairs(grid):
    """As recorded: the energy of (H, theta), with the internal energy of rho on a grid."""
    side = mf.domains.Interval(0.0, 1.0)
    mu = mf.measures.Grid.uniform(side, 8) if grid else Particles(jnp.arange(8.0)[:, None] / 8)
    mu = mu.with_marks(H=jnp.arange(8.0))
    energy = Potential(lambda xi: xi[0] ** 2 + xi[1]) + (0.3 * Entropy() if grid else 0)
    flow = mf.flows.PropagationOfChaos(energy, side)
    assert float(FreeEnergy(energy)(mu, flow)) == pytest.approx(float(flow.value(flow.init(mu))), rel=1e-12)


def test_unequal_masses_are_found_before_a_run():
    flow = mf.flows.Wasserstein(Entropy() + Potential(lambda z: z[0] ** 2), mf.domains.Euclidean(1))
    mu = Particles(jnp.arange(5.0)[:, None], jnp.array([0.4, 0.3, 0.1, 0.1, 0.1]))
    with pytest.raises(ValueError, match="equal masses, and these are unequal"):
        mf.simulate(
            flow, mu, stepper=mf.steppers.EulerMaruyama(0.1), steps=2, key=jax.random.key(0),
            observables={"free": FreeEnergy(flow.energy)},
        )  # fmt: skip


def test_rates_of_curves_with_gaps():
    t = np.linspace(0, 12, 241)
    clean = np.exp(-1.5 * t)
    clean[[50, 60]] = np.inf, np.nan
    assert fit_rate(t, clean, window=(0, 12)).rate == pytest.approx(1.5, abs=1e-10)


def test_fitted_rate_lies_between_transient_and_floor():
    t = np.linspace(0, 12, 241)
    clean = np.exp(-1.5 * t)
    assert fit_rate(t, clean).rate == pytest.approx(1.5, abs=1e-10)
    bent = clean + 2 * np.exp(-10 * t) + 1e-6
    fit = fit_rate(t, bent, floor=1e-6)
    assert fit.rate == pytest.approx(1.5, abs=0.01) and fit.window[0] > 0.3 and fit.window[1] < 7
    assert abs(fit_rate(t, bent, window=(0, 12)).rate - 1.5) > 0.1
    noisy = clean * np.exp(0.05 * np.random.default_rng(0).normal(size=t.size))
    fit = fit_rate(t, noisy, window=(0, 6))
    assert abs(fit.rate - 1.5) < 4 * fit.error and 0.001 < fit.error < 0.01


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit_rate([0, 1, 2], [1, 2]), "one length"),
        (lambda: fit_rate([], []), "needs 3 positive values"),
        (lambda: FreeEnergy(Entropy())(Particles([[0.0], [1.0], [2.0]])), "more particles than 3"),
        (lambda: fit_rate([0, 1, 2], [1.0, 1.0, 1.0]), "save more often, run longer"),
        (lambda: fit_rate([1, 1, 1], [1.0, 1.0, 1.0], window=(0, 2)), "all 3 values"),
        (lambda: FreeEnergy(3.0), "must be an Energy"),
        (lambda: FreeEnergy(Entropy(), 0), "neighbors must be at least 1"),
        (lambda: FreeEnergy(Entropy())(Particles([[0.0], [1.0], [2.0]], [0.5, 0.3, 0.2])), "unequal"),
        (lambda: StochasticHeun(0.0), "dt must be greater than 0"),
        (
            lambda: StochasticHeun(0.1).validate(FLOW, mf.measures.Grid.uniform(mf.domains.Torus(1), 8)),
            "moves",
        ),
        (lambda: mf.losses.Huber(0.0), "delta must be greater than 0"),
        (lambda: mf.losses.ConvexLoss(3.0), "function of prediction and target"),
        (lambda: mf.losses.ConvexLoss(lambda f, y: jnp.stack([f, y])), "one number"),
        (lambda: Risk(Function(jnp.dot), [[1.0]], [0.5], loss=mf.losses.Logistic()), "labels .* are -1 and"),
        (lambda: Risk(Function(jnp.dot), [[1.0]], [0.5], loss=mf.losses.Logistic), "call Logistic"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
