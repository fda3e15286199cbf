"""Networks with several outputs, from declaration to prediction."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax.energies import Entropy, Potential, ReducedRisk, Risk
from mfjax.features import Ridge, Weighted
from mfjax.losses import Logistic, Softmax
from mfjax.measures import Grid, Particles
from mfjax.regularizers import Power, Quadratic
from mfjax.steppers import RK4, Euler, Multirate

CIRCLE = mf.domains.Sphere(1)
TANH = Ridge(jnp.tanh)
X = jr.normal(jr.key(0), (11, 2))
Y = jnp.sin(X @ jr.normal(jr.key(1), (2, 3))) + jnp.array([0.0, 0.5, -0.2])
LABELS = jnp.argmax(Y, axis=1)


def start(width=6):
    return Particles.sample(CIRCLE, jr.key(2), width)


def reduced(lam=0.05, f=None, features=TANH, y=Y, **options):
    return ReducedRisk(features, X, y, lam, Quadratic(1.0) if f is None else f, **options)


@pytest.mark.core
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_variable_projection_is_twenty_lines_of_numpy(center):
    lam, tau, points = 0.05, 0.1, np.asarray(start().points)
    run = mf.simulate(
        mf.flows.Wasserstein(reduced(lam, Quadratic(center)), CIRCLE), start(), stepper=Euler(tau), steps=20
    )
    x, y, (n, m) = np.asarray(X), np.asarray(Y), (len(X), len(points))
    for _ in range(20):
        phi = np.tanh(x @ points.T)
        normal = phi.T @ phi / (n * m) + lam * np.eye(m)
        u = np.linalg.solve(normal, phi.T @ y / n + lam * center)
        error = phi @ u / m - y
        # Minus the gradient of V = sum_c (u_c / lam) (1/N) sum_j phi(omega, x_j) (F_c(x_j) - y_jc).
        pull = (error @ u.T) * (1 - phi**2) / (n * lam)
        gradient = pull.T @ x
        gradient -= np.sum(gradient * points, axis=1, keepdims=True) * points
        points = points - tau * gradient
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(run.final.points, points, rtol=1e-11)


def test_two_timescales_are_gradient_descent_on_the_risk_of_the_network():
    """A step of (III.44), by automatic differentiation of the risk of M neurons over lam."""
    lam, tau, rate, mu = 0.05, 0.01, 3.0, start()
    u = jr.normal(jr.key(3), (6, 3))
    flow = mf.flows.TwoTimescale(reduced(lam), mf.domains.Euclidean(2), rate=rate)
    run = mf.simulate(flow, mu.with_marks(u=u), stepper=Euler(tau), steps=1)

    def risk(points, u):
        network = jnp.tanh(X @ points.T) @ u / 6
        fit = 0.5 * jnp.mean(jnp.sum((network - Y) ** 2, axis=1)) / lam
        return fit + 0.5 * jnp.mean(jnp.sum((u - 1) ** 2, axis=1))

    by_points, by_u = jax.grad(risk, (0, 1))(mu.points, u)
    np.testing.assert_allclose(run.observables["energy"][0], risk(mu.points, u), rtol=1e-13)
    np.testing.assert_allclose(run.final.points, mu.points - tau * 6 * by_points, rtol=1e-12)
    np.testing.assert_allclose(run.final.marks["u"], u - tau * rate * 6 * by_u, rtol=1e-12)


@pytest.mark.slow
def test_fast_outer_weights_are_variable_projection():
    end = lambda flow, dt: mf.simulate(flow, start(), stepper=RK4(dt), steps=round(0.5 / dt)).final.points
    limit = end(mf.flows.Wasserstein(reduced(), CIRCLE), 2**-7)
    errors = [
        float(jnp.max(jnp.abs(end(mf.flows.TwoTimescale(reduced(), CIRCLE, rate=g), 2**-11) - limit)))
        for g in (50.0, 100.0, 200.0)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    print("error of order", orders, "in 1 / gamma")
    np.testing.assert_allclose(orders, 1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("f", [Quadratic(1.0), Power(1.5)], ids=["quadratic", "power"])
def test_multirate_is_the_flow(f):
    flow = mf.flows.Wasserstein(reduced(f=f), CIRCLE)
    run = mf.simulate(flow, start(), stepper=Multirate(1e-5, 1e-7), t1=0.5)
    fine = mf.simulate(flow, start(), stepper=RK4(2**-9), steps=256)
    assert int(run.status) == 0
    np.testing.assert_allclose(run.final.points, fine.final.points, atol=1e-5)


@pytest.mark.slow_cases("map", "vmap")
@pytest.mark.parametrize("method", ["loop", "map", "vmap"])
def test_cells_of_a_sweep_are_their_solo_runs(method):
    settings = {"stepper": Euler(0.1), "steps": 4, "observables": {"F": mf.observables.Prediction(X[:2])}}

    def declared(lam, seed):
        return mf.flows.Wasserstein(reduced(lam), CIRCLE), Particles.sample(CIRCLE, jr.key(seed), 6)

    cell = lambda lam, seed: mf.Simulation(*declared(lam, seed), **settings)
    table = mf.sweep(cell, method=method, lam=[0.05, 0.2], seed=[0, 1])
    assert table["F"].shape == (2, 2, 5, 2, 3)
    for i, lam in enumerate((0.05, 0.2)):
        for j in (0, 1):
            run = mf.simulate(*declared(lam, j), **settings)
            np.testing.assert_allclose(table["F"][i, j], run.observables["F"], rtol=1e-10, atol=1e-13)


def test_predictions_held_out_risk_and_accuracy():
    mu, energy = start(), reduced()
    flow = mf.flows.Wasserstein(energy, CIRCLE)
    phi = np.tanh(np.asarray(X) @ np.asarray(mu.points).T)
    network = phi @ np.asarray(energy.outer_weights(mu)) / 6
    np.testing.assert_allclose(energy.predict(mu, X), network, rtol=1e-12)
    np.testing.assert_allclose(mf.observables.Prediction(X)(mu, flow), network, rtol=1e-12)
    target, masses = np.asarray(Y) + 1, np.arange(11) / 55
    risk = mf.observables.HeldOutRisk(X, target, data_weights=masses)(mu, flow)
    np.testing.assert_allclose(risk, masses @ np.sum((network - target) ** 2, axis=1) / 2, rtol=1e-12)
    cross = mf.observables.HeldOutRisk(X, LABELS, loss=Softmax())(mu, flow)
    shares = np.exp(network) / np.exp(network).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cross, -np.mean(np.log(shares[np.arange(11), LABELS])), rtol=1e-12)
    right = network.argmax(axis=1) == np.asarray(LABELS)
    for labels in (LABELS, np.asarray(LABELS), jax.nn.one_hot(LABELS, 3)):
        accuracy = mf.observables.Accuracy(X, labels, data_weights=masses)(mu, flow)
        np.testing.assert_allclose(accuracy, masses @ right, rtol=1e-12)
    assert 0 < float(masses @ right) < 1
    signs = jnp.where(Y[:, 0] > 0, 1.0, -1.0)
    one = mf.flows.Wasserstein(reduced(y=Y[:, 0]), CIRCLE)
    values = np.asarray(one.energy.predict(mu, X))
    accuracy = mf.observables.Accuracy(X, signs)(mu, one)
    np.testing.assert_allclose(accuracy, np.mean(values * np.asarray(signs) > 0), rtol=1e-12)


def test_a_predictor_is_stored_with_its_outputs(tmp_path):
    mu = start()
    for made in (reduced().predictor(mu), Risk(Weighted(TANH, outputs=3), X, Y).predictor(five())):
        path = made.save(tmp_path / "network.npz")
        again = mf.energies.Predictor.load(path, made.features)
        np.testing.assert_array_equal(again(X), made(X))
        assert made(X).shape == (11, 3)


@pytest.mark.core
def test_a_stored_classifier_gives_labels_and_probabilities(tmp_path):
    """Those of the accuracy that the run records, and of exponentials by hand."""
    classes = Risk(Weighted(TANH, outputs=3), X, LABELS, 1e-4, Softmax())
    run = mf.simulate(
        mf.flows.Wasserstein(classes, mf.domains.Euclidean(5)),
        five(),
        stepper=Euler(1.0),
        steps=5,
        observables={"accuracy": mf.observables.Accuracy(X, LABELS)},
    )
    net = classes.predictor(run.final)
    back = mf.energies.Predictor.load(net.save(tmp_path / "network.npz"), net.features)
    mass = np.exp(np.asarray(back(X)))
    shares = classes.loss.probabilities(back(X))
    np.testing.assert_allclose(shares, mass / mass.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(back.labels(X), mass.argmax(axis=1))
    right = np.mean(np.asarray(back.labels(X)) == np.asarray(LABELS))
    assert 0 < right < 1 and right == pytest.approx(float(run.observables["accuracy"][-1]))
    one = Risk(Weighted(TANH), X, jnp.where(Y[:, 0] > 0, 1.0, -1.0), loss=Logistic())
    net = one.predictor(Particles(jr.normal(jr.key(4), (6, 3))))
    np.testing.assert_array_equal(net.labels(X), np.where(np.asarray(net(X)) > 0, 1, -1))
    shares = one.loss.probabilities(net(X))
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-np.asarray(net(X)))), rtol=1e-12)


def five():
    """Neurons (w, omega) of the plane with three outer weights."""
    return Particles(jr.normal(jr.key(4), (6, 5)))


@pytest.mark.slow
def test_runs_are_stored_with_their_outputs(tmp_path):
    flow = mf.flows.TwoTimescale(reduced(), CIRCLE, rate=2.0)
    run = mf.simulate(
        flow, start(), stepper=Euler(0.1), steps=4, observables={"F": mf.observables.Prediction(X)}
    )
    again = mf.load(run.save(tmp_path / "run.nc"))
    np.testing.assert_array_equal(again.final.marks["u"], run.final.marks["u"])
    assert run.to_xarray()["F"].shape == (5, 11, 3) and run.final.marks["u"].shape == (6, 3)


def test_classes_are_learned():
    """Of three classes at the corners of a triangle; the risk falls to that of a confident network."""
    angle = 2 * jnp.pi * jnp.arange(30) / 3
    x = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) + 0.2 * jr.normal(jr.key(5), (30, 2))
    labels = jnp.arange(30) % 3
    flow = mf.flows.Wasserstein(
        Risk(Weighted(TANH, outputs=3), x, labels, 1e-4, Softmax()), mf.domains.Euclidean(5)
    )
    watch = {"accuracy": mf.observables.Accuracy(x, labels)}
    run = mf.simulate(flow, five(), stepper=Euler(1.0), steps=100, observables=watch)
    np.testing.assert_allclose(run.observables["accuracy"][-1], 1, rtol=1e-14)
    assert run.observables["energy"][-1] < 0.1 * run.observables["energy"][0]
    assert np.all(np.diff(run.observables["energy"]) < 0)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["reduced", "softmax", "logistic"])
def test_gibbs_measures_solve_their_equation(which):
    """mu = e^{-V/T} / Z with V the first variation at mu itself: the dual of c outputs has N c unknowns."""
    line = mf.domains.Interval(-2.0, 2.0)
    three = mf.features.Function(lambda omega, x: jnp.tanh(omega[0] * x[0] + x[1] + jnp.arange(3.0)))
    signs = jnp.where(Y > 0, 1.0, -1.0)
    smooth = {
        "reduced": lambda: ReducedRisk(
            mf.features.Function(lambda omega, x: jnp.tanh(omega[0] * x[0] + x[1])), X, Y, 0.1
        ),
        "softmax": lambda: Risk(three, X, LABELS, 0.1, Softmax()),
        "logistic": lambda: Risk(three, X, signs, 0.1, Logistic()),
    }[which]()
    temperature = 0.05
    found = mf.gibbs(smooth + temperature * Entropy(), Grid.uniform(line, 64))
    mu = found.measure
    potential = np.asarray(smooth.first_variation(mu))
    density = np.exp(-(potential - potential.min()) / temperature)
    np.testing.assert_allclose(mu.weights, density / density.sum(), rtol=1e-8)


@pytest.mark.slow
def test_an_output_that_nothing_drives_has_no_part_in_the_rates():
    energy = lambda y: reduced(0.1, Quadratic(0.0), y=y) + 0.3 * Potential(lambda x: x[0])
    alone, beside = (
        mf.flows.Wasserstein(energy(y), CIRCLE)
        for y in (Y[:, 0], jnp.stack([0 * Y[:, 0], Y[:, 0], 0 * Y[:, 0]], axis=1))
    )
    rest = mf.simulate(alone, start(4), t1=400.0, stepper=mf.steppers.Adaptive(1e-10, 1e-12)).final
    ours, theirs = (mf.linearize(flow, rest, tolerance=1e-2).rates for flow in (beside, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert np.max(np.abs(theirs)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("solver", [mf.outer.Cholesky(), mf.outer.ConjugateGradient(1e-14), None])
def test_derivatives_of_whole_runs(solver):
    """In lam and the targets of one output, against central differences."""
    f = Power(1.5) if solver is None else Quadratic(1.0)

    @eqx.filter_jit
    def end(lam, shift):
        y = Y.at[:, 1].add(shift)
        flow = mf.flows.Wasserstein(reduced(lam, f, y=y, outer=solver), CIRCLE)
        run = mf.simulate(flow, start(), stepper=Euler(0.1), steps=5)
        return jnp.sum(jnp.sin(run.final.points)) + run.observables["energy"][-1]

    at, h = (0.05, 0.1), 1e-5
    slopes = jax.grad(end, (0, 1))(*at)
    for i in range(2):
        up, down = ([v + s * h * (k == i) for k, v in enumerate(at)] for s in (1, -1))
        np.testing.assert_allclose(slopes[i], (end(*up) - end(*down)) / (2 * h), rtol=1e-6)


@pytest.mark.slow
def test_compressed_data_of_several_outputs():
    x = jr.normal(jr.key(6), (300, 2))
    y = jnp.sin(x @ jr.normal(jr.key(7), (2, 3)))
    small = mf.compress(TANH, x, y, CIRCLE, tolerance=1e-6)
    assert small.y.shape == (small.rank + 1, 3)
    part = ReducedRisk(small.features, small.x, small.y, 0.1, data_weights=small.data_weights)
    whole = ReducedRisk(TANH, x, y, 0.1)
    bound = mf.observables.CompressionError()(start(), mf.flows.Wasserstein(part, CIRCLE))
    error = abs(float(part(start()) - whole(start())))
    assert error <= float(bound) <= 1e-4
    columns = [ReducedRisk(TANH, x, y[:, k], 0.1)(start()) for k in range(3)]
    np.testing.assert_allclose(whole(start()), sum(columns), rtol=1e-12)


@pytest.mark.slow
def test_the_hessian_of_the_potential_is_bounded_from_below():
    energy = reduced(0.1, Quadratic(1.0))
    bound = mf.bounds.semiconvexity(energy, CIRCLE, energy(start()))
    along = lambda t: energy.potential(start())(jnp.array([jnp.cos(t), jnp.sin(t)]))
    least = float(jnp.min(jax.vmap(jax.grad(jax.grad(along)))(jnp.linspace(0, 2 * jnp.pi, 200))))
    assert -float(bound) <= least


def test_a_teacher_may_have_several_outputs():
    neurons = start(3).with_marks(u=jr.normal(jr.key(8), (3, 2)))
    got = mf.problems.network_output(TANH, neurons, X)
    want = np.tanh(np.asarray(X) @ np.asarray(neurons.points).T) @ np.asarray(neurons.marks["u"]) / 3
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_labels_inside_a_program_that_are_no_classes_cost_nan():
    """No check sees them there, and a label beyond the outputs would cost nothing."""
    cost = jax.jit(lambda label: (Softmax()(jnp.zeros(3), label), Softmax().derivative(jnp.zeros(3), label)))
    signs = jax.jit(
        lambda label: (Logistic()(jnp.zeros(()), label), Logistic().derivative(jnp.zeros(()), label))
    )
    for label, right in ((-1.0, True), (1.0, True), (0.0, False), (2.0, False)):
        assert all(np.isfinite(value) == right for value in signs(jnp.array(label)))
    for label, right in ((0.0, True), (2.0, True), (3.0, False), (-1.0, False), (0.5, False)):
        value, slope = cost(jnp.array(label))
        assert np.isfinite(value) == right and np.all(np.isfinite(slope)) == right
