"""Products with features: without a matrix, in tiles, and by it, are one linear map."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mfjax as mf
from mfjax._numerics import operators
from mfjax._numerics.operators.prefix import prefix_sums
from mfjax.features import RBF, ReLU, Ridge

CIRCLE = mf.domains.Sphere(1)


def on_circle(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def close(a, b, dtype, scale=None):
    """Up to rounding of the largest entry, or of `scale`."""
    scale = max(float(jnp.max(jnp.abs(b))), 1e-300) if scale is None else scale
    assert a.dtype == dtype
    np.testing.assert_allclose(a / scale, b / scale, atol=1e-12 if dtype == "float64" else 2e-5)


def windows(points, x, bias, root=None):
    root = jnp.full(len(x), len(x) ** -0.5, x.dtype) if root is None else root
    return operators.Windows(points, x, root, None if bias is None else jnp.asarray(bias, x.dtype))


def check(operator, matrix, dtype, key=0, scale=None):
    """Both products, some rows and columns."""
    n, m = matrix.shape
    assert operator.shape == (n, m)
    v, alpha = jr.normal(jr.key(key), (m,), dtype), jr.normal(jr.key(key + 1), (n,), dtype)
    close(operator.output(v), matrix @ v, dtype, scale)
    close(operator.scores(alpha), alpha @ matrix, dtype, scale)
    v, alpha = jr.normal(jr.key(key), (m, 3), dtype), jr.normal(jr.key(key + 1), (n, 3), dtype)
    close(operator.output(v), matrix @ v, dtype, scale)
    close(operator.scores(alpha), matrix.T @ alpha, dtype, scale)
    index = jnp.array([0, n - 1, n // 2])
    close(operator.rows(index), matrix[index], dtype)
    index = jnp.array([m - 1, 0])
    close(operator.columns(index), matrix[:, index], dtype)
    close(operator.matrix(), matrix, dtype)


@pytest.mark.slow_cases(
    "float32-0.5", "float64-0.5", "float64--0.7", "float32-None", "float64-None", "float64-0.0", "float32-0.0"
)
@pytest.mark.core
@pytest.mark.parametrize("bias", [None, 0.0, 0.5, -0.7, 3.0, -3.0])
def test_windows_are_the_matrix(bias, dtype):
    """All kinds of arcs: half circles, wide, narrow, whole and empty ones, and a datum at the origin."""
    x = jnp.concatenate([jr.normal(jr.key(0), (201, 2), dtype), jnp.zeros((1, 2), dtype)])
    points = on_circle(2 * jnp.pi * jr.uniform(jr.key(1), (97,), dtype))
    root = jr.uniform(jr.key(2), (202,), dtype)
    matrix = root[:, None] * jnp.maximum(x @ points.T + jnp.asarray(bias or 0.0, dtype), 0)
    # Prefix sums cancel: where few features are not zero, errors are those of sums that are not small.
    check(eqx.filter_jit(windows)(points, x, bias, root), matrix, dtype, scale=10.0)


@pytest.mark.slow
def test_without_bias_particles_may_have_any_length():
    x, points = jr.normal(jr.key(0), (60, 2)), 3 * jr.normal(jr.key(1), (40, 2))
    points = points.at[3].set(0.0)
    check(windows(points, x, None), jnp.maximum(x @ points.T, 0) / 60**0.5, "float64")


@pytest.mark.slow
def test_with_a_bias_particles_off_the_circle_are_refused_or_not_a_number():
    """The arc of a datum depends on the length of the particle."""
    x, points = jr.normal(jr.key(0), (3000, 2)), 0.5 * on_circle(jr.uniform(jr.key(1), (97,), maxval=6.0))
    relu, root = ReLU(0.5, circle=True), jnp.full(3000, 0.1)
    prepared = relu.prepare(x, root)
    assert bool(
        jnp.all(jnp.isnan(eqx.filter_jit(ReLU.operator)(relu, points, x, root, prepared).scores(root)))
    )
    exact = root @ (root[:, None] * jnp.maximum(x @ points.T + 0.5, 0))
    np.testing.assert_allclose(relu.operator(points, x, root, prepared).scores(root), exact, rtol=1e-12)
    neurons = mf.measures.Particles(jnp.concatenate([jnp.ones((97, 1)), points], axis=1))
    risk = mf.energies.Risk(mf.features.Weighted(relu), x, x[:, 0])
    with pytest.raises(ValueError, match="unit vectors of the plane"):
        mf.flows.Wasserstein(risk, mf.domains.Euclidean(3)).init(neurons)


@pytest.mark.slow_cases("float32")
def test_gram_matrices_are_products(dtype):
    """Of sectors, windows, with ties, opposite particles, any length, and none."""
    angle = jnp.pi / 4 * jnp.concatenate([jnp.arange(-4.0, 9.0), 5 * jr.normal(jr.key(0), (40,))])
    points = (on_circle(angle) * jnp.linspace(0, 3, 53)[:, None]).astype(dtype)
    x = jnp.concatenate([jr.normal(jr.key(1), (150, 2)), on_circle(angle), jnp.zeros((1, 2))]).astype(dtype)
    root = jr.uniform(jr.key(2), (len(x),), dtype) / 10
    relu = ReLU()
    prepared = relu.prepare(x, root)
    sectors = relu.operator(points, x, root, prepared)
    assert isinstance(sectors, operators.Sectors) and sectors.gram().dtype == dtype
    matrix = sectors.matrix()
    close(sectors.gram(), matrix.T @ matrix, dtype)
    close(operators.Windows(points, x, root, None, prepared).gram(), matrix.T @ matrix, dtype)
    biased = operators.Windows(on_circle(angle).astype(dtype), x, root, jnp.asarray(0.5, dtype))
    close(biased.gram(), biased.matrix().T @ biased.matrix(), dtype)


RIGHTS = st.lists(st.integers(-4, 8), min_size=9, max_size=9)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(RIGHTS, RIGHTS)
def test_gram_matrices_with_ties(particles, data):
    points, x = (on_circle(jnp.pi / 4 * jnp.asarray(a, float)) for a in (particles, data))
    operator = windows(points, x, None)
    matrix = jnp.maximum(x @ points.T, 0) / 3
    np.testing.assert_allclose(operator.gram(), matrix.T @ matrix, atol=1e-14)


@pytest.mark.slow_cases("float32")
def test_scaled_columns_are_the_matrix(dtype):
    points, x = jr.normal(jr.key(0), (97, 3), dtype), jr.normal(jr.key(1), (31, 2), dtype)
    root = jr.uniform(jr.key(2), (31,), dtype)
    features = mf.features.Weighted(ReLU())
    operator = features.operator(points, x, root)
    assert isinstance(operator, operators.Scaled)
    check(operator, root[:, None] * features.matrix(points, x), dtype)


class Wave(mf.features.FeatureMap):
    """A neuron with two outputs."""

    def __call__(self, omega, x):
        z = omega[1:] @ x
        return jnp.stack([jnp.tanh(z), omega[0] * jnp.cos(z)])


@pytest.mark.slow_cases("float32-scaled", "float64-weighted", "float32-weighted", "float64-scaled")
@pytest.mark.parametrize("which", ["weighted", "scaled", "dense", "tiled"])
def test_features_that_are_vectors(which, dtype):
    """A takes masses to outputs (N, c), its transposed a block back to scores, both differentiable."""
    points, x = jr.normal(jr.key(0), (17, 4), dtype), jr.normal(jr.key(1), (31, 2), dtype)
    root, v = jr.uniform(jr.key(2), (31,), dtype), jr.normal(jr.key(3), (17,), dtype)
    weighted = {"weighted": mf.features.Weighted(ReLU(), outputs=2), "scaled": mf.features.Weighted(Wave())}
    features = weighted.get(which, Wave())
    points = points if which in weighted else points[:, :3]

    def operator(points):
        if which == "tiled":
            return operators.Tiled(features, points, x, root, 5)
        return features.operator(points, x, root)

    made, matrix = operator(points), root[:, None, None] * features.matrix(points, x)
    assert type(made).__name__ == {"weighted": "Scaled", "scaled": "Scaled"}.get(which, which.capitalize())
    assert made.shape == (31, 17)
    output, alpha = jnp.einsum("nmc,m->nc", matrix, v), jr.normal(jr.key(4), (31, 2), dtype)
    close(made.output(v), output, dtype)
    close(made.scores(alpha), jnp.einsum("nmc,nc->m", matrix, alpha), dtype)
    index = jnp.array([3, 0])
    close(made.matrix(), matrix, dtype)
    close(made.rows(index), matrix[index], dtype)
    close(made.columns(index), matrix[:, index], dtype)
    ours = jax.grad(lambda p: jnp.sum(alpha * operator(p).output(v)))(points)
    exact = jax.grad(lambda p: jnp.einsum("n,nmc,m,nc", root, features.matrix(p, x), v, alpha))(points)
    close(ours, exact, dtype)


# Multiples of half a right angle: particles on the ends of arcs and on the cut at pi, many at one place.
# Of one size: each would be compiled by itself.
RIGHT = st.lists(st.integers(-4, 8), min_size=9, max_size=9)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(RIGHT, RIGHT, st.sampled_from([None, 0.0, 0.5, 1.0, -1.0, -0.5]))
def test_ties(particles, data, bias):
    points, x = (on_circle(jnp.pi / 4 * jnp.asarray(a, float)) for a in (particles, data))
    matrix = jnp.maximum(x @ points.T + (bias or 0.0), 0) / len(data) ** 0.5
    operator = windows(points, x, bias)
    v, alpha = jnp.linspace(1, 2, len(particles)), jnp.linspace(-1, 2, len(data))
    np.testing.assert_allclose(operator.output(v), matrix @ v, atol=1e-13)
    np.testing.assert_allclose(operator.scores(alpha), alpha @ matrix, atol=1e-13)


@pytest.mark.slow
def test_windows_are_differentiated_like_the_matrix():
    """In particles, inputs, bias, weights and dual variable; forward and reverse; batched."""
    x, points = jr.normal(jr.key(0), (50, 2)), on_circle(jr.uniform(jr.key(1), (30,), maxval=6.0))
    v, alpha = jr.normal(jr.key(2), (30,)), jr.normal(jr.key(3), (50,))

    def through(make):
        def value(points, x, bias, v, alpha):
            operator = make(points, x, bias)
            return jnp.sum(jnp.sin(operator.output(v))) + jnp.sum(operator.scores(alpha) ** 2)

        arguments = points, x, jnp.asarray(0.4), v, alpha
        return (
            jax.grad(value, argnums=(0, 1, 2, 3, 4))(*arguments),
            jax.jvp(value, arguments, jax.tree.map(jnp.ones_like, arguments))[1],
            jax.vmap(lambda b: value(points, x, b, v, alpha))(jnp.array([0.4, -0.2])),
        )

    dense = lambda p, x, b: operators.Dense(jnp.maximum(x @ p.T + b, 0) / 50**0.5)
    for ours, theirs in zip(through(windows), through(dense), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 7, 64])
def test_tiles_are_the_matrix(block, dtype):
    features = RBF(mf.domains.Torus(2), scale=0.3)
    points, x = jr.uniform(jr.key(0), (23, 2), dtype), jr.uniform(jr.key(1), (31, 2), dtype)
    root = jr.uniform(jr.key(2), (31,), dtype)
    tiled = operators.Tiled(features, points, x, root, block)
    matrix = root[:, None] * features.matrix(points, x)
    check(tiled, matrix, dtype)
    slope = lambda make: jax.grad(lambda p: jnp.sum(make(p) ** 2))(points)
    v = jnp.linspace(0, 1, 23, dtype=dtype)
    ours = slope(lambda p: operators.Tiled(features, p, x, root, block).output(v))
    close(ours, slope(lambda p: (root[:, None] * features.matrix(p, x)) @ v), dtype)


def test_memory_of_tiles_is_not_that_of_the_matrix():
    """Products and their reverse mode, at a width whose matrix would have 0.8 GB."""
    features, n, m = Ridge(jnp.tanh), 1024, 100_000
    shapes = jax.ShapeDtypeStruct((m, 2), float), jax.ShapeDtypeStruct((n, 2), float)
    root, v = jnp.ones(n), jnp.ones(m)
    operator = lambda p, x: features.operator(p, x, root)
    assert isinstance(operator(jnp.ones((m, 2)), jnp.ones((n, 2))), operators.Tiled)
    loss = lambda p, x: jnp.sum(operator(p, x).output(v) ** 2) + jnp.sum(operator(p, x).scores(root))
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.3 * 8 * n * m


def test_what_is_chosen():
    root = jnp.ones(4096)
    x, many, few = jnp.ones((4096, 2)), on_circle(jnp.ones(100)), on_circle(jnp.ones(10))
    kind = lambda features, points, x=x: type(features.operator(points, x, root)).__name__
    assert kind(ReLU(), many) == kind(ReLU(0.5, circle=True), many) == "Windows"
    # With a bias arcs depend on the length of particles; a few features are cheaper than sorting.
    assert kind(ReLU(0.5), many) == kind(Ridge(jnp.tanh), many) == kind(ReLU(), few) == "Dense"
    assert kind(ReLU(), jnp.ones((100, 3)), jnp.ones((4096, 3))) == "Dense"


@pytest.mark.wrong_calls
def test_particles_off_the_circle_are_refused():
    x, y = jnp.ones((4, 2)), jnp.ones(4)
    energy = mf.energies.ReducedRisk(ReLU(0.5, circle=True), x, y, 0.1)
    mu = mf.measures.Particles(on_circle(jnp.arange(3.0)))
    assert np.isfinite(energy(mu))
    with pytest.raises(ValueError, match="unit vectors of the plane"):
        energy(mf.measures.Particles(2 * mu.points))
    with pytest.raises(ValueError, match=r"Euclidean.*leave circle=True out"):
        mf.flows.Wasserstein(energy, mf.domains.Euclidean(2)).init(mu)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000])
def test_prefix_sums(n, dtype):
    values = jr.normal(jr.key(n), (n, 3), dtype)
    exact = np.cumsum(np.asarray(values, float), axis=0)
    sums = prefix_sums(values)
    assert sums.dtype == dtype and np.all(sums[0] == 0)
    np.testing.assert_allclose(sums[1:], exact, atol=1e-12 if dtype == "float64" else 1e-4)
