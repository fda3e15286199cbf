"""The tangent kernel of a network, its limit for many neurons, lazy training, path norms and symmetries."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import bounds
from mfjax._engine.loop import trajectory
from mfjax.energies import ReducedRisk, Risk
from mfjax.features import Function, ReLU, Ridge, SignedFeatures, Symmetrized, Weighted
from mfjax.flows import PropagationOfChaos, Wasserstein
from mfjax.measures import Grid, Particles
from mfjax.observables import PathNorm, Prediction, TangentKernel
from mfjax.steppers import RK4

CIRCLE, SPACE = mf.domains.Sphere(1), mf.domains.Euclidean(3)
X = jr.normal(jr.key(0), (6, 2))
Y = jnp.sin(2 * X[:, 0])
MASSES = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])
NEURON, RELU = Weighted(Ridge(jnp.tanh)), Weighted(ReLU())


@eqx.filter_jit
def end(flow, mu, t1, dt):
    steps = round(t1 / dt)
    return trajectory(mf.Simulation(flow, mu, stepper=RK4(dt), steps=steps, save_every=steps))[0].state


def cases():
    """Networks of points in space, on the circle, with several outputs, and of pairs (rho, H)."""
    points, circle = jr.normal(jr.key(1), (5, 3)), CIRCLE.sample(jr.key(2), 5)
    curves = Function(lambda xi, x: jnp.stack([xi[0] * jnp.tanh(xi[1:] @ x), jnp.sin(xi[2] * x[0])]))
    height = jr.normal(jr.key(3), (5,))
    return {
        "space": (Wasserstein(Risk(NEURON, X, Y), SPACE), Particles(points, MASSES)),
        "circle": (Wasserstein(Risk(Ridge(jnp.tanh), X, Y), CIRCLE), Particles(circle, MASSES)),
        "two outputs": (Wasserstein(Risk(curves, X, X), SPACE), Particles(points, MASSES)),
        "pairs": (PropagationOfChaos(Risk(NEURON, X, Y), CIRCLE), Particles(circle, MASSES, {"H": height})),
    }


@pytest.mark.slow_cases("space", "circle", "two outputs")
@pytest.mark.parametrize("name", ["space", "circle", "two outputs", "pairs"])
def test_predictions_follow_the_tangent_kernel(name):
    """d_t F = -K p l' along the flow, where inputs are those of the data and others."""
    flow, mu = cases()[name]
    state, inputs = flow.init(mu), jnp.concatenate([X, X[:2] + 1])
    tangent = flow.evaluate(state).tangent
    says = lambda h: Prediction(inputs)(flow.move(state, tangent, h).measure, flow)
    now, rate = jax.jvp(says, (jnp.zeros(()),), (jnp.ones(()),))
    kernel = jax.jit(lambda mu: TangentKernel(inputs)(mu, flow))(mu)
    error = (now[: len(X)] - flow.energy.data.y) / len(X)
    expected = -jnp.tensordot(
        kernel[..., : len(X)] if now.ndim == 1 else kernel[:, :, : len(X)], error, error.ndim
    )
    np.testing.assert_allclose(rate, expected, rtol=1e-11, atol=1e-13)
    square = kernel.reshape(now.size, now.size)
    np.testing.assert_allclose(square, square.T, rtol=1e-12, atol=1e-14)
    assert np.linalg.eigvalsh(square)[0] > -1e-12
    # A particle of no mass is not there, nor the cut of one into two.
    one, part = jnp.array([0, 1, 2, 3, 4, 0, 2]), jnp.array([0.5, 1, 1, 1, 1, 0.5, 0])
    other = jax.tree.map(lambda leaf: leaf[one], mu)
    other = eqx.tree_at(lambda m: m.weights, other, other.weights * part)
    np.testing.assert_allclose(TangentKernel(inputs)(other, flow), kernel, rtol=1e-12, atol=1e-14)


def arc_cosine(x):
    """E[relu relu'] + E[w^2] x . x' P(both active) for standard normal w and omega: (58) of the thesis."""
    length = jnp.linalg.norm(x, axis=1)
    products = x @ x.T
    angle = jnp.arccos(jnp.clip(products / (length[:, None] * length), -1, 1))
    both = (jnp.pi - angle) / (2 * jnp.pi)
    return products * both + length[:, None] * length * (
        jnp.sin(angle) / (2 * jnp.pi) + jnp.cos(angle) * both
    )


@pytest.mark.slow
def test_the_kernel_of_many_neurons_is_the_closed_one():
    """Root mean square over draws of its relative error falls like M^-1/2."""
    flow, exact = Wasserstein(Risk(RELU, X, Y), SPACE), arc_cosine(X)
    kernel = jax.jit(lambda points: TangentKernel(X)(Particles(points), flow))
    widths, errors = (64, 256, 1024), []
    for width in widths:
        found = jnp.stack([kernel(jr.normal(jr.key(seed), (width, 3))) for seed in range(16)])
        errors.append(float(jnp.sqrt(jnp.mean((found - exact) ** 2)) / jnp.sqrt(jnp.mean(exact**2))))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    print(f"M = {widths}: relative error of the tangent kernel {errors}, slope {slope:.2f}")
    assert abs(slope + 0.5) < 0.1


def lazy(width, key, even):
    """Points whose network is zero at the start: pairs of opposite outer weights, or of a law of one sign."""
    half = jr.normal(key, (width // 2, 3))
    if even:
        return jnp.concatenate([half, half * jnp.array([-1.0, 1.0, 1.0])])
    return jr.normal(key, (width, 3)).at[:, 0].set(1 + jnp.abs(jr.normal(jr.fold_in(key, 1), (width,))))


@pytest.mark.slow
def test_plain_gradients_of_the_other_scaling_are_a_flow():
    """Thesis 1.3.1: 50 steps on M^-1/2 sum_i Phi(xi_i, .) are those of a risk with targets y / sqrt(M)."""
    width, dt = 20, 0.05
    points = lazy(width, jr.key(4), True)

    def loss(p):
        return 0.5 * jnp.mean((jnp.tanh(X @ p[:, 1:].T) @ p[:, 0] / jnp.sqrt(width) - Y) ** 2)

    descend = jax.jit(lambda p: jax.lax.fori_loop(0, 50, lambda _, p: p - dt * jax.grad(loss)(p), p))
    flow = Wasserstein(Risk(NEURON, X, Y / np.sqrt(width)), SPACE)
    run = mf.simulate(flow, Particles(points), stepper=mf.steppers.Euler(dt), steps=50, save_every=50)
    np.testing.assert_allclose(run.final.points, descend(points), rtol=1e-11, atol=1e-12)
    # And the kernel is (38), the sum over parameters without masses.
    row = jax.jacobian(lambda p: jnp.tanh(X @ p[:, 1:].T) @ p[:, 0] / jnp.sqrt(width))(points)
    row = row.reshape(len(X), -1)
    np.testing.assert_allclose(TangentKernel(X)(Particles(points), flow), row @ row.T, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("even", [True, False], ids=["even", "one sign"])
def test_the_kernel_of_the_other_scaling_stays(even):
    """Its relative change over a fixed time: like M^-1 for an even law of outer weights, else M^-1/2.

    What the start says is added to the targets, so that all widths learn the same. The next terms are smaller
    by M^-1/2 alone: the slope between the last two widths is taken.
    """
    widths, changes, moved = (1024, 4096, 16384), [], []
    neuron = Weighted(Ridge(jnp.tanh, 0.5))

    @jax.jit
    def one(points):
        mu, width = Particles(points), len(points)
        base = Risk(neuron, X, Y).predictor(mu)(X)
        flow = Wasserstein(Risk(neuron, X, base + Y / np.sqrt(width)), SPACE)
        last = end(flow, mu, 4.0, 0.1).measure
        first, second = (TangentKernel(X)(m, flow) for m in (mu, last))
        way = jnp.sqrt(jnp.mean((last.points - mu.points) ** 2))
        return jnp.linalg.norm(second - first) / jnp.linalg.norm(first), way

    for width in widths:
        change, way = zip(*(one(lazy(width, jr.key(seed), even)) for seed in range(16)), strict=True)
        changes.append(np.sqrt(np.mean(np.square(change))))
        moved.append(np.mean(way))
    slopes = [np.diff(np.log(v)) / np.log(4) for v in (changes, moved)]
    print(f"M = {widths}: relative change of K {changes}, way of parameters {moved}, slopes {slopes}")
    assert abs(slopes[0][-1] + (1 if even else 0.5)) < 0.1 and abs(slopes[1][-1] + 0.5) < 0.05


def test_a_share_of_the_risk_moves_predictions_as_slowly():
    """The coefficient of the risk is in the kernel, and in the decay that follows from it."""
    mu = Particles(jr.normal(jr.key(5), (32, 3)))
    risk = Risk(NEURON, [[1.0, 0.5]], [1.0])
    whole, tenth = Wasserstein(risk, SPACE), Wasserstein(0.1 * risk, SPACE)
    kernel = TangentKernel(risk.data.x)
    np.testing.assert_allclose(kernel(mu, tenth), 0.1 * kernel(mu, whole), rtol=1e-14)
    times = jnp.arange(9) / 4
    run = mf.simulate(tenth, mu, save_at=times[1:], observables={"kernel": kernel})
    values = 10 * run.observables["energy"]
    margin = bounds.tangent_decay(values[0], run.times, run.observables["kernel"]).check(run.times, values)
    assert 0 < margin < 0.1


@pytest.mark.slow
def test_the_least_eigenvalue_bounds_the_decay():
    """Thesis II.3.1: a Polyak-Lojasiewicz inequality along a run, whose constant is measured."""
    mu = Particles(jr.normal(jr.key(5), (64, 3)))
    flow = Wasserstein(Risk(NEURON, X, Y), SPACE)
    run = mf.simulate(flow, mu, save_at=jnp.arange(1, 21) / 4, observables={"kernel": TangentKernel(X)})
    risk = run.observables["energy"]
    bound = bounds.tangent_decay(risk[0], run.times, run.observables["kernel"])
    margin = bound.check(run.times, risk)
    print(
        f"tangent kernel: rates {float(jnp.min(bound.rates)):.2e} to {float(jnp.max(bound.rates)):.2e}, "
        f"margin {margin:.3f}"
    )
    assert 0 < margin < 1 and np.all(bound.rates > 0)
    assert np.all(run.observables["dissipation"] >= bound.rates * risk)
    faster = bounds.Integrated(risk[0], run.times, 1.0 + 10 * bound.rates)
    assert faster.check(run.times, risk) < 0


# --- Path norms


def test_the_path_norm_of_rescaled_split_and_sampled_neurons():
    """What ReLU neurons trade leaves it; half of the second moments are above; a sample is off by it."""
    flow = Wasserstein(Risk(RELU, X, Y), SPACE)
    mu = Particles(jr.normal(jr.key(6), (5, 3)), MASSES)
    norm = float(PathNorm()(mu, flow))
    traded = mu.points * jnp.exp(jnp.linspace(-1, 1, 5))[:, None] ** jnp.array([1.0, -1.0, -1.0])
    other = Particles(traded, MASSES)
    np.testing.assert_allclose(Prediction(X)(other, flow), Prediction(X)(mu, flow), rtol=1e-12)
    assert float(PathNorm()(other, flow)) == pytest.approx(norm, rel=1e-12)
    assert norm <= 0.5 * float(mu.integrate(jnp.sum(mu.points**2, axis=1)))
    # Drawn in proportion to |u| |omega|, each with the outer weight norm * sign: the variance of one neuron.
    u, omega = np.asarray(mu.points[:, 0]), np.asarray(mu.points[:, 1:])
    share = np.asarray(MASSES) * np.abs(u) * np.linalg.norm(omega, axis=1)
    drawn = norm * np.sign(u) * np.maximum(np.asarray(X) @ (omega.T / np.linalg.norm(omega, axis=1)), 0)
    mean = drawn @ share / norm
    np.testing.assert_allclose(mean, Prediction(X)(mu, flow), rtol=1e-12)
    variance = (drawn**2) @ share / norm - mean**2
    assert np.all(variance <= (norm * np.linalg.norm(X, axis=1)) ** 2)


@pytest.mark.slow
def test_path_norms_of_other_networks():
    """Heights, optimal outer weights (there the total variation), several outputs, signed measures."""
    circle, height = CIRCLE.sample(jr.key(2), 5), jr.normal(jr.key(3), (5,))
    pairs = PropagationOfChaos(Risk(RELU, X, Y), CIRCLE)
    mu = Particles(circle, MASSES, {"H": height})
    np.testing.assert_allclose(PathNorm()(mu, pairs), MASSES @ jnp.abs(height), rtol=1e-12)
    reduced = Wasserstein(ReducedRisk(ReLU(), X, Y, 0.1), CIRCLE)
    variation = MASSES @ jnp.abs(reduced.energy.outer_weights(mu))
    np.testing.assert_allclose(PathNorm()(mu, reduced), variation, rtol=1e-12)
    two = Wasserstein(Risk(Weighted(ReLU(), outputs=2), X, X), mf.domains.Euclidean(4))
    np.testing.assert_allclose(PathNorm()(Particles([[3.0, 4.0, 0.0, 2.0]]), two), 10, rtol=1e-12)
    signed = Wasserstein(Risk(SignedFeatures(ReLU()), X, Y), mf.domains.Signed(CIRCLE))
    points = jnp.concatenate([jnp.sign(height)[:, None], circle], axis=1)
    np.testing.assert_allclose(PathNorm()(Particles(points, MASSES), signed), 1, rtol=1e-12)


@pytest.mark.slow
def test_the_path_norm_falls_to_its_penalty():
    """Under lam/2 int u^2 + |omega|^2 ReLU neurons end balanced, where the penalty is lam times the norm."""
    flow = Wasserstein(Risk(RELU, X, Y, 0.02), SPACE)
    last = end(flow, Particles(jr.normal(jr.key(7), (32, 3))), 400.0, 0.05).measure
    half = 0.5 * float(last.integrate(jnp.sum(last.points**2, axis=1)))
    assert float(PathNorm()(last, flow)) == pytest.approx(half, rel=1e-6)


# --- Symmetries

FLIPS = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]]])
QUARTERS = jnp.stack([jnp.linalg.matrix_power(jnp.array([[0.0, -1.0], [1.0, 0.0]]), k) for k in range(4)])


@pytest.mark.slow
@pytest.mark.parametrize("group", [FLIPS, QUARTERS], ids=["flips", "rotations"])
def test_symmetrized_features_are_a_symmetrized_measure(group):
    """Survey 2.1: M particles move as |G| M do under plain features, and have less risk."""
    images = lambda points: jnp.concatenate([points @ g for g in group])
    inputs, targets = images(X), jnp.tile(jnp.sum(X**2, axis=1), len(group))
    mu = Particles(CIRCLE.sample(jr.key(8), 5), MASSES)
    plain = Wasserstein(ReducedRisk(Ridge(jnp.tanh, 0.5), inputs, targets, 0.1), CIRCLE)
    few = Wasserstein(
        ReducedRisk(Symmetrized(Ridge(jnp.tanh, 0.5), group), X, targets[: len(X)], 0.1), CIRCLE
    )
    many = Particles(images(mu.points), jnp.tile(MASSES, len(group)) / len(group))
    np.testing.assert_allclose(few.energy(mu), plain.energy(many), rtol=1e-11)
    assert float(few.energy(mu)) < float(plain.energy(mu))
    ends = [end(flow, start, 1.0, 0.1).measure.points for flow, start in ((few, mu), (plain, many))]
    assert float(jnp.max(jnp.abs(ends[0] - mu.points))) > 1e-2
    np.testing.assert_allclose(images(ends[0]), ends[1], rtol=1e-9, atol=1e-11)
    says = few.energy.predictor(mu, few.energy.outer_weights(mu))
    np.testing.assert_allclose(says(inputs), jnp.tile(says(X), len(group)), rtol=1e-12)


def test_a_grid_of_symmetrized_features():
    """The density of few cells has the risk of the symmetrized one."""
    grid = Grid.from_density(CIRCLE, 16, lambda p: 1.5 + p[1])
    mirrored = grid.with_weights(0.5 * (grid.weights + grid.weights[::-1]))
    inputs, y = jnp.concatenate([X, X * jnp.array([1.0, -1.0])]), jnp.cos(X[:, 0])
    even = Symmetrized(ReLU(0.3), FLIPS)
    np.testing.assert_allclose(
        ReducedRisk(even, X, y, 0.1)(grid),
        ReducedRisk(ReLU(0.3), inputs, jnp.tile(y, 2), 0.1)(mirrored),
        rtol=1e-10,
    )
