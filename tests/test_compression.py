"""Data compressed by empirical interpolation, against all data: values, gradients, bounds, runs, refusals."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._numerics.operators import Combined, Dense
from mfjax.features import RBF, Function, ReLU, Ridge, Weighted
from mfjax.outer import Cholesky, ConjugateGradient
from mfjax.regularizers import Quadratic
from mfjax.testing import check_energy, finished

CIRCLE, LINE, TORUS = mf.domains.Sphere(1), mf.domains.Torus(1), mf.domains.Torus(2)
# (features, domain, law of the inputs, tolerance): smooth ones to nearly rounding, kinks to what they allow.
CASES = {
    "gaussian, 1-torus": (RBF(LINE, scale=0.07, profile="gaussian"), LINE, jr.uniform, 1e-9),
    "gaussian, 2-torus": (RBF(TORUS, scale=0.12, profile="gaussian"), TORUS, jr.uniform, 1e-3),
    "tanh": (Ridge(jnp.tanh), CIRCLE, jr.normal, 1e-7),
    "relu": (ReLU(), CIRCLE, jr.normal, 1e-3),
}


def setting(name, dtype="float64", n=500):
    """(features, domain, x, y, data masses, tolerance)."""
    features, domain, law, tolerance = CASES[name]
    x = law(jr.key(0), (n, 1 if domain is LINE else 2))
    noise = 0.1 * jr.normal(jr.key(5), (n,))
    y = jnp.mean(features.matrix(domain.sample(jr.key(1), 40), x), axis=1) + noise
    masses = jr.uniform(jr.key(2), (n,)) * (jnp.arange(n) % 7 > 0) / n
    return features, domain, x.astype(dtype), y.astype(dtype), masses.astype(dtype), tolerance


def both(name, lam=1e-2, dtype="float64", outer=None):
    """(the compressed data, their reduced risk, that of all data, domain)."""
    features, domain, x, y, masses, tolerance = setting(name, dtype)
    tolerance = max(tolerance, 1e-5) if dtype == "float32" else tolerance
    small = mf.compress(features, x, y, domain, tolerance=tolerance, data_weights=masses)
    risk = lambda phi, x, y, p: mf.energies.ReducedRisk(
        phi, x, y, lam, Quadratic(0.5), data_weights=p, outer=outer
    )
    return small, risk(*parts(small)), risk(features, x, y, masses), domain


def parts(small):
    return small.features, small.x, small.y, small.data_weights


def measure(domain, dtype="float64", m=60):
    masses = jr.uniform(jr.key(3), (m,)) / m
    return mf.measures.Particles(domain.sample(jr.key(4), m).astype(dtype), masses.astype(dtype))


@pytest.mark.slow
def test_the_bound_has_a_gradient_where_a_feature_is_zero_at_all_data():
    x, domain = jr.normal(jr.key(1), (40, 2)), mf.domains.Euclidean(2)
    small = mf.compress(Ridge(jnp.tanh), x, x[:, 0], mf.domains.Sphere(1), tolerance=1e-3)
    energy = mf.energies.ReducedRisk(
        small.features,
        small.x,
        small.y,
        1e-2,
        # Not zero there: |u| has a kink at zero.
        regularizer=mf.regularizers.Quadratic(center=1.0),
        data_weights=small.data_weights,
        outer=Cholesky(),
    )
    flow, bound = mf.flows.Wasserstein(energy, domain), mf.observables.CompressionError(small)
    value = lambda points: bound(mf.measures.Particles(points), flow)
    points = 0.5 * jr.normal(jr.key(2), (6, 2)).at[0].set(0.0)
    assert float(small.errors(points)[0]) == 0
    direction, h = jr.normal(jr.key(3), (6, 2)), 1e-6
    difference = (value(points + h * direction) - value(points - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.vdot(jax.grad(value)(points), direction), difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [1e-1, 1e-3])
@pytest.mark.parametrize("name", CASES)
def test_the_reduced_risk_is_that_of_all_data_within_the_bound(name, lam):
    """The bound takes the errors of the features at these very particles: then it is a theorem."""
    small, part, whole, domain = both(name, lam, outer=Cholesky())
    mu = measure(domain)
    eps = jnp.max(small.errors(mu.points))
    flow = mf.flows.Wasserstein(part, domain)
    bound = mf.observables.CompressionError(small)(mu, flow)
    # As that of the features, were theirs the error at these particles.
    known = eqx.tree_at(lambda f: f.energy.features.error, flow, eps)
    np.testing.assert_allclose(mf.observables.CompressionError()(mu, known), bound, rtol=1e-12)
    difference = abs(part(mu) - whole(mu))
    # Rounding of the two values, which hold |y|^2 / lam.
    rounding = 1e-11 * float(whole(mu)) / lam
    assert difference <= bound + rounding
    assert bound < 0.2 * whole(mu)
    gap = jnp.max(jnp.abs(part.outer_weights(mu) - whole.outer_weights(mu)))
    assert gap < 2e3 * eps / lam


@pytest.mark.slow_cases("tanh", "gaussian, 1-torus", "gaussian, 2-torus")
@pytest.mark.parametrize("name", CASES)
def test_errors_are_those_of_the_interpolated_features(name):
    features, domain, x, y, masses, tolerance = setting(name)
    small = mf.compress(features, x, y, domain, tolerance=tolerance, data_weights=masses)
    points = domain.sample(jr.key(9), 300)
    root = jnp.sqrt(masses)[:, None]
    found = small.basis @ small.features.matrix(points, small.x[:-1])
    direct = jnp.linalg.norm(root * features.matrix(points, x) - found, axis=0)
    np.testing.assert_allclose(small.errors(points), direct, rtol=1e-6, atol=1e-14)
    largest = float(jnp.max(jnp.linalg.norm(root * features.matrix(points, x), axis=0)))
    # At points that it has not seen no more than a few times what was asked for.
    assert float(jnp.max(direct)) < 4 * tolerance * largest
    assert float(small.error) <= tolerance * largest * 1.01
    np.testing.assert_allclose(small.basis.T @ small.basis, np.eye(small.rank), atol=1e-12)


@pytest.mark.slow
def test_features_of_finite_rank_are_compressed_to_rounding():
    """Modes up to five on the circle span eleven functions, however many the data."""
    weights = 1 / (1 + jnp.arange(6.0))
    features = Function(
        lambda omega, x: jnp.sum(weights * jnp.cos(jnp.arange(6) * 2 * jnp.pi * (omega[0] - x[0])))
    )
    x = jr.uniform(jr.key(0), (400, 1))
    y = jr.normal(jr.key(1), (400,))
    small = mf.compress(features, x, y, LINE, tolerance=1e-10)
    assert small.rank == 11 and small.x.shape == (12, 14)
    mu = measure(LINE)
    whole = mf.energies.ReducedRisk(features, x, y, 1e-2)
    part = mf.energies.ReducedRisk(*parts(small)[:3], 1e-2, data_weights=small.data_weights)
    # Noise that no feature fits is part of the value.
    np.testing.assert_allclose(part(mu), whole(mu), rtol=1e-12)
    np.testing.assert_allclose(part.outer_weights(mu), whole.outer_weights(mu), rtol=1e-9)


@pytest.mark.slow
def test_a_datum_in_two_halves_changes_nothing():
    features, domain, x, y, masses, tolerance = setting("tanh")
    mu = measure(domain)
    value = lambda *data: mf.energies.ReducedRisk(
        *parts(
            small := mf.compress(
                features, data[0], data[1], domain, tolerance=tolerance, data_weights=data[2]
            )
        )[:3],
        1e-2,
        data_weights=small.data_weights,
    )(mu)
    twice = value(jnp.concatenate([x, x]), jnp.concatenate([y, y]), jnp.concatenate([masses, masses]) / 2)
    np.testing.assert_allclose(twice, value(x, y, masses), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["gaussian, 2-torus", "relu"])
def test_compressed_data_make_an_energy(name, dtype):
    _, part, _, domain = both(name, dtype=dtype)
    variants = [eqx.tree_at(lambda e: e.lam, part, jnp.asarray(0.3, dtype))]
    check_energy(part, measure(domain, dtype), variants=variants)


@pytest.mark.slow_cases("outer1", "outer0")
@pytest.mark.parametrize("outer", [Cholesky(), ConjugateGradient(rank=40), None])
def test_solvers_agree(outer):
    _, part, _, domain = both("gaussian, 2-torus", outer=outer)
    _, exact, _, _ = both("gaussian, 2-torus", outer=Cholesky())
    mu = measure(domain, m=300)
    np.testing.assert_allclose(part(mu), exact(mu), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian, 1-torus", "tanh"])
def test_runs_stay_together(name):
    """Variable projection of all data and of the compressed ones, for two values of lam."""
    small, part, whole, domain = both(name)
    mu = measure(domain)

    for lam in (1e-1, 1e-2):
        flow = lambda energy, lam=lam: mf.flows.Wasserstein(
            eqx.tree_at(lambda risk: risk.lam, energy, jnp.asarray(lam)), domain
        )
        ends, values = zip(
            *(
                finished(flow(e), mu, mf.steppers.Euler(1e-2), steps=100, save_every=100)
                for e in (part, whole)
            ),
            strict=True,
        )
        near = 1e5 * float(small.error)
        np.testing.assert_allclose(values[0]["energy"], values[1]["energy"], rtol=near)
        np.testing.assert_allclose(ends[0].points, ends[1].points, atol=near)


@pytest.mark.slow
def test_risk_and_two_timescales_take_compressed_data():
    features, domain, x, y, masses, tolerance = setting("tanh")
    small = mf.compress(features, x, y, domain, tolerance=tolerance, data_weights=masses)
    mu = mf.measures.Particles(
        jnp.concatenate([jr.normal(jr.key(1), (60, 1)), measure(domain).points], axis=1)
    )
    all_data = mf.energies.Risk(Weighted(features), x, y, 1e-3, data_weights=masses)
    few = mf.energies.Risk(
        Weighted(small.features), *parts(small)[1:3], 1e-3, data_weights=small.data_weights
    )
    np.testing.assert_allclose(few(mu), all_data(mu), rtol=1e-6)
    # Across the circle, where no features were looked at, interpolants have other slopes.
    omega = mu.points[:, 1:]
    along = lambda energy: jnp.sum(
        energy.gradient_field(mu)[:, 1:] * omega[:, ::-1] * jnp.array([-1, 1]), axis=1
    )
    np.testing.assert_allclose(along(few), along(all_data), atol=1e-5)
    np.testing.assert_allclose(few.gradient_field(mu)[:, 0], all_data.gradient_field(mu)[:, 0], atol=1e-6)
    # The features of the compressed data evaluated one by one are those of their operator.
    operator = small.features.operator(mu.points[:, 1:], small.x, small.data_weights)
    one_by_one = jax.vmap(lambda c: jax.vmap(lambda p: small.features(p, c))(mu.points[:, 1:]))(small.x)
    np.testing.assert_allclose(operator.matrix(), one_by_one, atol=1e-12)


@pytest.mark.slow
def test_predictions_at_new_inputs():
    small, part, whole, domain = both("gaussian, 2-torus", 1e-3)
    mu, new = measure(domain), jr.uniform(jr.key(20), (50, 2))
    coefficients = small.inputs(new)
    predicted = mf.observables.Prediction(coefficients)(mu, mf.flows.Wasserstein(part, domain))
    np.testing.assert_allclose(predicted, whole.predict(mu, new), atol=2e-3)
    np.testing.assert_allclose(part.predict(mu, coefficients), predicted, rtol=1e-9)
    with pytest.raises(ValueError, match=r"Compressed\.inputs"):
        part.predict(mu, new)
    with pytest.raises(ValueError, match=r"shape \(B, 2\)"):
        small.inputs(jnp.zeros((3, 1)))


def test_products_with_combined_rows():
    left, inside = jr.normal(jr.key(0), (7, 5)), jr.normal(jr.key(1), (5, 9))
    operator, matrix = Combined(left, Dense(inside)), left @ inside
    assert operator.shape == (7, 9) and operator.fits
    v, alpha = jr.normal(jr.key(2), (9,)), jr.normal(jr.key(3), (7,))
    index = jnp.array([4, 0])
    for found, expected in [
        (operator.output(v), matrix @ v),
        (operator.scores(alpha), alpha @ matrix),
        (operator.matrix(), matrix),
        (operator.rows(index), matrix[index]),
        (operator.columns(index), matrix[:, index]),
        (operator.gram(), matrix.T @ matrix),
    ]:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_refusals():
    features, domain, x, y, _, _ = setting("relu")
    with pytest.raises(ValueError, match=r"not reached.*more points"):
        mf.compress(features, x, y, domain.sample(jr.key(0), 40), tolerance=1e-6)
    with pytest.raises(ValueError, match="double precision"):
        mf.compress(
            *setting("tanh", "float32")[:1], *setting("tanh", "float32")[2:4], domain, tolerance=1e-12
        )
    with pytest.raises(ValueError, match="tolerance must be greater than 0"):
        mf.compress(features, x, y, domain, tolerance=0.0)
    with pytest.raises(ValueError, match="T >= 4"):
        mf.compress(features, x, y, jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="cannot be applied"):
        mf.compress(features, x, y, mf.domains.Sphere(2))
    with pytest.raises(ValueError, match="not all zero"):
        mf.compress(Function(lambda omega, x: 0.0 * x[0]), x, y, domain)
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda y: mf.compress(features, x, y, domain).y)(y)
    tanh = Weighted(Ridge(jnp.tanh))
    small = mf.compress(tanh, x, y, jr.normal(jr.key(0), (400, 3)), tolerance=0.1)
    huber = mf.energies.Risk(small.features, small.x, small.y, loss=mf.losses.Huber(0.1))
    with pytest.raises(ValueError, match="those of the squared loss, got Huber"):
        huber(mf.measures.Particles(jr.normal(jr.key(1), (5, 3))))
    flow = mf.flows.Wasserstein(mf.energies.ReducedRisk(features, x, y, 1e-2), domain)
    # As users meet it, whose calls no annotation checks.
    with pytest.raises(ValueError, match=r"what mfjax\.compress returned, got float"):
        mf.observables.CompressionError.__check_init__(SimpleNamespace(compressed=0.1))
    sine = mf.compress(Weighted(Ridge(jnp.sin)), x, y, jr.normal(jr.key(0), (400, 3)), tolerance=0.3)
    reduced = mf.energies.ReducedRisk(small.features, small.x, small.y, 1e-2, data_weights=small.data_weights)
    other = mf.flows.Wasserstein(reduced, mf.domains.Euclidean(3))
    mu = mf.measures.Particles(jr.normal(jr.key(1), (5, 3)))
    mf.observables.CompressionError(small)(mu, other)
    with pytest.raises(ValueError, match="features of another"):
        mf.observables.CompressionError(sine)(mu, other)
    with pytest.raises(ValueError, match=r"mfjax\.compress, got Quadratic and ReLU"):
        mf.observables.CompressionError()(measure(domain), flow)
