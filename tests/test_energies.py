"""Energies: value, potential and first variation of one functional, and the algebra of energies."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import mpmath
import numpy as np
import pytest

import mfjax as mf
from mfjax.energies import (
    MMD,
    Blob,
    Entropy,
    Interaction,
    PopulationReducedRisk,
    PorousMedium,
    Potential,
    PowerDivergence,
    Quantization,
    ReducedRisk,
    Risk,
    Spacings,
)
from mfjax.energies.pairs import Marginal, Unreduced
from mfjax.features import RBF, ReLU, Ridge, Weighted
from mfjax.measures import Grid, Particles
from mfjax.regularizers import Quadratic
from mfjax.testing import check_energy, check_traces

CIRCLE, TORUS = mf.domains.Sphere(1), mf.domains.Torus(2, 4.0)
OTHER = mf.domains.Torus(1, 3.0)
TANH = Ridge(jnp.tanh)
MASSES = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25])


def particles(dtype="float64", domain=CIRCLE):
    return Particles(domain.sample(jr.key(1), 5, dtype), MASSES)


def data(n=9, dtype="float64", outputs=None):
    x = jr.normal(jr.key(2), (n, 2), dtype)
    direction = jnp.array([1.0, 0.5] if outputs is None else [[1.0, -0.3, 0.2], [0.5, 1.0, 0.7]], dtype)
    return x, jnp.sin(x @ direction[..., :outputs]) + 0.3


def labels(dtype):
    x, y = data(dtype=dtype)
    return x[:, :1], jnp.where(y > 0.3, 1.0, -1.0)


def signs(dtype):
    x, y = data(dtype=dtype, outputs=3)
    return x, jnp.where(y > 0.3, 1.0, -1.0)


def classes(dtype):
    x, y = data(dtype=dtype, outputs=3)
    return x, jnp.argmax(y, axis=1)


def rows(dtype):
    """Probabilities of three classes."""
    return jax.nn.softmax(2 * data(dtype=dtype, outputs=3)[1])


def length(f, y):
    return jnp.sqrt(1 + jnp.sum((f - y) ** 2))


class Curves(mf.features.FeatureMap):
    """A neuron with three outputs, which are no products."""

    def __call__(self, omega, x):
        return jnp.stack([jnp.sin(omega @ x), jnp.cos(omega[0] - x[1]), omega[1] * x[0] ** 2])


def reduced(features=TANH, n=9, dtype="float64", lam=1e-2, center=0.0, outputs=None, **options):
    return ReducedRisk(features, *data(n, dtype, outputs), lam=lam, regularizer=Quadratic(center), **options)


def population(kernel, lam, dtype="float64", center=0.0):
    return PopulationReducedRisk(kernel, target(dtype), lam, Quadratic(center))


def target(dtype="float64"):
    return Particles(CIRCLE.sample(jr.key(3), 4, dtype), [0.4, 0.1, 0.3, 0.2])


def several(dtype="float64"):
    """A teacher with three outputs."""
    return target(dtype).with_marks(u=jr.normal(jr.key(6), (4, 3), dtype))


class Well(eqx.Module):
    depth: jax.Array

    def __call__(self, x):
        return self.depth.astype(x.dtype) * jnp.sum(jnp.cos(2 * x))


MODES = mf.features.CircleModes([1.0, 0.5, 0.2, 0.1])


def pull(x, y):
    return jnp.sin(x[0] + y[0]) + (x @ y) ** 2


def well(depth=1.0):
    return Potential(Well(jnp.asarray(depth)))


# name: (one parameter and a dtype -> an energy, two values of the parameter).
ENERGIES = {
    "reduced risk, biased, M < N": (lambda lam, d: reduced(lam=lam, dtype=d), (1e-2, 1e-1)),
    "reduced risk, unbiased, M < N": (lambda c, d: reduced(center=c, dtype=d), (1.0, 0.5)),
    "reduced risk, biased, N < M": (lambda lam, d: reduced(n=3, lam=lam, dtype=d), (1e-2, 1e-1)),
    "reduced risk, unbiased, N < M": (lambda c, d: reduced(n=3, center=c, dtype=d), (1.0, 0.5)),
    "reduced risk, relu": (lambda b, d: reduced(ReLU(b), center=1.0, dtype=d), (0.5, 0.0)),
    "reduced risk, rbf": (lambda s, d: reduced(RBF(TORUS, scale=s), dtype=d), (2.0, 1.0)),
    "population risk, relu": (lambda lam, d: population(mf.kernels.ArcCosine(), lam, d), (1e-2, 1e-1)),
    "population risk, erf": (lambda c, d: population(mf.kernels.ArcSine(), 0.1, d, c), (1.0, 0.5)),
    "population risk, outer weights of the teacher": (
        lambda lam, d: PopulationReducedRisk(mf.kernels.ArcSine(), several(d), lam, Quadratic(1.0)),
        (0.1, 0.2),
    ),
    "population risk, bumps": (lambda s, d: population(mf.kernels.SmoothedGaussian(s), 0.1, d), (1.0, 0.5)),
    "risk": (
        lambda lam, d: Risk(Weighted(Ridge(jnp.sin)), data()[0][:, :1].astype(d), data()[1], lam),
        (0.1, 0.0),
    ),
    "risk, huber": (
        lambda delta, d: Risk(
            Weighted(Ridge(jnp.sin)), data()[0][:, :1].astype(d), data()[1], 0.1, mf.losses.Huber(delta)
        ),
        (0.2, 1.0),
    ),
    "risk, logistic": (
        lambda lam, d: Risk(
            Weighted(Ridge(jnp.sin)), *labels(d), lam, loss=mf.losses.Logistic(), data_weights=jnp.ones(9)
        ),
        (0.1, 0.0),
    ),
    "risk of pairs": (
        lambda lam, d: Unreduced(
            ReducedRisk(Ridge(jnp.sin), data()[0][:, :1].astype(d), data(dtype=d)[1], lam),
            jnp.asarray(2.0, d),
        ),
        (0.1, 0.2),
    ),
    "features of pairs": (lambda depth, d: Marginal(well(depth), 1), (1.0, 0.5)),
    "reduced risk, one column": (lambda lam, d: reduced(lam=lam, dtype=d, outputs=1), (1e-2, 1e-1)),
    "reduced risk, biased, three outputs": (
        lambda lam, d: reduced(lam=lam, dtype=d, outputs=3),
        (1e-2, 1e-1),
    ),
    "reduced risk, unbiased, N < M, three outputs": (
        lambda c, d: reduced(n=3, center=c, dtype=d, outputs=3),
        (1.0, 0.5),
    ),
    "reduced risk, relu, three outputs": (
        lambda b, d: reduced(ReLU(b), center=1.0, dtype=d, outputs=3),
        (0.5, 0.0),
    ),
    "reduced risk, power, three outputs": (
        lambda r, d: ReducedRisk(TANH, *data(dtype=d, outputs=3), 1e-2, mf.regularizers.Power(r)),
        (1.5, 1.7),
    ),
    "reduced risk, iterations, three outputs": (
        lambda lam, d: reduced(lam=lam, dtype=d, outputs=3, outer=mf.outer.ConjugateGradient(1e-13, rank=5)),
        (1e-2, 1e-1),
    ),
    "risk, one column": (
        lambda lam, d: Risk(Weighted(Ridge(jnp.sin), outputs=1), data()[0][:, :1], data(outputs=1)[1], lam),
        (0.1, 0.0),
    ),
    "risk, three outputs": (lambda lam, d: Risk(Curves(), *data(dtype=d, outputs=3), lam), (0.1, 0.0)),
    "risk, huber, three outputs": (
        lambda a, d: Risk(Curves(), *data(dtype=d, outputs=3), 0.1, mf.losses.Huber(a)),
        (0.2, 1.0),
    ),
    "risk, logistic, three outputs": (
        lambda lam, d: Risk(Curves(), *signs(d), lam, mf.losses.Logistic()),
        (0.1, 0.0),
    ),
    "risk, softmax of labels": (
        lambda lam, d: Risk(Curves(), *classes(d), lam, mf.losses.Softmax()),
        (0.1, 0.0),
    ),
    "risk, softmax of rows": (
        lambda lam, d: Risk(Curves(), data(dtype=d)[0], rows(d), lam, mf.losses.Softmax()),
        (0.1, 0.0),
    ),
    "risk, a function of two vectors": (
        lambda lam, d: Risk(Curves(), *data(dtype=d, outputs=3), lam, length),
        (0.1, 0.0),
    ),
    "risk, a second layer": (
        lambda a, d: Risk(
            Curves(), *data(dtype=d), 0.1, layer=mf.energies.SecondLayer(jnp.tanh, [2.0, a, -1.0])
        ),
        (1.0, 0.5),
    ),
    "mmd, gaussian": (lambda s, d: MMD(mf.kernels.Gaussian(s), target(d)), (1.0, 0.5)),
    "mmd, laplace": (lambda s, d: MMD(mf.kernels.Laplace(s), target(d)), (1.0, 0.5)),
    "mmd, energy": (lambda s, d: MMD(mf.kernels.Distance(s), target(d)), (1.0, 0.5)),
    "mmd, torus": (lambda s, d: MMD(mf.kernels.Gaussian(s, TORUS), target(d)), (1.0, 0.5)),
    "blobs of slow diffusion": (lambda w, d: Blob(PorousMedium(2.5), w, mf.domains.Euclidean(2)), (0.7, 0.5)),
    "blobs of entropy": (lambda w, d: Blob(Entropy(), w, mf.domains.Euclidean(2)), (0.7, 0.5)),
    "spacings of ultra-fast diffusion": (
        lambda r, d: Spacings(PowerDivergence(density, order=r), CIRCLE),
        (2.0, 1.5),
    ),
    "quantization": (lambda p, d: Quantization(density, CIRCLE, p), (2.0, 1.5)),
    "quantization in a sum": (lambda a, d: a * Quantization(density, CIRCLE) + well(), (0.5, 1.0)),
    "potential": (lambda a, d: well(a), (1.0, 2.0)),
    "sum": (
        lambda a, d: reduced(dtype=d) + a * well() + MMD(mf.kernels.Distance(), target(d)) * 0.5,
        (0.5, 2.0),
    ),
    "entropy on particles": (lambda a, d: well() + a * Entropy(), (0.5, 1.0)),
    # W(x, x) is not constant.
    "reduced risk, modes of a circle": (
        lambda lam, d: ReducedRisk(MODES, MODES.inputs(), jnp.ones(7), lam=lam),
        (1e-2, 1e-1),
    ),
    "interaction": (
        lambda a, d: a * Interaction(pull),
        (0.5, 2.0),
    ),
}


@pytest.mark.slow
def test_points_are_targets_of_equal_masses():
    torus, points = mf.domains.Torus(1), jnp.array([[0.1], [0.4], [0.9]])
    mu, nu = Particles(jnp.array([[0.2], [0.7]])), Particles(points)
    assert float(mf.energies.Sobolev(points, domain=torus)(mu)) == float(
        mf.energies.Sobolev(nu, domain=torus)(mu)
    )
    risk = lambda teacher: float(PopulationReducedRisk(mf.kernels.ArcSine(), teacher, 0.1)(mu))
    assert risk(points) == risk(nu)


@pytest.mark.slow_cases(
    "sum",
    "blobs of entropy",
    "reduced risk, biased, three outputs",
    "mmd, gaussian",
    "risk, logistic",
    "risk",
    "risk, a second layer",
    "quantization",
    "quantization in a sum",
    "spacings of ultra-fast diffusion",
    "reduced risk, power, three outputs",
    "reduced risk, iterations, three outputs",
    "reduced risk, one column",
    "population risk, outer weights of the teacher",
    "population risk, erf",
    "population risk, relu",
    "reduced risk, biased, M < N",
    "reduced risk, biased, N < M",
    "reduced risk, relu",
    "reduced risk, rbf",
    "population risk, bumps",
    "risk, huber",
    "risk of pairs",
    "features of pairs",
    "mmd, torus",
    "reduced risk, unbiased, N < M",
    "reduced risk, modes of a circle",
    "mmd, laplace",
    "reduced risk, unbiased, M < N",
)
@pytest.mark.parametrize("name", ENERGIES)
def test_generic(name):
    make, values = ENERGIES[name]
    energy, *variants = [make(value, "float64") for value in values]
    check_energy(energy, particles(), variants=variants)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["risk", "sum"])
def test_generic_single_precision(name):
    make, values = ENERGIES[name]
    check_energy(make(values[0], "float32"), particles("float32"))


@pytest.mark.slow_cases("reduced risk, power, three outputs-float64-float32")
@pytest.mark.core
@pytest.mark.parametrize(("data", "measure"), [("float64", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("name", ENERGIES)
def test_the_dtype_is_that_of_the_measure(name, data, measure):
    make, values = ENERGIES[name]

    def found(mu):
        energy = make(values[0], data)
        solution = energy.solve(mu)
        many = energy.first_variation(mu, solution), energy.gradient_field(mu, solution)
        inside = None
        if (dual := energy.dual(mu)) is not None:
            inside = dual.start, dual.potential(dual.start), dual.conjugate(dual.start)
        return solution.value, solution.potential(mu.points[0]), solution.outer_weights, many, inside

    shapes = jax.eval_shape(found, particles(measure))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(measure)}


@pytest.mark.parametrize("kind", ["potential", "interaction"])
def test_functions_that_close_over_another_precision(kind):
    wide = jnp.asarray(0.3, jnp.float64)
    energy = Potential(lambda x: wide * x[0] ** 2)
    if kind == "interaction":
        energy = Interaction(lambda x, y: wide * jnp.sum((x - y) ** 2))
    mu = particles("float32")
    solution = energy.solve(mu)
    found = solution.value, solution.potential(mu.points[0]), energy.gradient_field(mu, solution)
    assert {array.dtype for array in (*found, energy.first_variation(mu, solution))} == {mu.dtype}


def density(x):
    return (1 + 0.5 * x[0]) / (2 * jnp.pi)


@pytest.mark.parametrize(
    "energy",
    [
        PowerDivergence(density, order=2, scale=0.5),
        PowerDivergence(density, order=1.5),
        PorousMedium(2.5),
        0.5 * Entropy() + well(),
    ],
    ids=["power 2", "power 1.5", "porous medium", "entropy and potential"],
)
def test_generic_on_a_grid(energy):
    check_energy(energy, Grid.from_density(CIRCLE, 6, lambda x: 1 + 0.3 * x[1]))


@pytest.mark.slow
def test_reduced_risk_against_numpy():
    """Value and outer weights from the normal equations (G diag(m) + lam) u = Phi^T y / N + lam c."""
    mu = particles()
    for n in (9, 3):
        for c in (0.0, 1.0):
            energy, (x, y) = reduced(n=n, center=c), map(np.asarray, data(n))
            phi, m, lam = np.tanh(x @ np.asarray(mu.points).T), np.asarray(mu.weights), 1e-2
            u = np.linalg.solve(phi.T @ phi / n * m + lam * np.eye(5), phi.T @ y / n + lam * c)
            value = np.mean((phi @ (m * u) - y) ** 2) / (2 * lam) + m @ (u - c) ** 2 / 2
            np.testing.assert_allclose(energy.outer_weights(mu), u, rtol=1e-9)
            np.testing.assert_allclose(energy(mu), value, rtol=1e-10)
            potential = jax.vmap(energy.potential(mu))(mu.points)
            np.testing.assert_allclose(potential, -(u**2 - c**2) / 2, rtol=1e-8)
            np.testing.assert_allclose(energy.predict(mu, jnp.asarray(x)), phi @ (m * u), rtol=1e-9)


def test_data_masses_are_repetitions():
    x, y = data(4)
    twice = jnp.array([0, 0, 1, 2, 3, 3, 3])
    masses = jnp.array([2, 1, 1, 3]) / 7
    weighted = ReducedRisk(TANH, x, y, 1e-2, data_weights=masses)
    value = eqx.filter_jit(lambda energy: energy.solve(particles()).value)
    np.testing.assert_allclose(
        value(weighted), value(ReducedRisk(TANH, x[twice], y[twice], 1e-2)), rtol=1e-12
    )


def test_mmd_against_numpy():
    mu, nu = particles(), target()
    both = np.concatenate([mu.points, nu.points])
    signed = np.concatenate([mu.weights, -nu.weights])
    distance = np.linalg.norm(both[:, None] - both[None], axis=-1)
    for kernel, matrix in (
        (mf.kernels.Gaussian(0.7), np.exp(-(distance**2) / (2 * 0.49))),
        (mf.kernels.Laplace(0.7), np.exp(-distance / 0.7)),
        (mf.kernels.Distance(0.7), -distance / 0.7),
    ):
        np.testing.assert_allclose(MMD(kernel, nu)(mu), signed @ matrix @ signed / 2, rtol=1e-12)
        assert abs(float(MMD(kernel, nu)(nu))) < 1e-15


def test_masses_of_a_conditional_kernel_are_compared_inside_jit():
    """Constants of a compiled function have values there, too; `target` has the mass of `particles`."""
    energy, mu = MMD(mf.kernels.Distance(), target()), particles()
    flow = mf.flows.Wasserstein(energy, CIRCLE)
    jax.jit(lambda dt: flow.init(mu).measure.points * dt)(1.0)
    heavy = Particles(mu.points, 2 * mu.weights)
    with pytest.raises(ValueError, match="compares measures of one mass"):
        jax.jit(lambda dt: flow.init(heavy).measure.points * dt)(1.0)


def test_a_signed_target_moves_a_measure_of_one_sign():
    """1/2 |mu - nu|^2 with nu of both signs against numpy; the particles keep their sign."""
    nu = Particles(jnp.array([[1.0, 0.2], [-1.0, 0.9]]), [0.7, 0.3])
    mu = Particles(jnp.array([[1.0, 0.0], [1.0, 0.4]]))
    energy = MMD(mf.kernels.SignedKernel(mf.kernels.Gaussian(0.5)), nu)
    z, w = np.array([0.0, 0.4, 0.2, 0.9]), np.array([0.5, 0.5, -0.7, 0.3])
    expected = 0.5 * w @ np.exp(-2 * (z[:, None] - z) ** 2) @ w
    np.testing.assert_allclose(energy(mu), expected, rtol=1e-14)
    flow = mf.flows.Wasserstein(energy, mf.domains.Signed(mf.domains.Euclidean(1)))
    now = flow.evaluate(flow.init(mu))
    np.testing.assert_array_equal(now.tangent.points[:, 0], 0)
    # Away from the negative atom on the right.
    assert np.all(now.tangent.points[:, 1] < 0)


def test_risk_of_weighted_features_is_the_risk_of_the_network():
    x, y = data()
    u, mu = jnp.array([1.0, -2.0, 0.5, 0.0, 1.5]), particles()
    neurons = Particles(jnp.concatenate([u[:, None], mu.points], axis=1), mu.weights)
    network = np.tanh(np.asarray(x) @ np.asarray(mu.points).T) @ np.asarray(mu.weights * u)
    squares = np.sum(np.asarray(neurons.points) ** 2, axis=1)
    expected = np.mean((network - np.asarray(y)) ** 2) / 2 + 0.05 * np.asarray(mu.weights) @ squares
    np.testing.assert_allclose(Risk(Weighted(TANH), x, y, 0.1)(neurons), expected, rtol=1e-12)


def test_the_outputs_of_a_population_risk_are_those_of_its_teacher():
    """Each a risk of its own, for the same measure; outer weights of a teacher are masses, of either sign."""
    mu, nu, kernel = particles(), several(), mf.kernels.ArcSine()
    whole = PopulationReducedRisk(kernel, nu, 0.1, Quadratic(1.0))
    parts = [PopulationReducedRisk(kernel, nu.with_marks(u=u), 0.1, Quadratic(1.0)) for u in nu.marks["u"].T]
    np.testing.assert_allclose(whole(mu), sum(part(mu) for part in parts), rtol=1e-12)
    u = np.stack([part.outer_weights(mu) for part in parts], axis=1)
    np.testing.assert_allclose(whole.outer_weights(mu), u, rtol=1e-11)
    point = jnp.array([0.6, 0.8])
    potentials = [part.potential(mu)(point) for part in parts]
    np.testing.assert_allclose(whole.potential(mu)(point), sum(potentials), rtol=1e-11)
    positive = nu.with_marks(u=jnp.array([2.0, 0.5, 1.0, 3.0]))
    masses = Particles(nu.points, nu.weights * positive.marks["u"])
    marked, plain = (PopulationReducedRisk(kernel, teacher, 0.1)(mu) for teacher in (positive, masses))
    np.testing.assert_allclose(marked, plain, rtol=1e-13)


@pytest.mark.slow_cases("square")
@pytest.mark.parametrize("loss", [mf.losses.Square(), mf.losses.Softmax()], ids=["square", "softmax"])
def test_neurons_with_three_outer_weights(loss):
    """Omega = R^c x Theta: against numpy, and all that an energy promises."""
    x, y = classes("float64")
    y = y if isinstance(loss, mf.losses.Softmax) else jax.nn.one_hot(y, 3)
    mu = Particles(jr.normal(jr.key(4), (5, 5)), MASSES)
    energy = Risk(Weighted(TANH, outputs=3), x, y, 0.1, loss)
    u, omega = np.asarray(mu.points[:, :3]), np.asarray(mu.points[:, 3:])
    network = np.tanh(np.asarray(x) @ omega.T) @ (np.asarray(MASSES)[:, None] * u)
    if isinstance(loss, mf.losses.Softmax):
        probabilities = np.exp(network) / np.exp(network).sum(axis=1, keepdims=True)
        fit = -np.mean(np.log(probabilities[np.arange(9), np.asarray(y)]))
    else:
        fit = 0.5 * np.mean(np.sum((network - np.asarray(y)) ** 2, axis=1))
    squares = np.asarray(MASSES) @ np.sum(np.asarray(mu.points) ** 2, axis=1)
    np.testing.assert_allclose(energy(mu), fit + 0.05 * squares, rtol=1e-12)
    np.testing.assert_allclose(energy.predictor(mu)(x), network, rtol=1e-12, atol=1e-14)
    check_energy(energy, mu)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_softmax_of_large_outputs(size, dtype):
    """Value and slope of labels and of rows against 60 digits; the slopes are the gradients of the values."""
    mp = mpmath.mp.clone()
    mp.dps = 60
    loss, outputs = mf.losses.Softmax(), np.asarray([0.3, -1.0, 0.7, 0.7], dtype) * np.asarray(size, dtype)
    exact = [mp.mpf(float(f)) for f in outputs]
    for target in (np.eye(4)[2], np.eye(4)[1], np.full(4, 0.25), 1, 2):
        row = np.eye(4)[target] if np.ndim(target) == 0 else target
        total = mp.log(sum(mp.exp(f - max(exact)) for f in exact)) + max(exact)
        value = float(sum(mp.mpf(float(r)) * (total - f) for r, f in zip(row, exact, strict=True)))
        slope = [float(mp.exp(f - total) - mp.mpf(float(r))) for r, f in zip(row, exact, strict=True)]
        f, y = jnp.asarray(outputs), jnp.asarray(target, dtype)
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(loss(f, y), value, rtol=8 * eps, atol=8 * eps)
        np.testing.assert_allclose(loss.derivative(f, y), slope, atol=8 * eps)
        np.testing.assert_allclose(jax.grad(loss)(f, y), slope, atol=8 * eps)
        assert loss(f, y).dtype == loss.derivative(f, y).dtype == jnp.dtype(dtype)


@pytest.mark.parametrize(
    "two", [2, 2.0, np.float64(2), np.float32(2), np.int64(2), np.array(2.0), jnp.array(2.0)], ids=repr
)
def test_numbers_of_every_kind_scale_from_either_side(two):
    energy, mu = well(), particles()
    for scaled in (two * energy, energy * two):
        np.testing.assert_allclose(scaled(mu), 2 * energy(mu), rtol=1e-7)
        np.testing.assert_allclose(scaled.first_variation(mu), 2 * energy.first_variation(mu), rtol=1e-7)


def test_sums():
    f, g, mu = well(), MMD(mf.kernels.Gaussian(), target()), particles()
    expected = float(f(mu)) + 0.1 * float(g(mu))
    nested = 0.1 * (10 * f + g)
    for total in (f + 0.1 * g, 0.1 * g + f, sum([f, 0.1 * g]), sum([nested]) * 1.0 + 0):
        np.testing.assert_allclose(total(mu), expected, rtol=1e-12)
    point = jnp.array([0.3, 0.2])
    np.testing.assert_allclose(
        nested.potential(mu)(point), f.potential(mu)(point) + 0.1 * g.potential(mu)(point)
    )
    np.testing.assert_allclose((f + reduced()).outer_weights(mu), reduced().outer_weights(mu))


def test_outer_weights_of_two_terms_are_ambiguous():
    both = reduced() + 0.5 * reduced(lam=0.1)
    assert both.solve(particles()).outer_weights is None
    with pytest.raises(ValueError, match="several terms with their own: ReducedRisk, ReducedRisk"):
        both.outer_weights(particles())
    with pytest.raises(ValueError, match="no term that has any"):
        (well() + well()).outer_weights(particles())


FLAT, SEAM = mf.domains.Euclidean(1), mf.domains.Torus(1)
GAUSS, PERIODIC = mf.kernels.Gaussian(0.1), mf.kernels.Gaussian(0.1, SEAM)


@pytest.mark.slow_cases("mmd")
@pytest.mark.parametrize(
    "energy", [lambda k: MMD(k, Particles([[0.95]])), mf.energies.Interaction], ids=["mmd", "interaction"]
)
def test_kernels_know_the_domain_of_the_flow(energy):
    """Across the seam of a torus a kernel of flat space gives no force at all."""
    mu = Particles([[0.05]])
    wrong = [
        GAUSS,
        mf.kernels.Gaussian(0.1, mf.domains.Torus(1, 2.0)),
        mf.kernels.NegativeSobolev(1.5, domain=OTHER),
    ]
    for kernel in wrong:
        with pytest.raises(ValueError, match="pass domain= to the kernel"):
            mf.flows.Wasserstein(0.5 * energy(kernel) + well(), SEAM).init(mu)
    for kernel in (PERIODIC, mf.kernels.NegativeSobolev(1.5), lambda x, y: jnp.cos(2 * jnp.pi * (x - y)[0])):
        mf.flows.Wasserstein(energy(kernel), SEAM).init(mu)
        mf.flows.Wasserstein(energy(kernel), FLAT).init(mu)
    for kernel in (mf.kernels.ArcCosine(), mf.kernels.ArcSine(), mf.kernels.SmoothedGaussian()):
        with pytest.raises(ValueError, match=r"takes distances in flat space.* overrides validate"):
            mf.flows.Wasserstein(energy(kernel), SEAM).init(mu)
        mf.flows.Wasserstein(energy(kernel), FLAT).init(mu)
    # The period may be a swept number.
    jax.jit(lambda L: energy(PERIODIC).validate(mu, mf.domains.Torus(1, L)))(1.0)


@pytest.mark.parametrize(
    "take", [mf.energies.Interaction, mf.kernels.SignedKernel, lambda k: MMD(k, Particles([[0.95]]))]
)
def test_a_class_is_no_kernel(take):
    with pytest.raises(ValueError, match="kernel must be a Kernel or callable"):
        take(mf.kernels.Gaussian)


def test_a_function_that_claims_a_mass_is_taken_as_a_function():
    class Duck:
        conditional = True

        def __call__(self, x, y):
            return jnp.sum(x * y)

    MMD(Duck(), Particles([[0.95]])).validate(Particles([[0.05], [0.1]]))


def test_signed_kernels_know_the_domain_of_the_flow():
    pair, mu = mf.domains.Signed(SEAM), Particles([[1.0, 0.05]])
    with pytest.raises(ValueError, match="pass domain= to the kernel"):
        MMD(mf.kernels.SignedKernel(GAUSS), mu).validate(mu, pair)
    MMD(mf.kernels.SignedKernel(PERIODIC), mu).validate(mu, pair)
    MMD(mf.kernels.SignedKernel(GAUSS), mu).validate(mu, mf.domains.Signed(FLAT))


def test_signed_measures_are_compared_by_their_signed_masses():
    """The energy distance of a measure and its negative is not bounded below; that of equal masses is."""
    pairs = mf.domains.Signed(FLAT)
    at = lambda *signs: Particles(jnp.array([[s, 0.1 * i] for i, s in enumerate(signs)]))
    kernel = mf.kernels.SignedKernel(mf.kernels.Distance())
    with pytest.raises(ValueError, match="measures of one mass, got -1 and a target of 1"):
        MMD(kernel, at(1.0, 1.0)).validate(at(-1.0, -1.0), pairs)
    # Nothing on the whole on both sides.
    MMD(kernel, at(1.0, -1.0)).validate(at(-1.0, 1.0), pairs)
    MMD(mf.kernels.SignedKernel(mf.kernels.Gaussian()), at(1.0, 1.0)).validate(at(-1.0, -1.0), pairs)


@pytest.mark.slow
def test_the_dtype_of_a_discrepancy_is_that_of_the_measure():
    target = Particles(jr.normal(jr.key(0), (30, 2)))
    for size in (20, 4000):
        mu = Particles(jr.normal(jr.key(1), (size, 2), "float32"))
        energy = MMD(mf.kernels.Gaussian(0.5), target)
        solution = energy.solve(mu)
        found = (solution.value, energy.first_variation(mu), solution.potential(mu.points[0]))
        assert {array.dtype for array in found} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_the_potential_of_a_sum_takes_the_ways_of_its_terms():
    """At many points, values and slopes are those of each point; kernels still go by sorting."""
    line = mf.domains.Torus(1)
    mu = Particles(jr.uniform(jr.key(0), (400, 1)))
    energy = 2.0 * MMD(
        mf.kernels.Distance(domain=line), Particles(jr.uniform(jr.key(1), (300, 1)))
    ) + Potential(lambda x: jnp.cos(2 * jnp.pi * x[0]))
    potential, points = energy.solve(mu).potential, jr.uniform(jr.key(2), (500, 1))
    np.testing.assert_allclose(potential.at(points), jax.vmap(potential)(points), rtol=1e-10, atol=1e-12)
    slopes = jax.vmap(jax.grad(potential))(points)
    np.testing.assert_allclose(potential.slopes(points), slopes, rtol=1e-9, atol=1e-10)
    assert "sort" in str(jax.make_jaxpr(potential.at)(points))


@pytest.mark.slow
@pytest.mark.optimized
def test_memory_of_large_measures_is_linear():
    """Rates, forces and their reverse mode hold blocks of rows, less than twice as much at twice the size.

    A dense table, 64 MiB at M = 4096, would hold four times as much.
    """
    energy = MMD(mf.kernels.Gaussian(0.5), Particles(jr.normal(jr.key(0), (64, 2), "float32")))
    points = jr.normal(jr.key(1), (8192, 2), "float32")
    field = lambda x: energy.gradient_field(Particles(x))
    slope = jax.grad(lambda x: jnp.sum(field(x) ** 2))
    held = lambda function, n: (
        jax.jit(function).lower(points[:n]).compile().memory_analysis().temp_size_in_bytes / 2**20
    )
    for function in (field, lambda x: energy.first_variation(Particles(x)), slope):
        half, full = held(function, 4096), held(function, 8192)
        assert half < 64 and full < 2 * half, (half, full)
    # Blocks and one batch agree, the last block incomplete.
    some = Particles(points[:1100])
    batch = jax.vmap(jax.grad(energy.solve(some).potential))(some.points)
    np.testing.assert_allclose(energy.gradient_field(some), batch, rtol=1e-4, atol=1e-6)


def test_a_coefficient_can_be_traced():
    f, g, mu = well(), well(2.0), particles()
    value = lambda c: (f + c * g)(mu)
    np.testing.assert_allclose(jax.grad(value)(0.3), g(mu), rtol=1e-12)
    assert check_traces(value, [(jnp.array(c),) for c in (0.1, 0.2, 3.0)]) == 1


def test_temperature_is_linear_and_absent_without_an_entropy():
    noisy = well() + 0.5 * Entropy() + 0.2 * (Entropy() + well())
    assert float(noisy.temperature) == pytest.approx(0.7)
    assert float((2 * noisy).temperature) == pytest.approx(1.4)
    # A scaled smooth energy is known to be free of noise before any array is computed.
    quiet = 0.1 * well() + np.float64(2) * well()
    assert isinstance(quiet.temperature, float) and quiet.temperature == 0
    assert not mf.flows.Wasserstein(quiet, mf.domains.Euclidean(2)).stochastic


def normal_inputs(n):
    """Nodes and weights of Gauss and Hermite in the plane."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    plane = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    return jnp.asarray(plane), jnp.asarray(np.outer(weights, weights).ravel() / np.sum(weights) ** 2)


BUMP = mf.features.Function(lambda omega, x: jnp.exp(-jnp.sum((omega - x) ** 2) / (2 * 0.8**2)))


@pytest.mark.slow
@pytest.mark.parametrize("center", [0.0, 1.0])
@pytest.mark.parametrize(
    ("kernel", "features", "accuracy"),
    [
        (mf.kernels.ArcSine(), Ridge(jax.scipy.special.erf), 1e-9),
        (mf.kernels.SmoothedGaussian(0.8), BUMP, 1e-12),
    ],
    ids=["erf", "bumps"],
)
def test_population_kernels_are_expectations(kernel, features, accuracy, center):
    """Against data at the nodes of a quadrature; with a particle of no mass, and off the particles."""
    x, masses = normal_inputs(80)
    teacher = Particles(0.5 * jr.normal(jr.key(1), (5, 2)), [0.5, 0.2, 0.1, 0.1, 0.1])
    mu = Particles(0.5 * jr.normal(jr.key(2), (7, 2)), [0.1, 0.2, 0.3, 0.1, 0.1, 0.2, 0.0])
    y = features.matrix(teacher.points, x) @ teacher.weights
    sampled = ReducedRisk(features, x, y, 1e-2, Quadratic(center), data_weights=masses)
    exact = PopulationReducedRisk(kernel, teacher, 1e-2, Quadratic(center))
    np.testing.assert_allclose(exact(mu), sampled(mu), rtol=1e2 * accuracy)
    np.testing.assert_allclose(exact.outer_weights(mu), sampled.outer_weights(mu), atol=1e2 * accuracy)
    np.testing.assert_allclose(exact.gradient_field(mu), sampled.gradient_field(mu), atol=1e3 * accuracy)
    for point in (jnp.array([0.3, -0.9]), jnp.array([0.0, 0.4])):
        np.testing.assert_allclose(
            exact.potential(mu)(point), sampled.potential(mu)(point), atol=1e3 * accuracy
        )


def test_the_arc_sine_of_long_parallel_points():
    """The sine rounds to one: neither the value nor the slope may be NaN."""
    x = 3e3 * jr.normal(jr.key(0), (50, 3), "float32")
    along = jax.vmap(lambda v: mf.kernels.ArcSine()(v, 2 * v))
    assert bool(jnp.all(jnp.abs(along(x) - 1) < 1e-3))
    assert bool(jnp.all(jnp.isfinite(jax.grad(lambda x: jnp.sum(along(x)))(x))))


@pytest.mark.slow
def test_the_population_of_relu_is_that_of_its_modes():
    """The closed form against the Fourier series of the circle, whose dropped modes are small."""
    problem = mf.problems.circle_population(10.0, degree=96)
    teacher = Grid.from_density(CIRCLE, 1024, problem.teacher)
    mu = Particles.sample(CIRCLE, jr.key(0), 9)
    series = problem.risk(0.1, Quadratic(1.0))
    closed = PopulationReducedRisk(mf.kernels.ArcCosine(), teacher, 0.1, Quadratic(1.0))
    np.testing.assert_allclose(closed(mu), series(mu), rtol=1e-5)
    np.testing.assert_allclose(closed.outer_weights(mu), series.outer_weights(mu), rtol=1e-5)
    step = lambda energy: mf.simulate(
        mf.flows.Wasserstein(energy, CIRCLE), mu, stepper=mf.steppers.RK4(0.1), steps=4, save_every=4
    )
    np.testing.assert_allclose(step(closed).final.points, step(series).final.points, atol=1e-4)


def test_derivative_in_the_regularization_strength():
    mu = particles()
    final = lambda lam: reduced(lam=lam)(mu)
    step, value = 1e-6, jax.jit(final)
    difference = (value(0.01 + step) - value(0.01 - step)) / (2 * step)
    np.testing.assert_allclose(jax.jit(jax.grad(final))(0.01), difference, rtol=1e-7)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reduced(lam=-1.0), "lam must be at least 0"),
        (lambda: reduced(lam=np.nan), "lam must be finite"),
        (lambda: ReducedRisk(TANH, jnp.zeros((0, 2)), jnp.zeros(0), 1.0), "N, k >= 1"),
        (lambda: ReducedRisk(TANH, data()[0], jnp.zeros(3), 1.0), "y must have shape \\(9,\\)"),
        (lambda: ReducedRisk(TANH, data()[0], jnp.full(9, jnp.nan), 1.0), "y must be finite"),
        (
            lambda: ReducedRisk(TANH, *data(), 1.0, data_weights=-jnp.ones(9)),
            "data_weights must be non-negative",
        ),
        (lambda: ReducedRisk(TANH, *data(), 1.0, regularizer=abs), "regularizer must be a Regularizer"),
        (lambda: ReducedRisk(jnp.tanh, *data(), 1.0)(particles()), "features must be a FeatureMap"),
        (lambda: reduced()(Particles(jnp.ones((2, 3)))), "cannot be applied to a particle of shape \\(3,\\)"),
        (lambda: MMD(1.0, target()), "kernel must be a Kernel or callable"),
        (lambda: population(1.0, 0.1), "kernel must be a function of two points"),
        (lambda: population(mf.kernels.ArcSine, 0.1), "got the class ArcSine"),
        (lambda: population(ReLU(), 0.1), "got ReLU"),
        (lambda: population(mf.kernels.ArcSine(), 0.0), "lam must be greater than 0"),
        (
            lambda: PopulationReducedRisk(mf.kernels.ArcSine(), jnp.ones(3), 1.0),
            r"teacher must be a measure or points \(K, d\), got",
        ),
        (
            lambda: PopulationReducedRisk(mf.kernels.ArcSine(), target(), 1.0, mf.regularizers.Power(3.0)),
            "needs the regularizer Quadratic, got Power",
        ),
        (lambda: population(mf.kernels.ArcSine(), 0.1)(Particles(jnp.ones((2, 3)))), "teacher has points"),
        (lambda: MMD(mf.kernels.Distance(), "circle"), "points must be numeric"),
        (lambda: MMD(mf.kernels.Distance, target()), r"got the class Distance: write Distance\(...\)"),
        (
            lambda: ReducedRisk(TANH, jnp.ones((3, 2)), jnp.ones(3), 0.1, outer=mf.outer.Cholesky),
            "outer must be a solver of mf.outer, such as",
        ),
        (lambda: MMD(mf.kernels.Distance(), target())(Particles(jnp.ones((2, 3)))), "dimension 2"),
        (lambda: mf.kernels.Gaussian(0.0), "scale must be greater than 0"),
        (lambda: Potential(1.0), "function must be callable"),
        (lambda: well().outer_weights(particles()), "has no outer weights"),
        (lambda: -1.0 * well(), "factor of an energy must be at least 0"),
        (lambda: PowerDivergence(density)(particles()), "no value on Particles"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.wrong_calls
@pytest.mark.parametrize("other", [1, "F", None, jnp.ones(3)])
def test_only_energies_add(other):
    with pytest.raises(TypeError):
        well() + other


@pytest.mark.slow_cases("2.0")
@pytest.mark.parametrize("order", [2.0, 2.5])
def test_derivatives_in_the_order_of_a_power_divergence(order):
    """At order 2 the power is skipped: its derivatives in order and density are those of neighbors."""
    mu = Grid(OTHER, 4, [0.1, 0.4, 0.3, 0.2])
    target = Grid(OTHER, 4, [0.3, 0.2, 0.4, 0.1])
    energy = lambda order, masses: PowerDivergence(target, order=order)(mu.with_weights(masses))
    value = lambda order: energy(order, mu.weights)
    # Closed form: F = 1 / (r - 1) sum_i nu_i q_i^(r - 1), q = nu / mu, a derivative in each argument.
    nu, q = np.asarray(target.weights), np.asarray(target.weights / mu.weights)
    a = order - 1
    terms = nu * q**a
    first = np.sum(terms * (np.log(q) / a - 1 / a**2))
    second = np.sum(terms * (np.log(q) ** 2 / a - 2 * np.log(q) / a**2 + 2 / a**3))
    np.testing.assert_allclose(value(order), terms.sum() / a, rtol=1e-14)
    for derivative in (jax.grad(value), jax.jacfwd(value)):
        np.testing.assert_allclose(derivative(order), first, rtol=1e-12)
    np.testing.assert_allclose(jax.hessian(value)(order), second, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(energy, 1)(order, mu.weights), -(q**order), rtol=1e-12)
    batch = jax.vmap(value)(jnp.array([order, 3.0]))
    np.testing.assert_allclose(batch, [value(order), value(3.0)], rtol=1e-14)


# Predictors


def trained(kind):
    """An energy and a measure, whose network was predicted by hand before there were predictors."""
    x, y = data(9)
    if kind == "risk":
        return mf.energies.Risk(mf.features.Weighted(TANH), x, y), Particles(jr.normal(jr.key(3), (6, 3)))
    features = mf.features.ReLU(bias=0.5) if kind == "circle" else TANH
    return ReducedRisk(features, x, y, 1e-2), particles()


@pytest.mark.slow_cases("reduced")
@pytest.mark.parametrize("kind", ["reduced", "circle", "risk"])
def test_a_predictor_is_the_network_without_its_data(kind, tmp_path):
    energy, mu = trained(kind)
    new = jr.normal(jr.key(8), (13, 2))
    outer = 1.0 if kind == "risk" else energy.outer_weights(mu)
    operator = energy.features.operator(mu.points, new, jnp.ones(13))
    expected = np.asarray(operator.output(mu.weights * outer))
    net = energy.predictor(mu)
    assert np.array_equal(net(new), expected)
    assert np.array_equal(energy.predict(mu, new), expected)
    assert all(leaf.shape[:1] != (9,) for leaf in jax.tree.leaves(net))
    back = mf.energies.Predictor.load(net.save(tmp_path / "new" / "net.npz"), energy.features)
    assert np.array_equal(back(new), expected)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["net.npz"]
    np.testing.assert_allclose(eqx.filter_jit(back)(new), expected, rtol=1e-12, atol=1e-14)
    # Along a direction of all inputs, against a difference.
    total = eqx.filter_jit(lambda x: jnp.sum(jnp.sin(back(x))))
    way = jr.normal(jr.key(9), new.shape)
    difference = (total(new + 1e-6 * way) - total(new - 1e-6 * way)) / 2e-6
    assert float(jnp.sum(jax.grad(total)(new) * way)) == pytest.approx(float(difference), rel=1e-6)


def test_a_predictor_takes_outer_weights_that_move_by_themselves():
    energy, mu = trained("reduced")
    u, new = jnp.arange(5.0), jr.normal(jr.key(8), (4, 2))
    phi = np.tanh(np.asarray(new) @ np.asarray(mu.points).T)
    np.testing.assert_allclose(energy.predictor(mu, u)(new), phi @ (np.asarray(mu.weights) * u), rtol=1e-12)


@pytest.mark.wrong_calls
def test_a_predictor_refuses_other_files_features_and_inputs(tmp_path):
    energy, mu = trained("circle")
    net = energy.predictor(mu)
    path = net.save(tmp_path / "net.npz")
    load = mf.energies.Predictor.load
    with pytest.raises(ValueError, match=r"other features than ReLU: features\.bias is 0\.5 there and"):
        load(path, mf.features.ReLU(bias=0.25))
    with pytest.raises(ValueError, match="must be a FeatureMap"):
        load(path, jnp.tanh)
    np.savez(tmp_path / "other.npz", points=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"other\.npz holds no predictor: it has no weights"):
        load(tmp_path / "other.npz", energy.features)
    (tmp_path / "text.npz").write_text("points, weights")
    with pytest.raises(ValueError, match=r"text\.npz holds no predictor: no \.npz file can be read there"):
        load(tmp_path / "text.npz", energy.features)
    with pytest.raises(ValueError, match=r"none\.npz does not exist"):
        load(tmp_path / "none.npz", energy.features)
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"points of .*net\.npz is in double precision"),
    ):
        load(path, mf.features.ReLU(bias=0.5))
    with pytest.raises(ValueError, match=r"written as \.npz, got 'net\.pkl'"):
        net.save(tmp_path / "net.pkl")
    with pytest.raises(ValueError, match=r"shape \(B, k\).*x\[None\] is one input"):
        net(jnp.ones(2))
    with pytest.raises(ValueError, match="an input of shape"):
        net(jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"\(K, d\) and \(K,\)"):
        mf.energies.Predictor(TANH, mu.points, jnp.ones(4))
