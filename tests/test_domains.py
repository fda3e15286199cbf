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
from mfjax.domains import Frozen, Noiseless, Product
from mfjax.testing import check_domain

DOMAINS = {
    "line": (mf.domains.Euclidean(1), None, None),
    "space": (mf.domains.Euclidean(3), None, None),
    "circle": (mf.domains.Sphere(1), 12, 2 * np.pi),
    "sphere": (mf.domains.Sphere(2), (16, 7), 4 * np.pi),
    "sphere3": (mf.domains.Sphere(3), 9, 2 * np.pi**2),
    "zonal1": (mf.domains.Zonal(1), 12, 2 * np.pi),
    "zonal2": (mf.domains.Zonal(2), 9, 4 * np.pi),
    "zonal10": (mf.domains.Zonal(10), 16, 64 * np.pi**5 / 945),
    "signed zonal": (mf.domains.Signed(mf.domains.Zonal(3)), 8, 4 * np.pi**2),
    "torus": (mf.domains.Torus(1, 0.3), 8, 0.3),
    "torus2": (mf.domains.Torus(2, 4.0), 5, 16.0),
    "interval": (mf.domains.Interval(0.1, 0.7), 9, 0.6),
    "signed": (mf.domains.Signed(mf.domains.Sphere(1)), 12, 4 * np.pi),
    "signed box": (mf.domains.Signed(mf.domains.Box([-1.0, 0.0], [1.0, 3.0])), 5, 12.0),
    "box": (mf.domains.Box([-1.0, 0.0], [1.0, 3.0]), 6, 6.0),
    "sphere x interval": (Product(mf.domains.Sphere(2), mf.domains.Interval(0.0, 2.0)), (6, 5, 4), 8 * np.pi),
    "interval x zonal": (Product(mf.domains.Interval(0.0, 2.0), mf.domains.Zonal(3)), 7, 4 * np.pi**2),
    "weights x sphere": (Product(mf.domains.Euclidean(1), mf.domains.Sphere(2)), None, None),
    "layers": (Product(Frozen(mf.domains.Interval(0.0, 0.5)), mf.domains.Torus(2)), 4, 0.5),
    "torus x frozen circle": (Product(mf.domains.Torus(1), Frozen(mf.domains.Sphere(1))), 6, 2 * np.pi),
    "frozen": (Frozen(mf.domains.Box([-1.0, 0.0], [1.0, 3.0])), 4, 6.0),
    "noiseless": (Product(mf.domains.Torus(1), Noiseless(mf.domains.Interval(0.0, 2.0))), 5, 2.0),
    "signed product": (
        mf.domains.Signed(Product(mf.domains.Sphere(1), mf.domains.Zonal(2))),
        5,
        16 * np.pi**2,
    ),
}


class Ellipse(mf.domains.Domain):
    """The ellipse x^2 / a^2 + y^2 / b^2 = 1 in the plane; its coordinate is arc length."""

    half_axes: jax.Array
    # The speed of (a cos t, b sin t) is a series of cos(2 k t) with these coefficients.
    speed: jax.Array
    dim: int = eqx.field(static=True, default=1)

    def __init__(self, a, b, modes=32):
        turn = 2 * np.pi * np.arange(4 * modes) / (4 * modes)
        speed = np.sqrt((a * np.sin(turn)) ** 2 + (b * np.cos(turn)) ** 2)
        series = np.fft.rfft(speed).real[: 2 * modes : 2] / len(turn) * np.append(1, np.full(modes - 1, 2))
        self.half_axes, self.speed, self.dim = jnp.asarray([a, b], float), jnp.asarray(series), 1

    @property
    def ambient(self):
        return 2

    @property
    def length(self):
        return 2 * jnp.pi * self.speed[0]

    @property
    def axes(self):
        return (mf.domains.Axis(0.0, self.length, closed=True, label="arc length"),)

    def along(self, turn):
        """Arc length from the end of the first half axis."""
        k = jnp.arange(1, len(self.speed))
        return self.speed[0] * turn + jnp.sum(self.speed[1:] * jnp.sin(2 * k * turn) / (2 * k))

    def point(self, q):
        turn = q[0] / self.speed[0]
        for _ in range(12):
            turn = turn - (self.along(turn) - q[0]) / jax.grad(self.along)(turn)
        return self.half_axes.astype(q.dtype) * jnp.stack([jnp.cos(turn), jnp.sin(turn)])

    def coordinates(self, x):
        u = x / self.half_axes.astype(x.dtype)
        return self.along(jnp.mod(jnp.arctan2(u[1], u[0]), 2 * jnp.pi))[None].astype(x.dtype)

    def sample_point(self, key, dtype=float):
        return self.point(self.length.astype(dtype) * jr.uniform(key, (1,), dtype))

    def contains(self, x):
        return jnp.abs(jnp.sum((x / self.half_axes.astype(x.dtype)) ** 2) - 1) <= 1e-10

    def project(self, x, v):
        normal = x / self.half_axes.astype(x.dtype) ** 2
        return v - (normal @ v) / (normal @ normal) * normal

    def retract(self, x, v):
        u = (x + v) / self.half_axes.astype(x.dtype)
        return self.half_axes.astype(x.dtype) * u / jnp.sqrt(jnp.sum(u * u))

    def cells(self, n):
        h = self.length / n
        points = jax.vmap(self.point)(h * (jnp.arange(n)[:, None] + 0.5))
        return mf.domains.Cells(points, h[None], (n,), (True,))


class Cylinder(mf.domains.Domain):
    """A circle times an interval [0, height], as (cos a, sin a, z): the least that one writes."""

    height: jax.Array
    dim: int = eqx.field(static=True, default=2)

    def __init__(self, height):
        self.height, self.dim = jnp.asarray(height, float), 2

    @property
    def ambient(self):
        return 3

    @property
    def axes(self):
        angle = mf.domains.Axis(-np.pi, np.pi, closed=True, label="angle [rad]")
        return angle, mf.domains.Axis(0.0, self.height, label="height")

    @property
    def isometric(self):
        return True

    def coordinates(self, x):
        return jnp.stack([jnp.arctan2(x[1], x[0]), x[2]])

    def point(self, q):
        return jnp.stack([jnp.cos(q[0]), jnp.sin(q[0]), q[1]])

    def sample_point(self, key, dtype=float):
        u = jr.uniform(key, (2,), dtype)
        return self.point(jnp.stack([2 * jnp.pi * u[0], self.height.astype(dtype) * u[1]]))

    def contains(self, x):
        round_ = jnp.abs(x[0] ** 2 + x[1] ** 2 - 1) <= 1e-10
        return round_ & (x[2] >= 0) & (x[2] <= self.height)

    def project(self, x, v):
        return v - jnp.append(x[:2] @ v[:2] * x[:2], 0.0)

    def velocity(self, x, v):
        v = self.project(x, v)
        stuck = ((x[2] <= 0) & (v[2] < 0)) | ((x[2] >= self.height) & (v[2] > 0))
        return v.at[2].set(jnp.where(stuck, 0.0, v[2]))

    def retract(self, x, v):
        moved = x + v
        around = moved[:2] / jnp.linalg.norm(moved[:2])
        return jnp.append(around, jnp.clip(moved[2], 0.0, self.height))

    def cells(self, n):
        first, second = mf.domains.Sphere(1).cells(n), mf.domains.Interval(0.0, self.height).cells(n)
        points = jnp.concatenate([jnp.repeat(first.points, n, 0), jnp.tile(second.points, (n, 1))], axis=1)
        spacing = jnp.concatenate([first.spacing, second.spacing])
        return mf.domains.Cells(points, spacing, (n, n), (True, False))


ELLIPSE = Ellipse(2.0, 1.0)
WRITTEN = {
    "ellipse": (ELLIPSE, 12, float(ELLIPSE.length)),
    "cylinder": (Cylinder(1.5), 6, 3 * np.pi),
    "circle x torus": (Product(mf.domains.Sphere(1), mf.domains.Torus(1, 0.5)), 6, np.pi),
    "circle x interval": (Product(mf.domains.Sphere(1), mf.domains.Interval(-1.0, 1.0)), 6, 4 * np.pi),
    "ellipse x line": (Product(ELLIPSE, mf.domains.Euclidean(1)), None, None),
}
DOMAINS |= WRITTEN


@pytest.mark.slow_cases(
    "signed product",
    "layers",
    "torus",
    "circle",
    "signed box",
    "noiseless",
    "signed zonal",
    "circle x interval",
    "ellipse",
    "ellipse x line",
    "torus2",
    "cylinder",
    "sphere3",
    "zonal2",
    "signed",
    "circle x torus",
    "sphere x interval",
    "weights x sphere",
    "interval x zonal",
    "torus x frozen circle",
    "frozen",
)
@pytest.mark.parametrize("name", DOMAINS)
def test_generic(name):
    domain, cells, volume = DOMAINS[name]
    check_domain(domain, cells=cells, volume=volume, dtype="float64")


@pytest.mark.slow_cases("circle", "torus", "layers")
@pytest.mark.parametrize("name", ["circle", "torus", "box", "layers"])
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


@pytest.mark.parametrize("dim", [2, 3])
def test_coordinates_of_a_sphere_are_longitude_and_latitudes(dim):
    sphere = mf.domains.Sphere(dim)
    x = sphere.sample(jr.key(0), 20)
    q = jax.vmap(sphere.coordinates)(x)
    np.testing.assert_allclose(jnp.sin(q[:, -1]), x[:, -1], atol=1e-12)
    np.testing.assert_allclose(jnp.tan(q[:, 0]), x[:, 1] / x[:, 0], rtol=1e-10)


def test_the_map_of_the_sphere_keeps_areas():
    sphere = mf.domains.Sphere(2)
    q = jax.vmap(sphere.coordinates)(sphere.sample(jr.key(1), 50))
    stretch = jnp.linalg.det(jax.vmap(jax.jacobian(sphere.drawn))(q))
    np.testing.assert_allclose(stretch, jnp.cos(q[:, 1]), rtol=1e-10)


@pytest.mark.parametrize("width", [0.05, 0.5, 5.0])
def test_the_gaussian_of_the_sphere_has_mass_one(width):
    sphere, pole = mf.domains.Sphere(2), jnp.array([0.0, 0.6, 0.8])
    # Gauss quadrature in the latitude, whose sine is uniform, and equal steps of longitude.
    height, weight = np.polynomial.legendre.leggauss(200)
    turn = 2 * np.pi * np.arange(400) / 400
    q = np.stack(np.meshgrid(turn, np.arcsin(height), indexing="ij"), -1).reshape(-1, 2)
    points = jax.vmap(sphere.point)(jnp.asarray(q))
    values = jax.vmap(sphere.gaussian, (0, None, None))(points, pole, jnp.asarray(width))
    mass = np.sum(np.asarray(values).reshape(400, 200) * weight) * 2 * np.pi / 400
    np.testing.assert_allclose(mass, 1, rtol=1e-8)


@pytest.mark.slow_cases("circle x torus", "ellipse x line", "ellipse", "cylinder")
@pytest.mark.parametrize("name", WRITTEN)
def test_domains_of_users_work_everywhere(name):
    """Runs, discrepancies, the energy distance, density estimates and figures of a domain written above."""
    domain = WRITTEN[name][0]
    target = mf.measures.Particles.sample(domain, jr.key(1), 12)
    mu = mf.measures.Particles.sample(domain, jr.key(0), 8)
    energy = mf.energies.MMD(mf.kernels.Gaussian(0.8, domain), target)
    distance = mf.observables.EnergyDistance(target, domain)
    estimate = mf.observables.KernelDensity(target.points[:3], 0.3, domain)
    run = mf.simulate(
        mf.flows.Wasserstein(energy, domain),
        mu,
        stepper=mf.steppers.Euler(0.05),
        steps=20,
        save_every=10,
        observables={"distance": distance, "density": estimate},
    )
    domain.validate(run.final.points)
    values = run.observables
    assert values["energy"][-1] < values["energy"][0]
    assert values["density"].shape == (3, 3) and np.all(np.isfinite(values["density"]))
    # The chordal energy distance, directly from the embeddings.
    x, y = (np.asarray(jax.vmap(domain.embed)(nu.points)) for nu in (run.final, target))
    mean = lambda a, b: np.mean(np.linalg.norm(a[:, None] - b[None], axis=-1))
    np.testing.assert_allclose(
        values["distance"][-1], 2 * mean(x, y) - mean(x, x) - mean(y, y), rtol=1e-8, atol=1e-12
    )
    panel = mf.plot.figure()[1][0, 0]
    mf.plot.particles(panel, run.final, domain, label="particles")
    assert len(panel.collections[0].get_offsets()) == 8
    extent = [(0.0, 1.0), (-2.0, 2.0)] if domain.axes[-1].endless else None
    fig, panels = mf.plot.figure()
    mf.plot.density(panels[0, 0], estimate.at(run.final), domain, cells=16, extent=extent)
    fig.draw_without_rendering()
    assert panels[0, 0].lines or panels[0, 0].collections


@pytest.mark.slow
def test_a_curve_has_wasserstein_distances_and_fourier_modes():
    """Two atoms on an ellipse are apart by the shorter arc between them."""
    half = float(ELLIPSE.length) / 2
    at = lambda q: mf.measures.Particles(ELLIPSE.point(jnp.array([q]))[None])
    for order in (1, 2):
        away = mf.observables.Wasserstein1D(at(0.1), order, ELLIPSE)
        np.testing.assert_allclose(away(at(half + 0.3)), half - 0.2, rtol=1e-6)
    modes = mf.observables.FourierModes(1, ELLIPSE)(at(half / 2))
    np.testing.assert_allclose(modes[1], [0, 1], atol=1e-6)


@pytest.mark.slow_cases("ellipse")
@pytest.mark.parametrize("curve", [mf.domains.Sphere(1), ELLIPSE], ids=["circle", "ellipse"])
def test_neighbors_on_a_curve_are_those_on_a_torus_of_its_length(curve):
    """Values, forces along the curve and potentials of energies of neighbors, across the seam too."""
    length = float(curve.axes[0].length)

    @eqx.filter_jit
    def found(domain, turns):
        lower = domain.axes[0].lower
        at = lambda turn: domain.point(lower + length * turn)
        nu = lambda x: 1 + 0.4 * jnp.sin(2 * jnp.pi / length * (domain.coordinates(x)[0] - lower))
        mu = mf.measures.Particles(jax.vmap(at)(turns), jnp.array([0.1, 0.2, 0.4, 0.3]))
        along = jax.vmap(jax.jacfwd(at))(turns)[:, :, 0]
        out = []
        for energy in (
            mf.energies.Quantization(nu, domain),
            mf.energies.Spacings(mf.energies.PowerDivergence(nu), domain),
        ):
            solution = energy.solve(mu)
            force = jnp.sum(energy.gradient_field(mu) * along, axis=1)
            away = jax.vmap(solution.potential)(jax.vmap(at)(turns + 0.11))
            out += [solution.value, force, energy.first_variation(mu), away]
        return out

    turns = jnp.array([[0.97], [0.1], [0.35], [0.62]])
    for one, other in zip(found(curve, turns), found(mf.domains.Torus(1, length), turns), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_proximal_steps_stop_at_the_walls_of_a_product():
    """A step on circle x interval: to the wall along the interval, on the sphere as without an interval."""
    circle = mf.domains.Sphere(1)
    product = Product(circle, mf.domains.Interval(-1.0, 1.0))
    pull = lambda x: -x[1] + 0.2 * x[0]
    start = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    move = lambda domain, potential, points: (
        mf.simulate(
            mf.flows.Wasserstein(mf.energies.Potential(potential), domain),
            mf.measures.Particles(points),
            stepper=mf.steppers.Proximal(0.5),
            steps=2,
        ).final.points
    )
    alone = move(circle, pull, start)
    both = move(product, lambda x: pull(x) - 3 * x[2], jnp.append(start, jnp.array([[0.5], [-0.9]]), axis=1))
    np.testing.assert_allclose(both[:, :2], alone, atol=1e-6)
    np.testing.assert_allclose(both[:, 2], 1.0)


def test_the_log_sobolev_constant_of_a_product_is_the_least():
    product = Product(mf.domains.Sphere(1), mf.domains.Interval(0.0, 4.0))
    np.testing.assert_allclose(mf.bounds.log_sobolev(domain=product), (np.pi / 4) ** 2)
    np.testing.assert_allclose(mf.bounds.log_sobolev(domain=mf.domains.Sphere(2)), 2)


def test_a_domain_without_coordinates_says_so():
    class Bare(mf.domains.Domain):
        dim: int = eqx.field(static=True, default=1)
        ambient = 2

        def sample_point(self, key, dtype=float):
            return jnp.array([1.0, 0.0], dtype)

        def contains(self, x):
            return True

    with pytest.raises(NotImplementedError, match="overrides `coordinates`"):
        Bare().coordinates(jnp.array([1.0, 0.0]))


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
        (lambda: mf.domains.Sphere(2).cells((8, 3)), "n must be at least 4, got 3"),
        (lambda: mf.domains.Zonal(0), "sphere_dim must be at least 1"),
        (lambda: mf.domains.Zonal(2).gaussian(*jnp.ones((2, 1)), jnp.ones(())), "no Gaussian is known"),
        (lambda: mf.domains.Euclidean(1).cells(8), "has no grid of cells"),
        (lambda: mf.domains.Torus(2).cells((8,)), "one number or 2 numbers"),
        (lambda: mf.domains.Torus(1).cells(0), "n must be at least 1"),
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


class Unwrapped(mf.domains.Torus):
    """Closed by its axes and `retract`, open by its distances: the likeliest slip."""

    def displacement(self, y, x):
        return y - x

    def embed(self, x):
        return x

    def chord(self, x, y):
        return x - y


class HalfFrozen(Frozen):
    """Frozen, but counted among what moves."""

    @property
    def tangent_dim(self):
        return self.dim


class Spanned(HalfFrozen):
    """And given directions."""

    def tangent_basis(self, x):
        return jnp.eye(self.dim, dtype=x.dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [(HalfFrozen, r"tangent_basis has shape \(2, 1\)"), (Spanned, "rank: relative error")],
)
def test_a_frozen_coordinate_that_counts_as_free_is_found(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_domain(Product(kind(mf.domains.Torus(1)), mf.domains.Torus(1)), cells=4)


def test_a_seam_that_is_open_is_found():
    with pytest.raises(AssertionError, match=r"across the seam of the closed axis 0"):
        check_domain(Unwrapped(1), cells=8, volume=1.0)
