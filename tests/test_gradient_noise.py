"""The noise of batches: one for all particles or one for each, its Gaussian form, and what reduces it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax._engine.simulation import data_key
from mfjax.energies import Batches, Data, Entropy, GaussianBatches, Risk, Stream
from mfjax.features import Function, Ridge, Weighted
from mfjax.flows import Averaged, VarianceReduced, Wasserstein
from mfjax.measures import Particles
from mfjax.observables import AtAverage, HeldOutRisk
from mfjax.steppers import Euler, EulerMaruyama, Heun, Optax
from mfjax.testing import check_traces

SPACE = mf.domains.Euclidean(3)
NEURON = Weighted(Ridge(jnp.tanh))
X = jr.normal(jr.key(0), (13, 2))
Y = jnp.sin(X @ jnp.array([1.0, 0.5])) + 0.2
MASSES = jnp.linspace(0.5, 1.5, 13) / 13
NEURONS = Particles(jr.normal(jr.key(1), (6, 3)))
KEY = jr.key(5)


def law(key):
    return jr.normal(key, (4, 2)), jnp.ones(4)


KINDS = {
    "epochs": Batches(4),
    "replacement": Batches(4, replace=True),
    "gaussian": GaussianBatches(4),
    "stream": Stream(law),
}


def risk(batches=None, lam=0.01, **options):
    return Risk(NEURON, X, Y, lam, batches=batches, **options)


def descend(batches, steps=12, **options):
    flow = Wasserstein(risk(batches, independent=options.pop("independent", True)), SPACE)
    given = {"measure": NEURONS, "stepper": Euler(0.1), "key": KEY} | options
    return mf.simulate(flow, given.pop("measure"), steps=steps, **given)


# Noise of each particle, and of all


@pytest.mark.core
@pytest.mark.slow_cases(
    *(f"all-{kind}" for kind in KINDS), "independent-epochs", "independent-replacement", "independent-stream"
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("independent", [False, True], ids=["all", "independent"])
def test_descent_by_numpy(kind, independent):
    """Each particle sees its own data; the network is that of all particles."""
    batches = KINDS[kind]
    run, points = descend(batches, independent=independent), np.asarray(NEURONS.points)
    data = Data(X, Y)
    for step in range(12):
        w, omega, gradient = points[:, 0], points[:, 1:], np.zeros_like(points)
        for i in range(6):
            key = data_key(KEY)
            seen = batches.draw(data, jr.fold_in(key, i) if independent else key, jnp.asarray(step))
            x, y, q = (np.asarray(a) for a in (seen.x, seen.y, seen.weights))
            error = q * (np.tanh(x @ omega.T) @ w / 6 - y)
            phi = np.tanh(x @ omega[i])
            gradient[i, 0] = error @ phi
            gradient[i, 1:] = (error * (1 - phi**2) * w[i]) @ x
        points = points - 0.1 * (gradient + 0.01 * points)
    np.testing.assert_allclose(run.final.points, points, rtol=1e-13, atol=1e-14)
    assert np.all(np.isfinite(run.observables["energy"])) and np.all(np.isnan(run.observables["dissipated"]))


@pytest.mark.slow_cases("all-replacement", "all-gaussian", "independent-replacement")
@pytest.mark.parametrize("kind", ["replacement", "gaussian"])
@pytest.mark.parametrize("independent", [False, True], ids=["all", "independent"])
def test_mean_and_covariance_of_one_step(kind, independent):
    """Against the matrix, formed here, of unequal data: each entry within 4.5 standard errors. Fixed key.

    Between particles of independent batches it is zero.
    """
    energy = risk(KINDS[kind], 0.1, data_weights=MASSES, independent=independent)
    gradient = lambda energy: energy.gradient_field(NEURONS).ravel()
    draws = jax.jit(jax.vmap(lambda k: gradient(energy.draw(jr.key(7), k))))(jnp.arange(20_000))
    draws = np.asarray(draws)
    single = lambda j: Risk(NEURON, X[j][None], Y[j][None], 0.1, data_weights=MASSES[j][None] * 13)
    # The slopes of the loss are those of the network of all particles, whatever data are seen.
    parts = np.stack([gradient(single(j)) for j in range(13)])
    mean = parts.mean(axis=0)
    np.testing.assert_allclose(mean, gradient(energy), rtol=1e-12)
    covariance = (parts - mean).T @ (parts - mean) / 13 / 4
    if independent:
        particle = np.arange(18) // 3
        covariance = np.where(particle[:, None] == particle, covariance, 0)
    error = lambda samples: samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    assert np.max(np.abs(draws.mean(axis=0) - mean) / error(draws)) < 4.5
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None, :]
    z = np.abs(products.mean(axis=0) - covariance) / error(products)
    print(f"{kind}, independent {independent}: largest z-score of {z.size} covariances {z.max():.2f}")
    assert z.max() < 4.5


LOOP, END = mf.domains.Torus(1), 0.5
BUMP = Function(lambda omega, x: jnp.exp(jnp.cos(2 * jnp.pi * (omega[0] - x[0]))))


def spread(batches, independent, widths, runs):
    """The variances over runs of int cos(2 pi x) dmu at t = 1/2, steps of one size: those of each width."""
    x = jr.uniform(jr.key(3), (16, 1))
    y = 1.2 + jnp.cos(2 * jnp.pi * (x[:, 0] - 0.3)) + 0.4 * jnp.sin(4 * jnp.pi * x[:, 0])
    flow = Wasserstein(Risk(BUMP, x, y, batches=batches, independent=independent), LOOP)

    def end(width, seed):
        # Evenly spread, so that the batches alone are random.
        mu = Particles((jnp.arange(width)[:, None] + 0.5) / width)
        run = mf.simulate(flow, mu, stepper=Euler(1 / 32), steps=16, save_every=16, key=jr.key(seed))
        return run.final.integrate(jnp.cos(2 * jnp.pi * run.final.points[:, 0]))

    ends = [jax.jit(jax.vmap(lambda seed, n=n: end(n, seed)))(jnp.arange(runs)) for n in widths]
    return np.array([np.var(values, ddof=1) for values in ends])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replacement", "gaussian"])
def test_the_limits_of_both_kinds_of_noise(kind):
    """Slopes in the width of the variance over 512 runs, steps of one size: 0 for all, -1 for each."""
    batches = {"replacement": Batches(1, replace=True), "gaussian": GaussianBatches(1)}[kind]
    widths = (16, 64, 256)
    for independent, expected in ((False, 0), (True, -1)):
        variances = spread(batches, independent, widths, 512)
        slope = np.polyfit(np.log(widths), np.log(variances), 1)[0]
        print(f"{kind}, independent {independent}: variances {variances}, slope {slope:.2f} in the width")
        np.testing.assert_allclose(slope, expected, atol=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_independent_noise_goes_on(kind):
    whole, half = descend(KINDS[kind]), descend(KINDS[kind], steps=7)
    rest = descend(KINDS[kind], steps=5, start=half, measure=None)
    np.testing.assert_array_equal(rest.final.points, whole.final.points)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_independent_noise_follows_from_key_step_and_particle(kind):
    """Cells of a sweep, and particles beside padding, see the same."""
    whole = descend(KINDS[kind])
    filled = jnp.concatenate([NEURONS.points, jnp.ones((3, 3))])
    padded = descend(KINDS[kind], measure=Particles(filled, mf.measures.padded_weights(6, 9)))
    np.testing.assert_allclose(padded.final.points[:6], whole.final.points, rtol=1e-12)
    cell = lambda lam: mf.Simulation(
        Wasserstein(risk(KINDS[kind], lam, independent=True), SPACE),
        NEURONS,
        stepper=Euler(0.1),
        steps=12,
        key=KEY,
    )
    table = mf.sweep(cell, lam=[0.01, 0.1])
    np.testing.assert_allclose(table["energy"][0], whole.observables["energy"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["growth", "noise", "sum", "outputs"])
def test_flows_take_independent_batches(name):
    """Near the flow of all data, and apart from it."""
    mu, domain = NEURONS, SPACE
    if name == "outputs":
        energy = lambda **options: Risk(
            Weighted(Ridge(jnp.tanh), outputs=2), X, jnp.arange(13) % 2, 0.01, mf.losses.Softmax(), **options
        )
        mu, domain = Particles(jr.normal(jr.key(2), (6, 4))), mf.domains.Euclidean(4)
    else:
        energy = lambda **options: risk(options.pop("batches", None), **options)
    make = {
        "growth": lambda e: mf.flows.WassersteinFisherRao(e, domain, 1.0, 0.1),
        "noise": lambda e: Wasserstein(e + 0.01 * Entropy(), domain),
        "sum": lambda e: Wasserstein(0.5 * e + 0.5 * risk(Batches(5) if e.random else None), domain),
        "outputs": lambda e: Wasserstein(e, domain),
    }[name]
    stepper = EulerMaruyama(0.02) if name == "noise" else Heun(0.02)
    options = {"stepper": stepper, "steps": 8, "key": KEY}
    run = mf.simulate(make(energy(batches=Batches(9), independent=True)), mu, **options)
    plain = mf.simulate(make(energy()), mu, **options)
    assert int(run.status) == 0
    np.testing.assert_allclose(run.observables["energy"][0], plain.observables["energy"][0], rtol=1e-12)
    assert 1e-4 < np.max(np.abs(run.final.points - plain.final.points)) < 0.3


@pytest.mark.slow
def test_single_precision_of_independent_batches():
    x, y = X.astype("float32"), Y.astype("float32")
    mu = Particles(NEURONS.points.astype("float32"))
    flow = Wasserstein(Risk(NEURON, x, y, 0.01, batches=Batches(4), independent=True), SPACE)
    run = mf.simulate(flow, mu, stepper=Euler(0.1), steps=12, key=KEY)
    assert run.final.points.dtype == run.observables["energy"].dtype == jnp.float32
    np.testing.assert_allclose(run.final.points, descend(Batches(4)).final.points, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_derivatives_of_runs_of_noise():
    """In lam and in the size of the batches, at a fixed key, against differences."""

    def end(lam, size):
        flow = Wasserstein(risk(GaussianBatches(size), lam, independent=True), SPACE)
        run = mf.simulate(flow, NEURONS, stepper=Euler(0.1), steps=6, key=KEY)
        return run.observables["energy"][-1]

    gradient = jax.grad(end, (0, 1))(0.1, 4.0)
    h = 1e-6
    differences = (
        (end(0.1 + h, 4.0) - end(0.1 - h, 4.0)) / (2 * h),
        (end(0.1, 4.0 + h) - end(0.1, 4.0 - h)) / (2 * h),
    )
    np.testing.assert_allclose(gradient, differences, rtol=1e-6)


# Variance reduction


PLANE = mf.domains.Euclidean(2)
LINEAR = Function(lambda w, x: w @ x)
ONE = Particles(jnp.array([[3.0, -2.0]]))


def least_squares(batches=None, **options):
    return Risk(LINEAR, X, Y + 0.5 * jnp.cos(7 * X[:, 0]), 0.1, batches=batches, **options)


def exact_minimizer():
    x, y = np.asarray(X), np.asarray(least_squares().data.y)
    return np.linalg.solve(x.T @ x / 13 + 0.1 * np.eye(2), x.T @ y / 13)


def reduced(every=5, batches=KINDS["replacement"], **options):
    return VarianceReduced(Wasserstein(least_squares(batches, **options), PLANE), every)


@pytest.mark.core
def test_variance_reduced_descent_by_numpy():
    run = mf.simulate(reduced(), ONE, stepper=Euler(0.2), steps=17, key=KEY)
    x, y = np.asarray(X), np.asarray(least_squares().data.y)

    def gradient(w, rows):
        return (x[rows] @ w - y[rows]) @ x[rows] / len(rows) + 0.1 * w

    w = np.asarray(ONE.points)[0]
    for step in range(17):
        if step % 5 == 0:
            snapshot, whole = w, gradient(w, np.arange(13))
        rows = np.asarray(KINDS["replacement"].rows(13, data_key(KEY), jnp.asarray(step)))
        w = w - 0.2 * (gradient(w, rows) - gradient(snapshot, rows) + whole)
    np.testing.assert_allclose(run.final.points[0], w, rtol=1e-12)
    np.testing.assert_allclose(run.final.marks["snapshot"][0], snapshot, rtol=1e-12)
    np.testing.assert_allclose(run.final.marks["snapshot_rate"][0], -whole, rtol=1e-12)


def test_variance_reduced_rates_are_unbiased_and_lose_their_noise_at_the_snapshot():
    flow = reduced(batches=Batches(2, replace=True))
    state, plain = flow.init(ONE), Wasserstein(least_squares(), PLANE)
    deviations = []
    for distance in (1.0, 0.1):
        moved = state.with_measure(
            state.measure.move(PLANE, mf.measures.Tangent(points=ONE.points), distance)
        )
        rate = jax.vmap(lambda k, s=moved: flow.draw(jr.key(2), k).rate(s).points)
        rates = np.asarray(jax.jit(rate)(jnp.arange(10_000)))[:, 0]
        z = (rates.mean(axis=0) - plain.rate(moved).points[0]) / (rates.std(axis=0, ddof=1) / 100)
        assert np.max(np.abs(z)) < 4
        deviations.append(rates.std(axis=0))
    np.testing.assert_allclose(deviations[0], 10 * deviations[1], rtol=1e-10)


@pytest.mark.slow
def test_variance_reduced_descent_converges_where_plain_batches_end_in_noise():
    """Steps of one size on a strongly convex risk: linear convergence to rounding."""
    options = {"stepper": Euler(0.1), "steps": 400, "save_every": 100, "key": KEY}
    run = mf.simulate(reduced(26, Batches(1, replace=True)), ONE, **options)
    plain = mf.simulate(Wasserstein(least_squares(Batches(1, replace=True)), PLANE), ONE, **options)
    errors = [np.linalg.norm(r.measures.points[:, 0] - exact_minimizer(), axis=1) for r in (run, plain)]
    print(f"errors each 100 steps: variance reduced {errors[0]}, plain {errors[1]}")
    assert np.all(errors[0][1:] < 0.02 * errors[0][:-1]) and errors[0][-1] < 1e-7
    assert np.min(errors[1][1:]) > 1e-3


@pytest.mark.slow_cases("adam", "independent", "network", "averaged")
@pytest.mark.parametrize("name", ["euler", "adam", "independent", "network", "averaged"])
def test_variance_reduced_runs_go_on_bit_for_bit(name):
    flow, mu, stepper = reduced(), ONE, Euler(0.1)
    if name == "adam":
        stepper = Optax(optax.adam(0.05), 0.1)
    elif name == "independent":
        flow = reduced(batches=Batches(4), independent=True)
    elif name == "averaged":
        flow = Averaged(flow)
    elif name == "network":
        flow, mu = VarianceReduced(Wasserstein(risk(Batches(4)), SPACE), 5), NEURONS
    go = lambda steps, **options: mf.simulate(flow, stepper=stepper, steps=steps, key=KEY, **options)
    whole, half = go(14, measure=mu), go(7, measure=mu)
    rest = go(7, start=half)
    assert int(whole.status) == 0
    for a, b in zip(jax.tree.leaves(rest.final), jax.tree.leaves(whole.final), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_interval_of_snapshots_is_a_number():
    """One program for all, and each its own numbers."""
    flow = lambda every: VarianceReduced(Wasserstein(least_squares(Batches(1)), PLANE), every)
    end = lambda flow: mf.simulate(flow, ONE, stepper=Euler(0.05), steps=6, key=KEY).final.points
    assert check_traces(end, [(flow(every),) for every in (1, 2, 5)]) == 1
    assert len({tuple(end(flow(every)).ravel().tolist()) for every in (1, 2, 5)}) == 3


@pytest.mark.slow
def test_variance_reduction_on_a_curved_domain():
    """At the snapshot the rate is that of all data; elsewhere it is tangent."""
    circle = mf.domains.Sphere(1)
    energy = mf.energies.ReducedRisk(Ridge(jnp.tanh), X, Y, 0.1, batches=Batches(5))
    flow, mu = VarianceReduced(Wasserstein(energy, circle), 4), Particles.sample(circle, jr.key(2), 6)
    state = flow.init(mu)
    drawn = flow.draw(KEY, jnp.asarray(0))
    np.testing.assert_allclose(drawn.rate(state).points, flow.rate(state).points, atol=1e-12)
    run = mf.simulate(flow, mu, stepper=Euler(0.05), steps=6, key=KEY)
    state = state.with_measure(run.final)
    rate = drawn.rate(state).points
    np.testing.assert_allclose(jnp.sum(rate * run.final.points, axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(jnp.linalg.norm(run.final.points, axis=1), 1, rtol=1e-12)


# Averages along a run, and wrappers


class Plain(mf.flows.WrapperFlow):
    """Another flow and nothing else."""

    flow: mf.flows.Flow


def test_a_wrapper_is_what_it_wraps():
    """It depends on time, and its energy falls, where those of the inner flow do."""
    still = Wasserstein(mf.energies.Potential(lambda x: x @ x), PLANE)
    timed = mf.flows.Scheduled(lambda t: Wasserstein((1 + t) * mf.energies.Potential(lambda x: x @ x), PLANE))
    for flow in (still, timed):
        assert (Plain(flow).timed, Plain(flow).falls) == (flow.timed, flow.falls)
    assert timed.timed and not timed.falls and still.falls


@pytest.mark.core
@pytest.mark.slow_cases("since", "memory", "memory, early", "memory, late")
@pytest.mark.parametrize("how", ["mean", "since", "memory", "memory, early", "memory, late"])
def test_averages_by_numpy(how):
    """Of stochastic gradient descent, with what an observable sees of them."""
    options = {
        "mean": {},
        "since": {"since": 0.45},
        "memory": {"memory": 0.5},
        "memory, early": {"memory": 0.5, "since": 0.42},
        "memory, late": {"memory": 0.5, "since": 0.48},
    }[how]
    flow = Averaged(Wasserstein(risk(KINDS["epochs"]), SPACE), **options)
    held_out = HeldOutRisk(X, Y)
    run = mf.simulate(
        flow, NEURONS, stepper=Euler(0.1), steps=12, key=KEY, observables={"risk": AtAverage(held_out)}
    )
    points = np.asarray(run.measures.points)[1:]
    if how.startswith("memory"):
        # The first point after 0.4 is that at 0.5.
        first = 4 if "since" in options else 0
        m, average = np.exp(-0.1 / 0.5), points[first]
        for x in points[first + 1 :]:
            average = m * average + (1 - m) * x
    else:
        average = points.mean(axis=0)
    if how == "since":
        # Of the step from 0.4 to 0.5 the half that lies after 0.45.
        average = (0.05 * points[4] + 0.1 * points[5:].sum(axis=0)) / 0.75
    np.testing.assert_allclose(run.final.marks["average"], average, rtol=1e-12)
    there = held_out(Particles(average), flow)
    np.testing.assert_allclose(run.observables["risk"][-1], there, rtol=1e-11)


class Apart(Euler):
    """A stepper that moves the clock first, and then the points."""

    def step(self, flow, state, evaluation, dt, key, memory):
        on_time = mf.steppers.with_clock(flow, state, evaluation, dt)
        along = mf.measures.Tangent(points=evaluation.tangent.points)
        return mf.steppers.settle(flow, flow.move(on_time, along, dt))


@pytest.mark.slow_cases("heun", "own")
@pytest.mark.parametrize("name", ["heun", "optax", "own"])
def test_averages_of_other_steppers_and_of_unequal_steps(name):
    """Weighted by the lengths of the steps, 0.1, 0.075 and 0.075, whatever moves points and clock."""
    stepper = {"heun": Heun(0.1), "optax": Optax(optax.sgd(0.1), 0.1), "own": Apart(0.1)}[name]
    flow = Averaged(Wasserstein(mf.energies.Potential(lambda x: jnp.sum(jnp.cosh(x))), PLANE))
    run = mf.simulate(flow, ONE, stepper=stepper, save_at=[0.1, 0.175, 0.25])
    average = np.einsum("s,sij->ij", [0.4, 0.3, 0.3], run.measures.points[1:])
    np.testing.assert_allclose(run.final.marks["average"], average, rtol=1e-12)


class Keeping(Plain):
    """A wrapper that keeps a mark which it has not begun with."""

    def end_step(self, state, dt):
        return state.with_measure(state.measure.with_marks(new=state.measure.weights))


def test_what_a_flow_keeps_begins_in_init():
    flow = Keeping(Wasserstein(mf.energies.Potential(lambda x: x @ x), PLANE))
    with pytest.raises(ValueError, match=r"Keeping\.end_step returned a state of another structure"):
        mf.simulate(flow, ONE, stepper=Euler(0.1), steps=1)


@pytest.mark.slow
def test_averages_in_a_batch_of_adaptive_runs_have_derivatives():
    """Cells that take fewer steps than others wait for them in steps of no length."""

    def end(rate):
        flow = Averaged(Wasserstein(mf.energies.Potential(lambda x: rate * x @ x), PLANE), since=0.5)
        stepper = mf.steppers.Adaptive(1e-8)
        run = mf.simulate(flow, Particles(jnp.ones((1, 2))), stepper=stepper, t1=1.0, max_steps=256)
        return jnp.sum(run.final.marks["average"])

    rates = jnp.array([0.5, 8.0])
    slopes = jax.vmap(jax.grad(end))(rates)
    np.testing.assert_allclose(slopes, [jax.grad(end)(rate) for rate in rates], rtol=1e-9)


@pytest.mark.slow
def test_averages_on_a_circle_take_the_short_way():
    """Turning at one speed, from 0.9 across 1 to 0.2: the average lies half way, not at the mean number."""
    flow = Averaged(Wasserstein(mf.energies.Potential(lambda x: -x[0]), LOOP))
    run = mf.simulate(flow, Particles(jnp.array([[0.9]])), stepper=Euler(0.01), steps=30)
    np.testing.assert_allclose(run.final.marks["average"], 0.055, rtol=1e-10)


@pytest.mark.slow
def test_the_average_of_descent_with_batches_is_nearer_to_the_minimum():
    """Mean squared errors over 64 runs of a linear model: that of a step of one size, and like 1 / t."""
    flow = Averaged(Wasserstein(least_squares(Batches(1, replace=True)), PLANE), since=20.0)
    least = exact_minimizer()
    mu = Particles(least[None])

    def errors(seed):
        run = mf.simulate(
            flow, mu, stepper=Euler(0.1), save_at=jnp.array([40.0, 80.0, 320.0]), key=jr.key(seed)
        )
        square = lambda a: jnp.sum((a[1:, 0] - least) ** 2, axis=-1)
        return square(run.measures.points), square(run.measures.marks["average"])

    last, average = (np.mean(e, axis=0) for e in jax.jit(jax.vmap(errors))(jnp.arange(64)))
    print(f"mean squared errors: last {last}, average {average}")
    assert np.all(average < 0.3 * last)
    # Of 20 and 300 units of time: a fifteenth, off by the 18 % of 64 runs twice.
    np.testing.assert_allclose(average[0] / average[2], 15, rtol=0.6)
