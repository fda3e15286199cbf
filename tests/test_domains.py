"""Domains: motion stays inside and is consistent to first order; uniform laws; faces and wraps."""

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

import mfjax as mf
from mfjax.testing import check_domain

DOMAINS = {
    "line": (mf.domains.Euclidean(1), None, None),
    "space": (mf.domains.Euclidean(3), None, None),
    "circle": (mf.domains.Sphere(1), 12, 2 * np.pi),
    "sphere": (mf.domains.Sphere(2), None, None),
    "torus": (mf.domains.Torus(1, 0.3), 8, 0.3),
    "torus2": (mf.domains.Torus(2, 4.0), 5, 16.0),
    "interval": (mf.domains.Interval(0.1, 0.7), 9, 0.6),
    "signed": (mf.domains.Signed(mf.domains.Sphere(1)), 12, 4 * np.pi),
    "signed box": (mf.domains.Signed(mf.domains.Box([-1.0, 0.0], [1.0, 3.0])), 5, 12.0),
    "box": (mf.domains.Box([-1.0, 0.0], [1.0, 3.0]), 6, 6.0),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_generic(name):
    domain, cells, volume = DOMAINS[name]
    check_domain(domain, cells=cells, volume=volume, dtype="float64")


@pytest.mark.parametrize("name", ["circle", "torus", "box"])
def test_generic_single_precision(name):
    domain, cells, volume = DOMAINS[name]
    check_domain(domain, cells=cells, volume=volume, dtype="float32")


PERIODS = st.floats(1e-3, 1e3)


@given(period=PERIODS, turns=st.integers(-(10**6), 10**6), ulps=st.integers(-3, 3))
def test_wrapped_points_lie_in_one_period(period, turns, ulps):
    """Multiples of the period and their neighbors, where x - period floor(x / period) leaves the torus."""
    for dtype in (np.float32, np.float64):
        point = dtype(turns * period)
        for _ in range(abs(ulps)):
            point = np.nextafter(point, dtype(np.sign(ulps) * np.inf))
        inside, wrapped = wrap(mf.domains.Torus(1, period), jnp.asarray([point]))
        assert inside, (wrapped, period)


@eqx.filter_jit
def wrap(torus, x):
    moved = torus.retract(jnp.zeros_like(x), x)
    return torus.contains(moved), moved


@given(x=st.floats(0, 1), v=st.floats(-50, 50))
def test_noise_is_reflected_at_the_faces(x, v):
    low, high = 0.1, 0.7
    start = low + (high - low) * x
    y = start + v
    while not low <= y <= high:
        y = 2 * low - y if y < low else 2 * high - y
    box = mf.domains.Interval(low, high)
    moved = box.diffuse(jnp.array([start]), jnp.array([v]))
    np.testing.assert_allclose(moved, [y], atol=1e-12)
    assert box.contains(moved)


def test_faces_block_only_what_points_outwards():
    box = mf.domains.Box([0.0, 0.0], [1.0, 1.0])
    corner, inner = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])
    np.testing.assert_array_equal(box.velocity(corner, jnp.array([-1.0, 1.0])), [0, 0])
    np.testing.assert_array_equal(box.velocity(corner, jnp.array([1.0, -1.0])), [1, -1])
    np.testing.assert_array_equal(box.velocity(inner, jnp.array([-1.0, 1.0])), [-1, 1])


def test_shortest_displacement_on_a_torus():
    torus = mf.domains.Torus(2, 4.0)
    np.testing.assert_allclose(
        torus.displacement(jnp.array([3.9, 0.2]), jnp.array([0.1, 1.0])), [-0.2, -0.8], atol=1e-15
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_uniform_on_the_sphere(dim):
    """Mean 0 and covariance 1/(d+1), as z-scores of 4000 points with a fixed key."""
    n, k = 4000, dim + 1
    x = np.asarray(mf.domains.Sphere(dim).sample(jr.key(3), n))
    assert np.max(np.abs(x.mean(0)) * np.sqrt(n * k)) < 4
    fourth = 3 / (k * (k + 2))
    assert np.max(np.abs((x**2).mean(0) - 1 / k) * np.sqrt(n / (fourth - 1 / k**2))) < 4


@pytest.mark.parametrize("name", ["torus", "torus2", "interval", "box"])
def test_uniform_on_flat_domains(name):
    domain = DOMAINS[name][0]
    x = np.asarray(domain.sample(jr.key(4), 2000))
    low = getattr(domain, "lower", np.zeros(domain.dim))
    high = getattr(domain, "upper", np.full(domain.dim, getattr(domain, "period", 0.0)))
    for axis in range(domain.dim):
        law = stats.uniform(low[axis], high[axis] - low[axis])
        assert stats.kstest(x[:, axis], law.cdf).pvalue > 1e-3


def test_only_the_chordal_distance_of_a_torus_is_negative_definite():
    """Minus a distance must have one positive eigenvalue at most; the wrapped distance in 2-D has more."""
    torus = mf.domains.Torus(2)
    side = np.arange(6) / 6
    points = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    center = np.eye(36) - 1 / 36

    def smallest(distance):
        matrix = jax.vmap(lambda x: jax.vmap(lambda y: -distance(x, y))(points))(points)
        return np.linalg.eigvalsh(center @ np.asarray(matrix) @ center)[0]

    assert smallest(lambda x, y: jnp.linalg.norm(torus.embed(x) - torus.embed(y))) > -1e-12
    assert smallest(lambda x, y: jnp.linalg.norm(torus.displacement(x, y))) < -0.05


def test_cells_of_the_circle_are_equal_arcs():
    cells = mf.domains.Sphere(1).cells(8)
    angle = np.unwrap(np.arctan2(cells.points[:, 1], cells.points[:, 0]))
    np.testing.assert_allclose(np.diff(angle), cells.spacing[0], rtol=1e-13)
    assert cells.periodic == (True,)


def test_cells_may_differ_per_axis():
    cells = mf.domains.Box([0.0, 0.0], [1.0, 3.0]).cells((4, 6))
    assert cells.shape == (4, 6)
    np.testing.assert_allclose(cells.spacing, [0.25, 0.5])
    # C order: the last axis runs fastest.
    np.testing.assert_allclose(cells.points[:2], [[0.125, 0.25], [0.125, 0.75]])


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mf.domains.Euclidean(0), "dim must be at least 1"),
        (lambda: mf.domains.Sphere(1.5), "dim must be a whole number"),
        (lambda: mf.domains.Torus(1, -1.0), "period must be greater than 0"),
        (lambda: mf.domains.Torus(1, np.nan), "period must be finite"),
        (lambda: mf.domains.Interval(1.0, 0.0), "lower must lie below upper"),
        (lambda: mf.domains.Box([0.0], [1.0, 2.0]), "vectors of one length"),
        (lambda: mf.domains.Sphere(2).cells(8), "only Sphere\\(1\\)"),
        (lambda: mf.domains.Euclidean(1).cells(8), "no uniform grid"),
        (lambda: mf.domains.Torus(2).cells((8,)), "one number or 2 numbers"),
        (lambda: mf.domains.Torus(1).cells(2), "n must be at least 4"),
        (lambda: mf.domains.Torus(1).sample(jr.key(0), 0), "n must be at least 1"),
        (lambda: mf.domains.Sphere(1).validate(jnp.ones((3, 2))), "does not lie on Sphere"),
        (lambda: mf.domains.Sphere(1).validate(jnp.ones((3, 3))), "must have shape \\(M, 2\\)"),
        (lambda: mf.domains.Torus(1).validate(jnp.array([[0.5], [1.0]])), "points\\[1\\] = \\[1.0\\]"),
        (lambda: mf.domains.Euclidean(1).validate(jnp.array([[np.nan]])), "points must be finite"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
