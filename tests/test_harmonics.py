"""Eigenfunctions of the Laplacian of a domain, and Sobolev norms of either sign by them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import special

import mfjax as mf
from mfjax._numerics.harmonics import spherical_harmonics
from mfjax._numerics.sums import rows
from mfjax.measures import Grid, Particles
from mfjax.observables import SobolevNorm

SPHERE, TORUS = mf.domains.Sphere(2), mf.domains.Torus(2, 1.7)
BOX = mf.domains.Box([-1.0, 0.5], [0.5, 1.25])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
PLACES = {
    "torus": (mf.domains.Torus(1, 1.7), 512),
    "circle": (mf.domains.Sphere(1), 512),
    "interval": (mf.domains.Interval(-1.0, 0.5), 512),
    **{f"zonal{d}": (mf.domains.Zonal(d), 512) for d in (1, 2, 10)},
    "torus2": (TORUS, 16),
    "torus3": (mf.domains.Torus(3, 1.7), 10),
    "box": (BOX, (16, 20)),
    "sphere": (SPHERE, (64, 192)),
}


def flat(x):
    return jnp.ones((), x.dtype)


def clouds(domain, sizes=(5, 7), dtype="float64"):
    """Points of the domain with masses of sum one."""
    for i, n in enumerate(sizes):
        masses = np.random.default_rng(i).random(n) + 0.2
        yield Particles(domain.sample(jr.key(i), n, jnp.float64).astype(dtype), masses / masses.sum())


@pytest.mark.slow_cases("torus", "sphere", "circle", "box", "torus2", "torus3", "zonal1")
@pytest.mark.parametrize("name", PLACES)
def test_harmonics_of_a_domain(name):
    """Orthonormal in volume, without mean; their squared slopes are the eigenvalues; density of the grid."""
    domain, n = PLACES[name]
    grid, degree = Grid.uniform(domain, n), 4
    values, eigenvalues = jax.vmap(lambda x: domain.harmonics(x, degree))(grid.points)
    volume = np.broadcast_to(grid.volume, grid.size)
    np.testing.assert_allclose(
        np.asarray(values).T @ (volume[:, None] * values), np.eye(values.shape[1]), atol=1e-3
    )
    np.testing.assert_allclose(volume @ values, 0, atol=1e-3)
    basis = jax.vmap(domain.tangent_basis)(grid.points)
    slopes = jax.vmap(lambda x, b: jax.jacfwd(lambda v: domain.harmonics(x + b @ v, degree)[0])(0 * b[0]))
    squares = volume @ np.sum(np.asarray(slopes(grid.points, basis)) ** 2, axis=2)
    np.testing.assert_allclose(squares, eigenvalues[0], rtol=2e-3)


@pytest.mark.parametrize("degree", [16, pytest.param(512, marks=pytest.mark.slow)])
def test_addition_theorem(degree):
    """sum_m Y_lm(x) Y_lm(y) = P_l(x . y) (2 l + 1) / 4 pi; squared slopes: l (l + 1) of it; poles, too."""
    x = np.concatenate([np.asarray(SPHERE.sample(jr.key(0), 5)), [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])
    x = np.concatenate([x, [[1e-9, 0.0, 1.0]]])
    near = lambda q, v: spherical_harmonics(q + v - (v @ q) * q, degree)
    values = np.asarray(jax.jit(jax.vmap(lambda q: near(q, 0 * q)))(x))
    slopes = np.asarray(jax.jit(jax.vmap(lambda q: jax.jacfwd(lambda v: near(q, v))(0 * q)))(x))
    assert values.shape[1] == (degree + 1) ** 2 - 1
    bar = 1e-12 if degree < 100 else 2e-10
    for k in {1, 2, degree // 2, degree}:
        which, share = slice(k**2 - 1, (k + 1) ** 2 - 1), (2 * k + 1) / (4 * np.pi)
        exact = special.eval_legendre(k, np.clip(x @ x.T, -1, 1))
        np.testing.assert_allclose(values[:, which] @ values[:, which].T / share, exact, atol=bar)
        found = np.sum(slopes[:, which] ** 2, axis=(1, 2)) / share
        np.testing.assert_allclose(found, k * (k + 1), rtol=bar)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "degree"), [("float32", 128), ("float64", 1500)])
def test_degrees_that_a_dtype_holds(dtype, degree):
    """At every latitude the squares of the highest degree have the sum that they should."""
    latitude = np.linspace(0, np.pi / 2, 25)
    x = jnp.asarray(np.stack([np.cos(latitude), 0 * latitude, np.sin(latitude)], axis=1), dtype)
    values = jax.jit(jax.vmap(lambda q: spherical_harmonics(q, degree)[1 - 2 * (degree + 1) :]))(x)
    found = np.sum(np.asarray(values, float) ** 2, axis=1) / ((2 * degree + 1) / (4 * np.pi))
    # A point of float32 lies off the sphere by its rounding, times the slope degree^2 / 2 there.
    np.testing.assert_allclose(found, 1, atol=1e-3 if dtype == "float32" else 1e-11)


# --- norms ------------------------------------------------------------------------------------------------

norm = eqx.filter_jit(lambda nu, order, domain, degree, mu: SobolevNorm(nu, order, domain, degree)(mu))
norms = jax.vmap(norm, (None, 0, None, None, None))


@pytest.mark.slow_cases("plane")
@pytest.mark.parametrize(
    ("torus", "order", "modes"), [(mf.domains.Torus(1, 1.7), 2.0, 16), (TORUS, 1.5, 6)], ids=["line", "plane"]
)
def test_half_the_square_is_the_sobolev_energy(torus, order, modes):
    mu, nu = clouds(torus)
    energy = eqx.filter_jit(mf.energies.Sobolev(nu, order, torus, modes=modes))(mu)
    np.testing.assert_allclose(0.5 * norm(nu, -order, torus, modes, mu) ** 2, energy, rtol=1e-11)


def test_closed_forms():
    """A mirror image on the circle; cos(theta) on zones of S^3; a swept order."""
    zones, circle = mf.domains.Zonal(1), mf.domains.Sphere(1)
    (mu,) = clouds(zones, [6])
    both = jnp.concatenate([mu.points, -mu.points])[:, 0]
    mirrored = Particles(jnp.stack([jnp.sin(both), jnp.cos(both)], axis=1), jnp.tile(0.5 * mu.weights, 2))
    found = [norm(flat, 0.5, domain, 16, source) for domain, source in ((zones, mu), (circle, mirrored))]
    np.testing.assert_allclose(*found, rtol=1e-10)
    domain, orders = mf.domains.Zonal(3), jnp.array([-1.0, 0.0, 2.0])
    tilted = Grid.from_density(domain, 256, lambda x: 1 + 0.3 * jnp.cos(x[0]))
    # cos(theta) has the mean square 1/4 on S^3, of volume 2 pi^2, and the eigenvalue 3.
    exact = 0.3 / 2 / np.sqrt(2 * np.pi**2) * 3.0 ** (np.asarray(orders) / 2)
    np.testing.assert_allclose(norms(flat, orders, domain, 8, tilted), exact, rtol=5e-5)


def test_a_box_is_a_quarter_of_a_torus():
    """Reflected at the walls a measure on a square lives on a torus of twice its side."""
    square, torus = mf.domains.Box([0.0, 0.0], [0.8, 0.8]), mf.domains.Torus(2, 1.6)
    images = jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    reflected = lambda mu: Particles(
        jax.vmap(torus.coordinates)((images[:, None] * mu.points).reshape(-1, 2)), jnp.tile(mu.weights, 4) / 4
    )
    mu, nu = clouds(square)
    here = norm(nu, -1.3, square, 7, mu)
    there = norm(reflected(nu), -1.3, torus, 7, reflected(mu))
    # Each harmonic of the square is twice as large as that of the torus.
    np.testing.assert_allclose(here, 2 * there, rtol=1e-12)


@pytest.mark.parametrize("degree", [24, pytest.param(96, marks=pytest.mark.slow)])
def test_particles_of_the_sphere_against_a_kernel(degree):
    """Order -2: sum_l (2 l + 1) / (l (l + 1))^2 P_l(t) = Li_2((1 + t) / 2) + 1 - pi^2 / 6.

    Of the tail, whose sum at t = 1 is (degree + 1)^-2, the diagonal is the most.
    """
    mu, nu = clouds(SPHERE)
    points = np.concatenate([mu.points, nu.points])
    masses = np.append(mu.weights, -nu.weights)
    t = np.clip(points @ points.T, -1, 1)
    # SciPy's `spence(z)` is Li_2(1 - z).
    kernel = (special.spence((1 - t) / 2) + 1 - np.pi**2 / 6) / (4 * np.pi)
    exact, tail = masses @ kernel @ masses, masses @ masses / (4 * np.pi * (degree + 1) ** 2)
    found = norm(nu, -2.0, SPHERE, degree, mu) ** 2
    print(f"degree {degree}: off by {float(found) / exact - 1:.1e}, its tail {-tail / exact:.1e}")
    assert abs(float(found) - (exact - tail)) < 0.15 * tail and tail < 0.02 * exact


def test_single_harmonics_on_grids():
    """1 + c e_n has the norm c lambda_n^(r / 2): to rounding on a torus, of second order on the sphere."""
    orders = jnp.array([-2.0, 0.0, 1.5])
    q = 2 * np.pi / 1.7
    wave = lambda x: 1 + 0.4 * jnp.cos(q * (2 * x[0] - 3 * x[1]) + 0.3)
    exact = 0.4 / np.sqrt(2) / 1.7 * (13 * q**2) ** (np.asarray(orders) / 2)
    found = norms(flat, orders, TORUS, 5, Grid.from_density(TORUS, 16, wave))
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    # Degree 3, about no axis of the cells, of mean square 1/7.
    height = lambda x: x @ jnp.asarray(ROTATION[0])
    third = lambda x: 1 + 0.4 * (5 * height(x) ** 3 - 3 * height(x)) / 2
    exact, errors = 0.4 / np.sqrt(7 * 4 * np.pi) * 12 ** (np.asarray(orders) / 2), []
    for n in (32, 64):
        mu = Grid.from_density(SPHERE, (2 * n, n), third)
        uniform = mu.with_weights(mu.relative_volume / mu.size)
        errors.append(np.abs(norms(uniform, orders, SPHERE, 5, mu) / exact - 1))
    found = np.log2(np.divide(errors[:-1], errors[1:]))
    print(f"errors {errors[-1]}, orders {found.ravel()}")
    assert np.all(np.abs(found - 2) < 0.1) and np.all(errors[-1] < 3e-4)


def test_no_rotation_or_shift_changes_a_norm():
    """To 1e-12, where the wave vectors cut off are moved into each other."""
    turned = lambda mu: Particles(mu.points @ ROTATION.T, mu.weights)
    shifted = lambda mu: Particles(jax.vmap(TORUS.coordinates)(mu.points[:, ::-1] + 0.7), mu.weights)
    for domain, moved, degree in ((SPHERE, turned, 32), (TORUS, shifted, 8)):
        mu, nu = clouds(domain)
        for order in (-1.5, 0.5):
            found = norm(nu, order, domain, degree, mu), norm(moved(nu), order, domain, degree, moved(mu))
            np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize(("domain", "degree"), [(SPHERE, 64), (TORUS, 16)], ids=["sphere", "torus"])
def test_single_precision(domain, degree):
    for order in (-2.0, 1.0):
        values = []
        for dtype in ("float64", "float32"):
            mu, nu = clouds(domain, dtype=dtype)
            values.append(norm(nu, order, domain, degree, mu))
            assert values[-1].dtype == dtype
        np.testing.assert_allclose(values[1], values[0], rtol=2e-5)


@pytest.mark.slow
def test_blocks_of_points(monkeypatch):
    """The sums and their derivatives are those of all points at once, with a last block that is not full."""
    (mu,) = clouds(SPHERE, [11])
    target = SobolevNorm(SPHERE.sample(jr.key(9), 2), -1.0, SPHERE, 3)

    def value_and_slopes():
        value = lambda points, masses: target(Particles(points, masses))
        found = jax.jit(jax.value_and_grad(value, (0, 1)))(mu.points, mu.weights)
        return jax.tree.leaves(found)

    whole = value_and_slopes()
    monkeypatch.setattr(rows, "HELD", 4 * 15)
    for part, exact in zip(value_and_slopes(), whole, strict=True):
        np.testing.assert_allclose(part, exact, rtol=1e-12, atol=1e-15)
