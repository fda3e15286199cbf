"""Measures: masses, marks, padding, and grids from densities."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax.measures import Grid, Particles, Tangent, padded_weights
from mfjax.testing import check_traces

pytestmark = pytest.mark.core

CIRCLE = mf.domains.Sphere(1)


def test_uniform_masses_unless_given(dtype):
    mu = Particles(jnp.arange(6.0).reshape(3, 2).astype(dtype))
    assert mu.weights.dtype == mu.points.dtype == mu.dtype == dtype
    np.testing.assert_allclose(mu.weights, 1 / 3, rtol=1e-7)
    mu = Particles(mu.points, [0.5, 0.25, 0.5])
    assert mu.weights.dtype == dtype
    assert float(mu.mass) == 1.25
    np.testing.assert_allclose(mu.integrate(mu.points), [0.5 * 0 + 0.25 * 2 + 0.5 * 4, 0.5 + 0.75 + 2.5])


def test_integers_become_floats():
    assert Particles([[0], [1]]).dtype == jnp.result_type(float)


def test_marks_follow_the_dtype_and_move():
    mu = Particles(jnp.zeros((2, 1), "float32"), marks={"u": [1, 2], "H": np.ones((2, 3))})
    assert mu.marks["u"].dtype == mu.marks["H"].dtype == jnp.float32
    mu = mu.with_marks(sign=jnp.array([1.0, -1.0]))
    assert set(mu.marks) == {"u", "H", "sign"}
    tangent = Tangent(points=jnp.ones((2, 1)), weights=jnp.array([0.0, 1.0]), marks={"u": jnp.ones(2)})
    moved = mu.move(mf.domains.Euclidean(1), tangent, 0.5)
    np.testing.assert_array_equal(moved.points, [[0.5], [0.5]])
    np.testing.assert_array_equal(moved.weights, [0.5, 1.0])
    np.testing.assert_array_equal(moved.marks["u"], [1.5, 2.5])
    np.testing.assert_array_equal(moved.marks["sign"], [1, -1])


def test_measures_pass_through_transformations():
    mu = Particles(jnp.ones((3, 2)), marks={"u": jnp.arange(3.0)})
    batch = jax.vmap(lambda s: Particles(s * mu.points, mu.weights, mu.marks))(jnp.arange(4.0))
    assert batch.points.shape == (4, 3, 2) and batch.marks["u"].shape == (4, 3)
    slope = jax.grad(lambda w: Particles(mu.points, w).integrate(mu.points)[0])(mu.weights)
    np.testing.assert_array_equal(slope, [1, 1, 1])


def test_padding_is_the_meaning_of_width(dtype):
    wide = Particles.sample(CIRCLE, jr.key(0), 5, capacity=8, dtype=dtype)
    narrow = Particles.sample(CIRCLE, jr.key(0), 5, dtype=dtype)
    assert wide.size == 8 and wide.dtype == dtype
    np.testing.assert_array_equal(wide.points[:5], narrow.points)
    np.testing.assert_array_equal(wide.weights[:5], narrow.weights)
    np.testing.assert_array_equal(wide.weights[5:], 0)


def test_one_trace_for_all_widths():
    sample = lambda width: Particles.sample(CIRCLE, jr.key(0), width, capacity=8).mass
    assert check_traces(sample, [(jnp.array(k),) for k in (1, 4, 8)]) == 1
    np.testing.assert_allclose(jax.vmap(sample)(jnp.array([1, 4, 8])), 1, rtol=1e-12)


def test_padded_weights_have_mass_one():
    for width in (1, 3, 7):
        weights = padded_weights(width, 7)
        assert np.count_nonzero(weights) == width
        np.testing.assert_allclose(jnp.sum(weights), 1, rtol=1e-14)


def test_density_on_the_circle_by_the_midpoint_rule(dtype):
    """For a trigonometric polynomial of degree below n the midpoint rule is exact: mass and moments."""
    density = lambda x: (1 + 0.5 * x[0] - 0.25 * x[1]) / (2 * jnp.pi)
    grid = Grid.from_density(CIRCLE, 16, density, mass=None, dtype=dtype)
    assert grid.dtype == grid.weights.dtype == dtype
    rtol = {"float32": 1e-5, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(grid.mass, 1, rtol=rtol)
    np.testing.assert_allclose(grid.integrate(grid.points), [0.25, -0.125], rtol=rtol)
    np.testing.assert_allclose(grid.density, jax.vmap(density)(grid.points), rtol=rtol)
    assert float(Grid.from_density(CIRCLE, 16, density, mass=3.0).mass) == pytest.approx(3)


def test_density_on_an_interval_converges_at_second_order():
    exact = 1 - np.exp(-2.0)
    errors = [
        abs(
            float(Grid.from_density(mf.domains.Interval(0, 2), n, lambda x: jnp.exp(-x[0]), mass=None).mass)
            - exact
        )
        for n in (16, 32)
    ]
    assert 1.95 < np.log2(errors[0] / errors[1]) < 2.05


def test_grid_axes_are_in_c_order():
    grid = Grid.from_density(mf.domains.Torus(2), (4, 6), lambda x: 1 + x[0] + 10 * x[1])
    table = grid.weights.reshape(grid.shape)
    assert np.all(np.diff(table[0]) > np.max(np.diff(table[:, 0])))
    np.testing.assert_allclose(grid.volume, 1 / 24)


def test_grid_moves_its_masses_only():
    grid = Grid.uniform(CIRCLE, 8)
    moved = grid.move(CIRCLE, Tangent(weights=jnp.arange(8.0)), 0.5)
    np.testing.assert_allclose(moved.weights, 1 / 8 + jnp.arange(8.0) / 2)
    np.testing.assert_array_equal(moved.points, grid.points)


@pytest.mark.slow_cases("float32")
def test_nothing_grows_from_nothing(dtype):
    """An empty cell stays empty under a rate whose exponential overflows; its slope in the mass is kept."""
    growth = jnp.array([1e4, jnp.inf, -1e4, 1.0], dtype)
    grid = Grid(CIRCLE, 4, [0.0, 0.0, 0.5, 0.5], dtype=dtype)
    moved = lambda weights: grid.with_weights(weights).move(CIRCLE, Tangent(growth=growth), 1.0).weights
    np.testing.assert_allclose(moved(grid.weights), [0, 0, 0, 0.5 * np.e], rtol=1e-6)
    assert np.all(np.isfinite(jax.jacobian(moved)(grid.weights)))
    ordinary = lambda m: Grid(CIRCLE, 4, dtype=dtype).with_weights(m).move(CIRCLE, Tangent(growth=m + 1), 1.0)
    slope = jax.jacobian(lambda m: ordinary(m).weights)(jnp.zeros(4, dtype))
    np.testing.assert_allclose(slope, np.e * np.eye(4), rtol=1e-6)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Particles(jnp.zeros((0, 2))), "M, d >= 1"),
        (lambda: Particles(jnp.zeros(3)), "points must have shape"),
        (lambda: Particles([["a"]]), "points must be numeric"),
        (lambda: Particles(jnp.ones((2, 1)) * 1j), "points must be real"),
        (
            lambda: Particles(jnp.array([[0.0], [jnp.inf]])),
            "points must be finite, got inf at index \\(1, 0\\)",
        ),
        (lambda: Particles(jnp.zeros((2, 1)), [1.0]), "weights must have shape \\(2,\\)"),
        (lambda: Particles(jnp.zeros((2, 1)), [1.0, -0.5]), "two species"),
        (lambda: Particles(jnp.zeros((2, 1)), [1.0, np.nan]), "weights must be finite"),
        (lambda: Particles(jnp.zeros((2, 1)), marks={"u": [1.0]}), "mark 'u' must have leading axis 2"),
        (lambda: Particles(jnp.zeros((2, 1)), marks={"u": [1.0, np.nan]}), "mark 'u' must be finite"),
        (lambda: Particles.sample(CIRCLE, jr.key(0), 0), "width must be at least 1"),
        (lambda: Particles.sample(CIRCLE, jr.key(0), 9, capacity=8), "between 1 and capacity = 8"),
        (lambda: Particles.sample(CIRCLE, jr.key(0), 2.5, capacity=8), "whole number"),
        (lambda: Grid(CIRCLE, 8, jnp.ones(7)), "weights must have shape \\(8,\\)"),
        (lambda: Grid.from_density(CIRCLE, 8, lambda x: x), "one number per point"),
        (lambda: Grid.from_density(CIRCLE, 8, lambda x: x[0], mass=None), "non-negative"),
        (lambda: Grid.from_density(CIRCLE, 8, lambda x: 0 * x[0]), "must have a positive sum"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wide", [True, False])
def test_whole_numbers_beyond_32_bits(wide):
    """JAX without 64 bits would cut them to their last 32."""
    with jax.enable_x64(wide):
        points = Particles(np.array([[3_000_000_000]])).points
        energy = mf.energies.ReducedRisk(
            mf.features.ReLU(), np.ones((1, 1)), np.array([4_294_967_297]), 10**10
        )
    assert float(points[0, 0]) == 3e9 and float(energy.lam) == pytest.approx(1e10)
    assert float(energy.data.y[0]) == pytest.approx(4_294_967_297, rel=1e-7)
