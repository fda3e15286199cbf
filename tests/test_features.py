"""Feature maps: values against NumPy, derivatives against differences, kinks and coincident points."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax.features import RBF, CircleModes, Function, ReLU, Ridge, Symmetrized, Weighted
from mfjax.testing import check_feature_map

TORUS = mf.domains.Torus(2, 4.0)
MODES = CircleModes([0.3, 0.2, 0.0, 0.1])
POINTS = jr.uniform(jr.key(0), (4, 2), minval=-1.9, maxval=1.9)
FLIPS = jnp.stack([jnp.eye(2), jnp.diag(jnp.array([1.0, -1.0]))])
INPUTS = jr.uniform(jr.key(1), (5, 2), minval=-1.9, maxval=1.9)


def product(omega, x):
    return jnp.cos(omega @ x) * omega[0]


# Each map beside one of other parameters, which must share its program.
MAPS = {
    "relu": (ReLU(0.0), ReLU(0.5)),
    "relu, no bias": (ReLU(), ReLU()),
    "relu, circle": (ReLU(0.1, circle=True), ReLU(0.5, circle=True)),
    "tanh": (Ridge(jnp.tanh, bias=0.1), Ridge(jnp.tanh, bias=-0.1)),
    "gelu": (Ridge(jax.nn.gelu), Ridge(jax.nn.gelu, 1.0)),
    "laplace": (RBF(TORUS, scale=2.0, amplitude=8.0), RBF(TORUS, scale=0.5)),
    "gaussian": (RBF(TORUS, scale=1.0, profile="gaussian"), RBF(TORUS, scale=0.9, profile="gaussian")),
    "function": (Function(product), Function(product)),
    "symmetrized": (Symmetrized(Ridge(jnp.tanh, 0.1), FLIPS), Symmetrized(Ridge(jnp.tanh, 0.2), FLIPS[::-1])),
}


@pytest.mark.parametrize("name", MAPS)
def test_generic(name, dtype):
    features, other = MAPS[name]
    check_feature_map(features, POINTS.astype(dtype), INPUTS.astype(dtype), variants=[other])


@pytest.mark.parametrize("name", ["relu", "laplace"])
def test_generic_with_an_outer_weight(name):
    points = jnp.concatenate([jnp.array([[1.0], [-2.0], [0.0], [0.5]]), POINTS], axis=1)
    check_feature_map(Weighted(MAPS[name][0]), points, INPUTS)


def test_generic_modes():
    check_feature_map(MODES, POINTS, MODES.inputs())


def test_relu_and_its_kink():
    omega, x = np.asarray(POINTS), np.asarray(INPUTS)
    np.testing.assert_allclose(ReLU(0.5).matrix(POINTS, INPUTS), np.maximum(x @ omega.T + 0.5, 0), rtol=1e-13)
    np.testing.assert_array_equal(jax.grad(ReLU())(jnp.zeros(2), jnp.ones(2)), [0, 0])


@pytest.mark.parametrize(
    ("profile", "shape"), [("laplace", lambda r: -r), ("gaussian", lambda r: -(r**2) / 2)]
)
def test_rbf_depends_on_the_wrapped_distance(profile, shape):
    features = RBF(TORUS, scale=0.7, amplitude=8.0, profile=profile)
    shifts = np.array([[4 * i, 4 * j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    gap = np.asarray(POINTS)[None, :, None] - np.asarray(INPUTS)[:, None, None] + shifts
    nearest = np.linalg.norm(gap, axis=-1).min(-1)
    np.testing.assert_allclose(features.matrix(POINTS, INPUTS), 8 * np.exp(shape(nearest / 0.7)), rtol=1e-12)


def test_modes_make_the_population_kernel():
    angle = jnp.array([0.3, 2.0, -1.0])
    matrix = MODES.matrix(jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1), MODES.inputs())
    gap = np.subtract.outer(angle, angle)
    expected = 0.3 + 2 * (0.2 * np.cos(gap) + 0.1 * np.cos(3 * gap))
    np.testing.assert_allclose(matrix.T @ matrix / len(MODES.inputs()), expected, rtol=1e-12)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ridge(3.0), "sigma must be a function"),
        (lambda: ReLU(np.inf), "bias must be finite"),
        (lambda: ReLU([1.0, 2.0]), "bias must be a scalar"),
        (lambda: RBF(None, scale=1.0), "torus must be a domains.Torus or another flat domain, got NoneType"),
        (lambda: RBF(TORUS, scale=0.0), "scale must be greater than 0"),
        (lambda: RBF(TORUS, scale=1.0, profile="cauchy"), "profile must be"),
        (lambda: Function("phi"), "function must be callable"),
        (lambda: CircleModes([1.0]), "coefficients must be a vector"),
        (lambda: CircleModes([1.0, -1.0]), "non-negative"),
        (lambda: Symmetrized(Ridge(jnp.tanh), jnp.eye(2)), r"matrices \(G, k, k\), got shape \(2, 2\)"),
        (lambda: Symmetrized(Ridge(jnp.tanh), FLIPS[1:]), "must hold the identity"),
        (lambda: Symmetrized(Ridge(jnp.tanh), [[[0.0]]]), "must hold the identity"),
        (lambda: Symmetrized(Ridge(jnp.tanh), [[[1.0]], [[2.0]]]), "that of 1 and 1 is missing"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 700])
@pytest.mark.parametrize("circle", [False, True])
def test_a_program_may_hold_the_particles(count, circle):
    """Constants inside jit: their values decide what is computed, and are no tracers."""
    mu = mf.measures.Particles(mf.domains.Sphere(1).sample(jr.key(0), count))
    x = jr.normal(jr.key(1), (500, 2))
    value = lambda lam: mf.energies.ReducedRisk(ReLU(0.5, circle=circle), x, x[:, 0], lam).solve(mu).value
    np.testing.assert_allclose(jax.jit(value)(0.1), value(0.1), rtol=1e-9)
