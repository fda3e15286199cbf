"""Runs whose steps see batches of data: stochastic gradient descent, epochs, one-pass learning."""

import itertools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax._engine.simulation import data_key
from mfjax.energies import Batches, Data, Entropy, GaussianBatches, ReducedRisk, Risk, Stream
from mfjax.features import Ridge, Weighted
from mfjax.measures import Grid, Particles
from mfjax.steppers import RK4, Euler, EulerMaruyama, Heun, Optax

CIRCLE, PLANE = mf.domains.Sphere(1), mf.domains.Euclidean(3)
TANH = Ridge(jnp.tanh)
X = jr.normal(jr.key(0), (13, 2))
Y = jnp.sin(X @ jnp.array([1.0, 0.5])) + 0.2
NEURONS = Particles(jr.normal(jr.key(1), (6, 3)))
KEY = jr.key(5)
HOW = {"epochs": Batches(4), "replacement": Batches(4, replace=True), "one": Batches(1), "all": Batches(13)}


def risk(batches=None, lam=0.01, **options):
    return Risk(Weighted(TANH), X, Y, lam, batches=batches, **options)


def reduced(batches=None, lam=0.1):
    return ReducedRisk(TANH, X, Y, lam, batches=batches)


def start():
    return Particles.sample(CIRCLE, jr.key(2), 6)


def descend(batches, steps=12, **options):
    flow = mf.flows.Wasserstein(risk(batches), PLANE)
    given = {"measure": NEURONS, "stepper": Euler(0.1), "key": KEY} | options
    return mf.simulate(flow, given.pop("measure"), steps=steps, **given)


def seen(batches, step):
    """The rows of one step of a run."""
    return np.asarray(batches.rows(13, data_key(KEY), jnp.asarray(step)))


@pytest.mark.core
@pytest.mark.slow_cases("all", "one", "replacement")
@pytest.mark.parametrize("how", HOW)
def test_stochastic_gradient_descent_is_twenty_lines_of_numpy(how):
    run, points = descend(HOW[how], save_every=3), np.asarray(NEURONS.points)
    x, y = np.asarray(X), np.asarray(Y)
    for step in range(12):
        rows = seen(HOW[how], step)
        w, omega = points[:, :1], points[:, 1:]
        phi = np.tanh(x[rows] @ omega.T)
        error = phi @ w[:, 0] / 6 - y[rows]
        by_weight = error @ phi / len(rows)
        by_omega = (error[:, None] * (1 - phi**2) * w[:, 0]).T @ x[rows] / len(rows)
        points = points - 0.1 * (np.column_stack([by_weight, by_omega]) + 0.01 * points)
    np.testing.assert_allclose(run.final.points, points, rtol=1e-13, atol=1e-14)
    # What is recorded is the energy of all data, its dissipation, and no balance.
    whole = mf.flows.Wasserstein(risk(), PLANE)
    now = whole.evaluate(whole.init(run.final))
    np.testing.assert_allclose(run.observables["energy"][-1], now.energy, rtol=1e-13)
    np.testing.assert_allclose(run.observables["dissipation"][-1], now.dissipation, rtol=1e-13)
    assert np.all(np.isnan(run.observables["dissipated"]))


@pytest.mark.slow
def test_the_batch_of_all_data_is_the_flow():
    """To rounding: the rows come in another order."""
    flow = mf.flows.Wasserstein(risk(), PLANE)
    plain = mf.simulate(flow, NEURONS, stepper=Euler(0.1), steps=12)
    np.testing.assert_allclose(descend(HOW["all"]).final.points, plain.final.points, rtol=1e-12)


@pytest.mark.slow_cases("1", "4", "13")
@pytest.mark.parametrize("size", [1, 4, 5, 13])
def test_epochs_see_each_datum_once(size):
    """Whatever divides what; each pass in an order of its own; steps far beyond 32 bits of rows."""
    batches = Batches(size)
    rows = np.concatenate([seen(batches, step) for step in range(39)])
    passes = rows[: len(rows) // 13 * 13].reshape(-1, 13)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(13), (len(passes), 1)))
    assert len({tuple(order) for order in passes}) == len(passes)
    late = 13 * (2**31 // 13 - 1)
    many = np.concatenate([seen(batches, late + k) for k in range(13)])
    counts = np.bincount(many, minlength=13)
    assert counts.min() == counts.max() == size


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 13, 16])
def test_orders_of_epochs_are_uniform(n):
    """Which datum is at each place, and at each pair of neighboring places: 20,000 epochs, fixed key.

    Chi-squares of f degrees of freedom within 4 standard deviations, sqrt(2 f), of f.
    """
    batches, epochs = Batches(n), 20_000
    orders = np.asarray(jax.jit(jax.vmap(lambda k: batches.rows(n, KEY, k)))(jnp.arange(epochs)))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(n), (epochs, 1)))
    for place in range(n):
        counts = np.bincount(orders[:, place], minlength=n)
        chi = np.sum((counts - epochs / n) ** 2) * n / epochs
        assert abs(chi - (n - 1)) < 4 * np.sqrt(2 * (n - 1)) + 1, (place, counts)
    for place in range(n - 1):
        pairs = np.bincount(orders[:, place] * n + orders[:, place + 1], minlength=n * n)
        expected, freedom = epochs / (n * (n - 1)), n * (n - 1) - 1
        chi = np.sum((pairs[pairs > 0] - expected) ** 2) / expected
        assert np.count_nonzero(pairs) == n * (n - 1)
        assert abs(chi - freedom) < 4 * np.sqrt(2 * freedom) + 1, (place, chi, freedom)


LOSSES = {
    "square": (mf.losses.Square(), Y),
    "huber": (mf.losses.Huber(0.1), Y),
    "logistic": (mf.losses.Logistic(), jnp.sign(Y)),
    "softmax": (mf.losses.Softmax(), jnp.arange(13) % 3),
    "function": (mf.losses.ConvexLoss(lambda f, y: jnp.cosh(f - y)), Y),
}


@pytest.mark.slow_cases(
    "square-epochs",
    "softmax-epochs",
    *(f"{n}-{h}" for n in ("huber", "logistic", "function") for h in ("epochs", "replacement")),
)
@pytest.mark.parametrize("replace", [False, True], ids=["epochs", "replacement"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_batch_is_that_of_all_data_in_the_mean(name, replace):
    """With unequal masses of data, over 10^4 draws: each entry within 4 standard errors. Fixed key."""
    loss, y = LOSSES[name]
    outputs = 3 if name == "softmax" else None
    masses = jnp.linspace(0.5, 1.5, 13) / 13
    mu = Particles(jr.normal(jr.key(3), (4, 2 + (outputs or 1))))
    batches = Batches(4, replace=replace)
    energy = Risk(Weighted(TANH, outputs=outputs), X, y, 0.1, loss, data_weights=masses, batches=batches)
    gradient = lambda energy: energy.gradient_field(mu)
    draws = jax.jit(jax.vmap(lambda k: gradient(energy.draw(jr.key(7), k))))(jnp.arange(10_000))
    draws = np.asarray(draws).reshape(10_000, -1)
    exact = np.asarray(gradient(energy)).ravel()
    if not replace:
        # 13 batches of 4 are four epochs, whose mean is exact: the scatter of all draws says nothing of it.
        draws = draws[: 10_000 // 13 * 13].reshape(-1, 13, exact.size)
        np.testing.assert_allclose(draws.mean(axis=(0, 1)), exact, rtol=1e-11, atol=1e-13)
        draws = draws[:, 0]
    z = (draws.mean(axis=0) - exact) / (draws.std(axis=0, ddof=1) / np.sqrt(len(draws)))
    assert np.max(np.abs(z)) < 4, z


# Coarser than the data, so that batches disturb, and epochs end where the comparison does.
EPS, RUNS = np.array([1 / 13, 1 / 26, 1 / 52]), 8192


def linear_noise(batches, independent, n):
    """What noise adds to descent on all data to first order, mean of `RUNS` runs of n steps: zero in law."""
    whole = mf.flows.Wasserstein(risk(), PLANE)
    path = mf.simulate(whole, NEURONS, stepper=Euler(1 / n), steps=n, save_every=1).measures.points

    def velocity(z, rows=None):
        x, y = (X, Y) if rows is None else (X[rows], Y[rows])
        flow = mf.flows.Wasserstein(Risk(Weighted(TANH), x, y, 0.01), PLANE)
        return flow.rate(flow.init(Particles(z.reshape(6, 3)))).points.ravel()

    at = lambda z: jax.vmap(lambda j: velocity(z, j[None]))(jnp.arange(13))
    parts, slopes = (jax.jit(jax.vmap(f))(path.reshape(n + 1, -1)) for f in (at, jax.jacfwd(velocity)))
    # Indices in the place of inputs: the mass that each datum has in a step.
    data, particles = Data(jnp.arange(13.0)[:, None], jnp.zeros(13)), jnp.arange(6)

    def masses(seed, k, i):
        key = data_key(jr.key(seed))
        drawn = batches.draw(data, jr.fold_in(key, i) if independent else key, k)
        return jnp.zeros(13).at[drawn.x[:, 0].astype(int)].add(drawn.weights)

    @jax.jit
    def noise(k):
        each = jax.vmap(jax.vmap(lambda seed, i: masses(seed, k, i), (None, 0)), (0, None))
        apart = (parts[k] - jnp.mean(parts[k], axis=0)).reshape(13, 6, 3)
        return jnp.einsum("rij,jix->rix", each(jnp.arange(RUNS), particles), apart).reshape(RUNS, 18)

    z = np.zeros((RUNS, 18))
    for k in range(n):
        z = z + (z @ np.asarray(slopes[k]).T + np.asarray(noise(k))) / n
    return z.mean(axis=0).reshape(6, 3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["one", "epochs", "replacement", "gaussian", "independent"])
def test_the_expansion_is_the_error_of_the_mean_to_first_order_in_the_step(how):
    """E x_k - x(t) at t = 1, where x(t) is the flow of the same particles, over 8192 runs, fixed key.

    Its slope in eps, the mean against `BatchExpansion` within 10 %, and with replacement the covariance.
    What the noise adds to first order is subtracted: its mean is zero. The Gaussian noise of all and batches
    with replacement have one expansion: they agree in law to first order.
    """
    batches, independent = {
        "one": (Batches(1), False),
        "epochs": (Batches(4), False),
        "replacement": (Batches(1, replace=True), False),
        "gaussian": (GaussianBatches(1), False),
        "independent": (Batches(1, replace=True), True),
    }[how]
    noisy = mf.flows.Wasserstein(risk(batches, independent=independent), PLANE)
    expected = mf.simulate(mf.flows.BatchExpansion(noisy), NEURONS, stepper=RK4(2**-5), steps=32).final
    exact, first = np.asarray(expected.points), np.asarray(expected.marks["mean"])

    def end(n, seed):
        run = mf.simulate(noisy, NEURONS, stepper=Euler(1 / n), steps=n, key=jr.key(seed))
        return run.final.points

    errors, spreads = [], []
    for eps in EPS:
        n = round(1 / eps)
        ends = np.asarray(jax.jit(jax.vmap(lambda seed, n=n: end(n, seed)))(jnp.arange(RUNS)))
        errors.append(ends.mean(axis=0) - exact - linear_noise(batches, independent, n))
        spreads.append(np.cov(ends.reshape(RUNS, -1).T))
    sizes = [np.linalg.norm(error) for error in errors]
    slope = np.polyfit(np.log(EPS), np.log(sizes), 1)[0]
    # Without what is of second order.
    found = 2 * errors[2] / EPS[2] - errors[1] / EPS[1]
    gap = np.linalg.norm(found - first) / np.linalg.norm(first)
    print(f"{how}: error of the mean {sizes}, slope {slope:.2f} in eps; expansion off by {gap:.3f}")
    np.testing.assert_allclose(slope, 1, atol=0.1)
    assert gap < 0.1
    covariance = np.asarray(expected.marks["covariance"]).reshape(spreads[0].shape)
    if how not in ("one", "epochs"):
        apart = np.linalg.norm(spreads[2] / EPS[2] - covariance) / np.linalg.norm(covariance)
        print(f"covariance off by {apart:.3f}")
        assert apart < 0.1
    else:
        assert np.all(covariance == 0)


def mean_of_all_orders(x, y, lam, size, start, time, periods):
    """E z of a linear model at `time` over all orders of all epochs, exactly, and the step."""
    n, orders = len(x), np.array(list(itertools.permutations(range(len(x)))))
    # Batches of a period, after which one ends with an epoch: their places in the orders that they see.
    steps = n // math.gcd(n, size)
    eps = time / (periods * steps)
    slopes, shifts = x[orders] ** 2 / size, (x * y)[orders] / size

    def period():
        """E of slope and shift of the affine map of a period, which is independent of the others.

        By the order of the moment, each with its share of the runs.
        """
        share = np.full(len(orders), 1 / len(orders))
        slope, shift = share, 0 * share
        for first in range(0, steps * size, size):
            at, end = first % n, first % n + size
            h, g = slopes[:, at:end].sum(axis=1)[:, None], shifts[:, at:end].sum(axis=1)[:, None]
            if end > n:
                # What is left of one order, and the beginning of the next, which is any.
                h, g = h + slopes[:, : end - n].sum(axis=1), g + shifts[:, : end - n].sum(axis=1)
            factor = 1 - eps * (h + lam)
            slope, shift = slope[:, None] * factor, shift[:, None] * factor + eps * g * share[:, None]
            if end < n:
                slope, shift = slope[:, 0], shift[:, 0]
            else:
                slope, shift = (np.mean(part, axis=0) * np.ones(len(orders)) for part in (slope, shift))
        return slope.sum(), shift.sum()

    slope, shift = period()
    z = start
    for _ in range(periods):
        z = slope * z + shift
    return z, eps


@pytest.mark.slow
@pytest.mark.parametrize(("n", "size"), [(4, 2), (4, 3), (5, 4), (5, 3)])
def test_the_expansion_in_epochs_is_that_of_all_orders(n, size):
    """Exactly, where batches end with the epoch and where some take from two of them."""
    x, y = np.array([1.0, -0.5, 2.0, 0.3, -1.2])[:n], np.array([1.0, 0.0, -1.0, 2.0, 0.5])[:n]
    linear = mf.features.Function(lambda w, x: w @ x)
    energy = Risk(linear, x[:, None], y, 0.1, batches=Batches(size))
    flow = mf.flows.BatchExpansion(mf.flows.Wasserstein(energy, mf.domains.Euclidean(1)))
    end = mf.simulate(flow, Particles(jnp.array([[0.7]])), stepper=RK4(0.01), steps=200).final
    found = []
    for periods in (64, 128):
        mean, eps = mean_of_all_orders(x, y, 0.1, size, 0.7, 2.0, periods)
        found.append((mean - float(end.points[0, 0])) / eps)
    expected = float(end.marks["mean"][0, 0])
    print(f"N = {n}, B = {size}: {2 * found[1] - found[0]:.6f}, by the expansion {expected:.6f}")
    np.testing.assert_allclose(2 * found[1] - found[0], expected, rtol=2e-3, atol=1e-4)


def test_rows_of_a_step_in_32_bits():
    """Every datum once in an epoch, where the number of the datum in the run is beyond them."""
    n, size = 1_000_000, 4096
    rows = jax.jit(lambda step: Batches(size).rows(n, KEY, step))
    # The epoch 2147 begins within the step of this number.
    first = 2147 * n // size
    places = np.concatenate([np.asarray(rows(first + k)) for k in range(n // size + 2)])
    begin = 2147 * n - first * size
    assert len(np.unique(places[begin : begin + n])) == n


@pytest.mark.slow
def test_the_expansion_of_all_data_is_the_error_of_euler_steps():
    flow = mf.flows.Wasserstein(risk(HOW["all"]), PLANE)
    expected = mf.simulate(mf.flows.BatchExpansion(flow), NEURONS, stepper=RK4(1 / 16), steps=16).final
    ends = [
        mf.simulate(flow, NEURONS, stepper=Euler(1 / n), steps=n, key=KEY).final.points for n in (64, 128)
    ]
    # Errors e eps + f eps^2 at 1/64 and 1/128.
    errors = [np.asarray(points - expected.points) for points in ends]
    np.testing.assert_allclose(
        4 * 64 * errors[1] - 64 * errors[0], expected.marks["mean"], rtol=0.01, atol=1e-4
    )


@pytest.mark.slow
def test_particles_with_steps_like_one_over_their_number_converge_to_the_density():
    """Squared distance to the density of all data, one datum a step: slope -1 in N, 128 runs each."""
    loop, t1 = mf.domains.Torus(1), 0.5
    bump = mf.features.Function(lambda omega, x: jnp.exp(jnp.cos(2 * jnp.pi * (omega[0] - x[0]))))
    x = jr.uniform(jr.key(3), (64, 1))
    y = 1.2 + jnp.cos(2 * jnp.pi * (x[:, 0] - 0.3)) + 0.4 * jnp.sin(4 * jnp.pi * x[:, 0])
    flow = lambda batches: mf.flows.Wasserstein(Risk(bump, x, y, batches=batches), loop)
    begin = Grid.from_density(loop, 128, lambda x: 1 + 0.8 * jnp.cos(2 * jnp.pi * x[0]))
    density = mf.simulate(flow(None), begin, stepper=RK4(t1 / 256), steps=256).final
    distance = mf.observables.EnergyDistance(density, loop)
    place = jnp.linspace(0, 1, 4097)
    mass = place + 0.8 * jnp.sin(2 * jnp.pi * place) / (2 * jnp.pi)

    def squared(width, seed):
        for_start, key = jr.split(jr.key(seed))
        mu = Particles(jnp.interp(jr.uniform(for_start, (width,)), mass, place)[:, None])
        stepper = Euler(t1 / width)
        run = mf.simulate(flow(Batches(1, replace=True)), mu, stepper=stepper, steps=width, key=key)
        return distance(run.final)

    widths = np.array([32, 128, 512])
    ends = lambda n: jax.jit(jax.vmap(lambda seed: squared(n, seed)))(jnp.arange(128))
    means = [float(jnp.mean(ends(int(n)))) for n in widths]
    slope = np.polyfit(np.log(widths), np.log(means), 1)[0]
    print(f"squared distance to the density {means}, slope {slope:.2f} in N")
    np.testing.assert_allclose(slope, -1, atol=0.15)


@pytest.mark.core
@pytest.mark.slow_cases("replacement")
@pytest.mark.parametrize("how", ["epochs", "replacement"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(how):
    whole, half = descend(HOW[how]), descend(HOW[how], steps=7)
    rest = descend(HOW[how], steps=5, start=half, measure=None)
    np.testing.assert_array_equal(rest.final.points, whole.final.points)


@pytest.mark.slow
def test_a_stopped_run_on_disk_goes_on_in_the_middle_of_an_epoch(tmp_path):
    whole = descend(Batches(4), save_every=1)
    first = descend(Batches(4), steps=5, save_every=1, path=tmp_path / "run")
    rest = descend(Batches(4), steps=12, save_every=1, path=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(rest.final.points, whole.final.points)
    assert not np.array_equal(first.final.points, whole.final.points)


@pytest.mark.slow_cases("loop", "map")
@pytest.mark.parametrize("method", ["loop", "map", "vmap"])
def test_cells_of_a_sweep_see_the_batches_of_their_solo_runs(method):
    flow = lambda lam: mf.flows.Wasserstein(reduced(Batches(5), lam), CIRCLE)
    settings = lambda seed: {"stepper": Euler(0.1), "steps": 4, "key": jr.key(seed)}
    cell = lambda lam, seed: mf.Simulation(flow(lam), start(), **settings(seed))
    table = mf.sweep(cell, method=method, lam=[0.1, 0.2], seed=[0, 1])
    for i, lam in enumerate((0.1, 0.2)):
        for seed in (0, 1):
            run = mf.simulate(flow(lam), start(), **settings(seed))
            np.testing.assert_allclose(table["energy"][i, seed], run.observables["energy"], rtol=1e-12)
    assert len(np.unique(np.asarray(table["energy"])[..., -1])) == 4


def test_the_solver_is_that_of_batches():
    """Few rows are factorized, where all data would take iterations; each step evaluates one batch."""
    x = jr.normal(jr.key(0), (512, 2))
    energy = lambda batches: ReducedRisk(TANH, x, x[:, 0], 0.1, batches=batches)
    mu = Particles.sample(CIRCLE, jr.key(2), 256)
    assert isinstance(energy(None).solver(mu), mf.outer.ConjugateGradient)
    assert isinstance(energy(Batches(16)).solver(mu), mf.outer.Cholesky)
    assert descend(Batches(4), steps=3).observables["evaluations"].tolist() == [1, 2, 3, 4]


def test_variable_projection_of_a_batch_is_that_of_its_rows():
    points = np.asarray(start().points)
    run = mf.simulate(
        mf.flows.Wasserstein(reduced(Batches(5)), CIRCLE), start(), stepper=Euler(0.1), steps=3, key=KEY
    )
    for step in range(3):
        rows = seen(Batches(5), step)
        alone = mf.flows.Wasserstein(ReducedRisk(TANH, X[rows], Y[rows], 0.1), CIRCLE)
        points = mf.simulate(alone, Particles(points), stepper=Euler(0.1), steps=1).final.points
    np.testing.assert_allclose(run.final.points, points, rtol=1e-11)


FLOWS = {
    "projection": lambda e: mf.flows.Wasserstein(e, CIRCLE),
    "two timescales": lambda e: mf.flows.TwoTimescale(e, CIRCLE, rate=2.0),
    "noise": lambda e: mf.flows.Wasserstein(e + 0.1 * Entropy(), CIRCLE),
    "two terms": lambda e: mf.flows.Wasserstein(e + 0.5 * reduced(Batches(3)), CIRCLE),
    "growth": lambda e: mf.flows.WassersteinFisherRao(e, CIRCLE, 1.0, 0.1),
    "schedule": lambda e: mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * e, CIRCLE)),
}


@pytest.mark.slow_cases("growth", "noise", "two terms", "schedule", "two timescales")
@pytest.mark.parametrize("name", FLOWS)
def test_every_flow_takes_batches(name):
    """From the energy of all data on, near their flow and apart from it."""
    flow, plain = FLOWS[name](reduced(Batches(9))), FLOWS[name](reduced())
    stepper = EulerMaruyama(0.05) if flow.stochastic else Heun(0.05)
    run = mf.simulate(flow, start(), stepper=stepper, steps=8, key=KEY)
    other = mf.simulate(plain, start(), stepper=stepper, steps=8, key=KEY)
    assert int(run.status) == 0 and flow.random
    np.testing.assert_allclose(run.observables["energy"][0], other.observables["energy"][0], rtol=1e-12)
    gap = np.max(np.abs(run.final.points - other.final.points))
    assert 1e-4 < gap < 0.5


def test_a_density_is_moved_by_batches():
    flow = mf.flows.Wasserstein(reduced(Batches(5)), CIRCLE)
    run = mf.simulate(flow, Grid.uniform(CIRCLE, 16), stepper=Euler(0.01), steps=5, key=KEY)
    np.testing.assert_allclose(run.observables["mass"], 1, rtol=1e-13)
    assert int(run.status) == 0


@pytest.mark.slow
def test_fresh_data_at_every_step():
    law = lambda key: (jr.normal(key, (8, 2)), jnp.ones(8))
    run, points = descend(Stream(law), steps=3), np.asarray(NEURONS.points)
    for step in range(3):
        x, y = law(jr.fold_in(data_key(KEY), step))
        alone = mf.flows.Wasserstein(Risk(Weighted(TANH), x, y, 0.01), PLANE)
        points = mf.simulate(alone, Particles(points), stepper=Euler(0.1), steps=1).final.points
    np.testing.assert_allclose(run.final.points, points, rtol=1e-12)


@pytest.mark.slow
def test_optimizers_take_batches():
    """Adam on the gradients of batches, beside optax alone."""
    adam = optax.adam(0.05)
    run = descend(Batches(4), steps=5, stepper=Optax(adam, 1.0))
    points, memory = NEURONS.points, adam.init(NEURONS.points)
    for step in range(5):
        rows = seen(Batches(4), step)
        energy = Risk(Weighted(TANH), X[rows], Y[rows], 0.01)
        updates, memory = adam.update(energy.gradient_field(Particles(points)), memory)
        points = points + updates
    np.testing.assert_allclose(run.final.points, points, rtol=1e-11)


@pytest.mark.slow
def test_single_precision():
    x, y = X.astype("float32"), Y.astype("float32")
    mu = Particles(NEURONS.points.astype("float32"))
    flow = mf.flows.Wasserstein(Risk(Weighted(TANH), x, y, 0.01, batches=Batches(4)), PLANE)
    run = mf.simulate(flow, mu, stepper=Euler(0.1), steps=12, key=KEY)
    assert run.final.points.dtype == run.observables["energy"].dtype == jnp.float32
    np.testing.assert_allclose(run.final.points, descend(Batches(4)).final.points, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_derivatives_of_whole_runs():
    def end(lam):
        flow = mf.flows.Wasserstein(risk(Batches(4), lam), PLANE)
        run = mf.simulate(flow, NEURONS, stepper=Euler(0.1), steps=6, key=KEY)
        return run.observables["energy"][-1]

    difference = (end(0.1 + 1e-6) - end(0.1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(end)(0.1), difference, rtol=1e-7)
