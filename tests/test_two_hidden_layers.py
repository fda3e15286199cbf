"""Networks with two hidden layers: against plain gradients, relabeled, split, and with many neurons."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Risk, SecondLayer
from mfjax.features import Ridge, Weighted
from mfjax.flows import PropagationOfChaos, TwoHiddenLayers, Wasserstein
from mfjax.losses import Huber, Softmax, Square
from mfjax.measures import Grid, Particles
from mfjax.observables import HeldOutRisk, PathNorm, Prediction, TangentKernel
from mfjax.steppers import RK4, Euler
from mfjax.testing import check_flow

PLANE, CIRCLE = mf.domains.Euclidean(2), mf.domains.Sphere(1)
X = jr.normal(jr.key(0), (9, 2))
Y = jnp.sin(2 * X[:, 0]) - 0.4 * X[:, 1]
P = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])
Q = jnp.array([0.2, 0.5, 0.3])
LAM = 0.1
STEPPER = Euler(0.1)


def weights(outputs=None):
    """theta (5, 2), b (5, 3) and w (3,) or (3, outputs)."""
    shapes = (5, 2), (5, 3), (3,) if outputs is None else (3, outputs)
    return [jr.normal(jr.key(k), shape) for k, shape in enumerate(shapes, 1)]


def network(theta, b, w, p=P, q=Q, x=X):
    """(5.1) of the survey with masses, in plain JAX."""
    return jnp.tanh(jnp.tanh(x @ theta.T) @ (p[:, None] * b)) @ (q.reshape(-1, *[1] * (w.ndim - 1)) * w)


def declared(theta, b, w, p=P, q=Q, y=Y, loss=None, domain=PLANE, lam=LAM, **options):
    """The flow, and the measure of the first layer."""
    layer = SecondLayer(jnp.tanh, w, q)
    features = Weighted(Ridge(jnp.tanh), outputs=len(q))
    flow = TwoHiddenLayers(Risk(features, X, y, lam, loss, layer=layer, **options), domain)
    return flow, Particles(theta, p, marks={"H": layer.heights(b)})


LOSSES = {
    "square": (Square(), Y, None),
    "huber": (Huber(0.2), Y, None),
    "softmax": (Softmax(), jnp.arange(9.0) % 4, 4),
    "two outputs": (Square(), jnp.stack([Y, X[:, 1]], axis=1), 2),
}


@pytest.mark.slow_cases("softmax", "huber", "two outputs")
@pytest.mark.parametrize("name", LOSSES)
def test_rates_are_plain_gradients_over_masses(name):
    loss, y, outputs = LOSSES[name]
    theta, b, w = weights(outputs)
    flow, mu = declared(theta, b, w, y=y, loss=loss)

    @jax.jit
    @jax.value_and_grad
    def plain(parameters):
        theta, b, w = parameters
        penalty = P @ jnp.sum(theta**2, 1) + P @ b**2 @ Q + jnp.sum(Q @ w.reshape(3, -1) ** 2)
        return jnp.mean(loss.values(network(theta, b, w), y)) + LAM / 2 * penalty

    value, (by_theta, by_b, by_w) = plain((theta, b, w))
    now = flow.evaluate(flow.init(mu))
    np.testing.assert_allclose(now.energy, value, rtol=1e-13)
    rates = now.tangent.points, flow.layer.connections(now.tangent.marks["H"]), now.tangent.fields["w"]
    q = Q.reshape(-1, *[1] * (w.ndim - 1))
    expected = -by_theta / P[:, None], -by_b / (P[:, None] * Q), -by_w / q
    for rate, exact in zip(rates, expected, strict=True):
        np.testing.assert_allclose(rate, exact, rtol=1e-12, atol=1e-14)
    fall = P @ jnp.sum(rates[0] ** 2, 1) + P @ rates[1] ** 2 @ Q + jnp.sum(q * rates[2] ** 2)
    np.testing.assert_allclose(now.dissipation, fall, rtol=1e-12)


@pytest.mark.slow_cases("softmax", "huber", "two outputs")
@pytest.mark.parametrize("name", LOSSES)
def test_generic(name):
    """The energy falls at its rate, by differences; order, splitting and padding of the first layer."""
    loss, y, outputs = LOSSES[name]
    check_flow(*declared(*weights(outputs), y=y, loss=loss))


@eqx.filter_jit
def end(flow, mu, stepper=STEPPER, steps=20):
    return trajectory(mf.Simulation(flow, mu, stepper=stepper, steps=steps, save_every=steps))[0].state


def outputs(flow, mu, x=X, **options):
    """What the network says after a run."""
    state = end(flow, mu, **options)
    return Prediction(x)(state.measure, flow.at(state))


def test_neurons_of_either_layer_may_be_permuted_and_split():
    theta, b, w = weights()
    expected = outputs(*declared(theta, b, w))
    one, two = jnp.array([3, 0, 4, 1, 2]), jnp.array([1, 2, 0])
    permuted = declared(theta[one], b[one][:, two], w[two], P[one], Q[two])
    # Two neurons of the first layer in halves, one of the second in a third and two.
    one, share = jnp.array([0, 1, 2, 3, 4, 1, 4]), jnp.array([1, 0.5, 1, 1, 0.5, 0.5, 0.5])
    two, part = jnp.array([0, 1, 2, 1]), jnp.array([1, 1 / 3, 1, 2 / 3])
    split = declared(theta[one], b[one][:, two], w[two], P[one] * share, Q[two] * part)
    assert float(jnp.max(jnp.abs(expected - network(theta, b, w)))) > 0.1
    for other in (permuted, split):
        np.testing.assert_allclose(outputs(*other), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
def test_a_frozen_second_layer_is_a_risk_of_several_outputs():
    """With w held: the first layer by itself, as pairs (rho, H) and as points (H, theta) of one measure."""
    theta, b, w = weights()
    flow, mu = declared(theta, b, w)
    pairs = PropagationOfChaos(flow.energy, PLANE)
    lifted = Wasserstein(flow.energy, mf.domains.Euclidean(5))
    there, here = end(pairs, mu).measure, end(lifted, pairs.lift(mu)).measure
    np.testing.assert_allclose(pairs.lift(there).points, here.points, rtol=1e-12)
    assert flow.energy.dual(flow.lift(mu)) is None


@pytest.mark.slow
def test_what_watches_a_run_sees_the_second_layer_of_its_time(tmp_path):
    theta, b, w = weights()
    flow, mu = declared(theta, b, w)
    seen = {"F": Prediction(X), "risk": HeldOutRisk(X, Y), "w": lambda mu, flow: flow.layer.weights}
    run = mf.simulate(flow, mu, stepper=STEPPER, steps=20, save_every=20, observables=seen)
    trained = flow.at(run.end.state)
    b = trained.layer.connections(run.final.marks["H"])
    last = network(run.final.points, b, run.observables["w"][-1])
    np.testing.assert_allclose(run.observables["F"][-1], last, rtol=1e-12)
    np.testing.assert_allclose(run.observables["risk"][-1], 0.5 * np.mean((last - Y) ** 2), rtol=1e-12)
    np.testing.assert_allclose(run.observables["F"][0], network(theta, weights()[1], w), rtol=1e-12)
    net = trained.energy.predictor(trained.lift(run.final))
    np.testing.assert_allclose(net(X), last, rtol=1e-12)
    path = net.save(tmp_path / "two.npz")
    # The layer as it was declared: its numbers come from the file.
    again = mf.energies.Predictor.load(path, net.features, flow.layer)
    np.testing.assert_array_equal(again(X), net(X))
    narrow = mf.energies.SecondLayer(jnp.tanh, jnp.ones(1))
    for layer, here in ((narrow, r"\[1\.\]"), (None, "nothing")):
        with pytest.raises(ValueError, match=rf"another layer: layer\.masses is .* there and {here} here"):
            mf.energies.Predictor.load(path, net.features, layer)
    scheduled = mf.flows.Scheduled(lambda t: declared(theta, weights()[1], w, lam=LAM + 0 * t)[0])
    other = mf.simulate(scheduled, mu, stepper=STEPPER, steps=20, save_every=20, observables=seen)
    np.testing.assert_allclose(other.observables["F"], run.observables["F"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [None, 2])
def test_the_tangent_kernel_has_all_weights(outputs):
    """Sums over all weights of products of derivatives, over masses; with and without those of w."""
    theta, b, w = weights(outputs)
    y = Y if outputs is None else jnp.stack([Y, -Y], axis=1)
    flow, mu = declared(theta, b, w, y=y)
    root = jnp.sqrt(P)[:, None], jnp.sqrt(P[:, None] * Q), jnp.sqrt(Q).reshape(-1, *[1] * (w.ndim - 1))
    of = lambda scaled: network(*(s / r for s, r in zip(scaled, root, strict=True)))
    parts = jax.jacobian(of)([v * r for v, r in zip((theta, b, w), root, strict=True)])
    size = len(X) * (outputs or 1)
    products = [(j := part.reshape(size, -1)) @ j.T for part in parts]
    shape = np.shape(network(theta, b, w)) * 2
    for system, exact in ((flow, sum(products)), (PropagationOfChaos(flow.energy, PLANE), sum(products[:2]))):
        np.testing.assert_allclose(TangentKernel(X)(mu, system), exact.reshape(shape), rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_batches_move_both_layers():
    """A step sees a batch in both; with all data in one batch it is the step of the flow."""
    flow, mu = declared(*weights())
    drawn, _ = declared(*weights(), batches=mf.energies.Batches(9))
    small, _ = declared(*weights(), batches=mf.energies.Batches(3))
    last = lambda flow: mf.simulate(flow, mu, stepper=STEPPER, steps=2, save_every=2, key=jr.key(0)).end.state
    whole, same, other = last(flow), last(drawn), last(small)
    np.testing.assert_allclose(same.fields["w"], whole.fields["w"], rtol=1e-12)
    assert float(jnp.max(jnp.abs(other.fields["w"] - whole.fields["w"]))) > 1e-3


# --- many neurons


def start(theta, w):
    """The mean of the weights between the layers at the start, a function of the neurons that they join."""
    return 0.8 + 0.6 * theta[0] * w + 0.3 * theta[1]


def quadrature(n):
    """Nodes and masses of the uniform law of w on [-2, 2]."""
    nodes, masses = np.polynomial.legendre.leggauss(n)
    return jnp.asarray(2 * nodes), jnp.asarray(masses / 2)


TIME = 2.0
AT = jr.normal(jr.key(9), (16, 2))


def joined(points, w):
    return jax.vmap(lambda theta: jax.vmap(lambda v: start(theta, v))(w))(points)


def limit(mu, nodes, dt=0.05):
    """What the network of a density, or of given neurons of the first layer, says at the end."""
    w, q = quadrature(nodes)
    flow, _ = declared(mu.points[:1], joined(mu.points[:1], w), w, jnp.ones(1), q, domain=CIRCLE, lam=0.02)
    mu = mu.with_marks(H=flow.layer.heights(joined(mu.points, w)))
    return outputs(flow, mu, AT, stepper=RK4(dt), steps=round(TIME / dt))


@pytest.mark.slow
def test_the_density_is_the_limit_of_the_first_layer():
    """Neurons on a lattice of the circle against grids: order two; few nodes of w are enough."""
    lattice = Grid.uniform(CIRCLE, 256)
    exact = limit(Particles(lattice.points), 8)
    errors = [
        float(jnp.max(jnp.abs(limit(Grid.uniform(CIRCLE, n), 8, 0.0125) - exact))) for n in (32, 64, 128)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    fewer = float(jnp.max(jnp.abs(limit(Particles(lattice.points), 6) - exact)))
    print(f"density against 256 neurons: {errors}, orders {orders}; 6 nodes of w for 8: {fewer:.1e}")
    assert abs(orders[-1] - 2) < 0.2 and fewer < 1e-5


@pytest.mark.slow
def test_independent_neurons_tend_to_the_density():
    """N_1 = N_2 = N, theta, w, and b about its mean all independent: rms error of the output like N^-1/2."""
    exact = limit(Particles(Grid.uniform(CIRCLE, 256).points), 8)

    def error(n, seed):
        keys = jr.split(jr.key(seed), 3)
        theta, w = CIRCLE.sample(keys[0], n), jr.uniform(keys[1], (n,), minval=-2.0, maxval=2.0)
        b = joined(theta, w) + jr.normal(keys[2], (n, n))
        flow, mu = declared(theta, b, w, jnp.full(n, 1 / n), jnp.full(n, 1 / n), domain=CIRCLE, lam=0.02)
        return outputs(flow, mu, AT, stepper=RK4(TIME / 20), steps=20) - exact

    widths, seeds = (16, 32, 64, 128), jnp.arange(24)
    rms = [float(jnp.sqrt(jnp.mean(jax.lax.map(lambda s, n=n: error(n, s), seeds) ** 2))) for n in widths]
    slope = np.polyfit(np.log(widths), np.log(rms), 1)[0]
    print(f"N = {widths}: rms error {rms}, slope {slope:.2f}")
    assert abs(slope + 0.5) < 0.1


@pytest.mark.slow
def test_neurons_of_the_second_layer_that_start_with_one_weight_stay_alike():
    """Their weights to the first layer differ by noise of size one, which is averaged out: N_1^-1/2 in w."""
    n, w = 16, jnp.ones(16)
    spread = []
    for width in (64, 256, 1024):
        theta = CIRCLE.sample(jr.key(0), width)
        b = joined(theta, w) + jr.normal(jr.key(1), (width, n))
        sizes = jnp.full(width, 1 / width), jnp.full(n, 1 / n)
        flow, mu = declared(theta, b, w, *sizes, domain=CIRCLE, lam=0.02)
        last = end(flow, mu)
        assert abs(float(jnp.mean(last.fields["w"])) - 1) > 0.03
        spread.append(float(jnp.std(last.fields["w"])))
    slope = np.polyfit(np.log([64, 256, 1024]), np.log(spread), 1)[0]
    print(f"deviation of w that start alike, N_1 = 64, 256, 1024: {spread}, slope {slope:.2f}")
    assert abs(slope + 0.5) < 0.15


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: declared(*weights())[0].init(Particles(weights()[0])), "mark 'H', one number or c of them"),
        (
            lambda: declared(*weights())[0].init(Particles(weights()[0], marks={"H": jnp.ones((5, 2))})),
            r"has shape \(5, 3\), got \(5, 2\)",
        ),
        (lambda: PathNorm()(*declared(*weights())[::-1]), "networks with one hidden layer"),
        (
            lambda: TwoHiddenLayers(Risk(Weighted(Ridge(jnp.tanh), outputs=3), X, Y), PLANE),
            r"layer=energies.SecondLayer\(sigma, w\)\), got Risk",
        ),
        (
            lambda: declared(*weights()[:2], jnp.ones(2), q=Q)[0],
            r"masses must be \(2,\), one of each neuron, got \(3,\)",
        ),
        (
            lambda: Wasserstein(declared(*weights())[0].energy, mf.domains.Euclidean(5)).init(
                Grid.uniform(mf.domains.Euclidean(5), 4)
            ),
            "Euclidean has no grid of cells",
        ),
        (
            lambda: TwoHiddenLayers(declared(*weights())[0].energy, CIRCLE, noise=0.1).init(
                Grid.uniform(CIRCLE, 8).with_marks(H=jnp.ones((8, 3)))
            ),
            "H is then no function of theta",
        ),
        (
            lambda: mf.flows.Transported(declared(*weights())[0].energy, CIRCLE).init(
                Grid.uniform(CIRCLE, 8).with_marks(H=jnp.ones((8, 3)))
            ),
            "one height at a point.*take flows.PropagationOfChaos",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
