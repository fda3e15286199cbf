"""Measures on zones of spheres: averaged kernels, their harmonics, and flows of any dimension."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import special

import mfjax as mf
from mfjax._numerics.harmonics import multiplicities, zonal_harmonics
from mfjax.energies import MMD, Interaction, PopulationReducedRisk, Risk
from mfjax.features import ZonalModes
from mfjax.kernels import ArcCosine, Distance, Gaussian, SmoothedGaussian, ZonalKernel
from mfjax.measures import Grid, Particles
from mfjax.problems import relu_coefficients
from mfjax.steppers import RK4
from mfjax.testing import check_energy, check_feature_map

ANGLES = jnp.array([[0.0], [0.4], [1.3], [1.9], [2.8], [np.pi]])
MASSES = jnp.array([0.1, 0.3, 0.2, 0.15, 0.05, 0.2])


def exponential(x, y):
    return jnp.exp(x @ y)


def gram(kernel, x, y):
    return np.asarray(jax.vmap(lambda x: jax.vmap(lambda y: kernel(x, y))(y))(x))


def of_circle(mu):
    """The measure on S^1 that one on Zonal(1) stands for: half of each mass on either side of the axis."""
    both = jnp.concatenate([mu.points, -mu.points])[:, 0]
    return Particles(jnp.stack([jnp.sin(both), jnp.cos(both)], axis=1), jnp.tile(0.5 * mu.weights, 2))


# --- kernels ----------------------------------------------------------------------------------------------

ENERGIES = {
    "discrepancy": lambda k, nu: MMD(k, nu),
    "interaction": lambda k, nu: Interaction(k),
    "variable projection": lambda k, nu: PopulationReducedRisk(k, nu, 0.1),
}


@pytest.mark.slow_cases(
    *("relu-discrepancy", "relu-interaction", "relu-variable projection"),
    *("gaussian-interaction", "gaussian-variable projection"),
)
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("kernel", [ArcCosine(), Gaussian(0.6)], ids=["relu", "gaussian"])
def test_zones_of_the_circle_are_symmetric_measures_on_it(name, kernel):
    """One declaration, d = 1: energy, potential, rates and whole flows to 1e-10."""
    mu, nu = Particles(ANGLES[1:5], MASSES[1:5]), Particles(ANGLES[2:] - 0.2, MASSES[2:])
    sides = (mf.domains.Zonal(1), ZonalKernel(kernel, 1), mu, nu)
    found = []
    for domain, k, start, teacher in (sides, (mf.domains.Sphere(1), kernel, of_circle(mu), of_circle(nu))):
        flow = mf.flows.WassersteinFisherRao(ENERGIES[name](k, teacher), domain, 1.0, 2.0)
        run = mf.simulate(flow, start, stepper=RK4(0.005), steps=2, save_every=1)
        height = jnp.cos(run.final.points[:, 0]) if domain.ambient == 1 else run.final.points[:, 1]
        moments = [float(run.final.integrate(height**p)) for p in range(4)]
        found.append([*run.observables["energy"], *run.observables["dissipation"], *moments])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


def rotations(dim, count):
    """Rotations of R^(dim + 1) about the last axis: evenly spaced for dim = 2, else random ones."""
    found = np.zeros((count, dim + 1, dim + 1))
    found[:, -1, -1] = 1
    if dim == 2:
        turn = 2 * np.pi * np.arange(count) / count
        found[:, :2, :2] = np.moveaxis(
            np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]), 2, 0
        )
    else:
        found[:, :-1, :-1] = special_orthogonal(dim, count)
    return found


def special_orthogonal(dim, count):
    q, r = np.linalg.qr(np.random.default_rng(dim).normal(size=(count, dim, dim)))
    return q * np.sign(np.einsum("nii->ni", r))[:, None, :]


@pytest.mark.parametrize("kernel", [exponential, Gaussian(0.5), SmoothedGaussian(0.7)])
def test_the_kernel_is_the_mean_over_rotations(kernel):
    """256 turns on S^2, to rounding; 2000 random rotations on S^4, within 4 standard errors."""
    lifted = {d: np.asarray(jax.vmap(mf.domains.Zonal(d).lift)(ANGLES)) for d in (2, 4)}
    for dim, count in ((2, 256), (4, 2000)):
        turned = np.einsum("nij,kj->kni", rotations(dim, count), lifted[dim])
        values = np.stack([gram(kernel, jnp.asarray(lifted[dim]), jnp.asarray(y)) for y in turned], axis=1)
        averaged = gram(ZonalKernel(kernel, dim), ANGLES, ANGLES)
        gap = values.mean(axis=2) - averaged
        if dim == 2:
            np.testing.assert_allclose(gap, 0, atol=1e-14)
        else:
            assert np.all(np.abs(gap) <= 4 * values.std(axis=2) / np.sqrt(count) + 1e-13)


@pytest.mark.slow_cases("2-distance", "3-relu", "3-distance")
@pytest.mark.parametrize(("kernel", "power"), [(ArcCosine(), 3), (Distance(), 1)], ids=["relu", "distance"])
@pytest.mark.parametrize("dim", [2, 3])
def test_nodes_at_a_kink(kernel, power, dim):
    """The error of Q nodes falls like Q^-(p + d - 1), p the power of |x - y|; smooth kernels have none."""
    angle = jnp.array([[0.7], [np.pi / 2]])
    error = lambda k, q: np.abs(
        gram(ZonalKernel(k, dim, q), angle, angle) - gram(ZonalKernel(k, dim, 1024), angle, angle)
    ).max()
    order = np.log2(error(kernel, 16) / error(kernel, 32))
    assert abs(order - (power + dim - 1)) < 0.15, order
    assert error(Gaussian(0.3), 16) < 1e-13


CHECKED = {
    "mmd": lambda s, d: MMD(ZonalKernel(Gaussian(s), 3, 12), Particles(ANGLES[1:4].astype(d))),
    "mmd, relu": lambda s, d: s * MMD(ZonalKernel(ArcCosine(), 2, 12), Particles(ANGLES[1:4].astype(d))),
    "population risk": lambda s, d: PopulationReducedRisk(
        ZonalKernel(ArcCosine(), 10, 12), Particles(ANGLES[1:4].astype(d)), s
    ),
    "interaction": lambda s, d: Interaction(ZonalKernel(Gaussian(s), 2, 12)),
    "risk of harmonics": lambda s, d: s * harmonic_risk(3, 6, d),
}


def harmonic_risk(dim, degree, dtype="float64"):
    features = ZonalModes(relu_coefficients(0.0, degree, dim, dtype=dtype), dim)
    return Risk(features, features.inputs(), jnp.ones(degree + 1, dtype))


@pytest.mark.slow_cases("interaction", "mmd", "mmd, relu", "population risk")
@pytest.mark.parametrize("name", CHECKED)
def test_generic(name):
    mu = Particles(ANGLES[1:5] + 0.1, MASSES[1:5])
    energy, other = (CHECKED[name](value, "float64") for value in (0.5, 0.8))
    check_energy(energy, mu, variants=[other])


@pytest.mark.parametrize(("data", "measure"), [("float64", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("name", CHECKED)
def test_the_dtype_is_that_of_the_measure(name, data, measure):
    mu, energy = Particles(ANGLES.astype(measure), MASSES), CHECKED[name](0.5, data)
    found = jax.eval_shape(
        lambda mu: (energy(mu), energy.potential(mu)(mu.points[0]), energy.gradient_field(mu)), mu
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(measure)}


# --- the sphere -------------------------------------------------------------------------------------------


def drawn(grid, dim, key, n):
    """Points of S^dim from the orbits of a zonal density, each turned at random."""
    for_cell, for_turn = jr.split(key)
    theta = grid.points[jr.choice(for_cell, grid.size, (n,), p=grid.weights), 0]
    around = jr.normal(for_turn, (n, dim))
    around = around / jnp.linalg.norm(around, axis=1, keepdims=True)
    return jnp.concatenate([jnp.sin(theta)[:, None] * around, jnp.cos(theta)[:, None]], axis=1)


@pytest.mark.slow_cases("relu-2", "relu-3", "relu-10", "gaussian-3", "gaussian-10")
@pytest.mark.parametrize("dim", [2, 3, 10])
@pytest.mark.parametrize("kernel", [ArcCosine(), Gaussian(0.8)], ids=["relu", "gaussian"])
def test_a_zonal_grid_against_particles_of_the_sphere(kernel, dim):
    """Potential, its slope and interaction energy within 4 standard errors of 20000 points of the orbits."""
    n, zones = 20000, mf.domains.Zonal(dim)
    grid = Grid.from_density(zones, 48, lambda x: jnp.exp(1.5 * jnp.cos(x[0])))
    averaged, energy = ZonalKernel(kernel, dim), Interaction(ZonalKernel(kernel, dim))
    points, others = (drawn(grid, dim, jr.key(i), n) for i in (dim, 100 + dim))
    theta = jnp.array([1.1])
    at_sphere = jax.vmap(lambda y: jax.jvp(lambda t: kernel(zones.lift(t), y), (theta,), (jnp.ones(1),)))
    at_zones = jax.jvp(energy.potential(grid), (theta,), (jnp.ones(1),))
    exact = [*at_zones, 2 * energy(grid)]
    for value, sample in zip(exact, (*at_sphere(points), jax.vmap(kernel)(points, others)), strict=True):
        z = (float(jnp.mean(sample)) - float(value)) / (float(jnp.std(sample)) / np.sqrt(n))
        assert abs(z) < 4, z
    assert averaged.conditional is False


# --- harmonics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_harmonics_and_the_spectrum_of_relu(dim):
    """P_l against SciPy; c_l by Funk-Hecke quadrature, their trace 1/2, their decay l^-(d + 3)."""
    degree, theta = 24, np.linspace(0, np.pi, 33)
    found = zonal_harmonics(degree, dim) @ np.cos(np.outer(np.arange(degree + 1), theta))
    for n in range(degree + 1):
        index = max((dim - 1) / 2, 1e-9)
        exact = special.eval_gegenbauer(n, index, np.cos(theta)) / special.eval_gegenbauer(n, index, 1.0)
        np.testing.assert_allclose(found[n], exact, atol=1e-7 if dim == 1 else 1e-13)
    node, weight = np.polynomial.legendre.leggauss(400)
    t = np.pi / 2 * (node + 1)
    weight = weight * np.sin(t) ** (dim - 1)
    kappa = (np.sin(t) + (np.pi - t) * np.cos(t)) / (2 * np.pi)
    harmonics = zonal_harmonics(degree, dim) @ np.cos(np.outer(np.arange(degree + 1), t))
    c = np.asarray(relu_coefficients(0.0, 2000, dim))
    np.testing.assert_allclose(c[: degree + 1], harmonics @ (weight * kappa) / weight.sum(), atol=1e-9)
    assert np.all(c[3::2] == 0) and np.all(c[:3] > 0)
    assert abs(np.log2(c[1000] / c[2000]) - (dim + 3)) < 0.05
    np.testing.assert_allclose(c @ np.array(multiplicities(2000, dim)), 0.5, atol=1e-8)


@pytest.mark.slow_cases("1", "10")
@pytest.mark.parametrize("dim", [1, 3, 10])
def test_modes_make_the_averaged_kernel(dim):
    """The addition theorem: the mean of phi phi' is the orbit average, to the tail of the series."""
    features = ZonalModes(relu_coefficients(0.0, 32, dim), dim)
    matrix = np.asarray(features.matrix(ANGLES, features.inputs()))
    expected = gram(ZonalKernel(ArcCosine(), dim), ANGLES, ANGLES)
    tail = 0.5 - float(features.coefficients @ features.multiplicities)
    np.testing.assert_allclose(matrix.T @ matrix / 33, expected, atol=1.01 * tail)
    nu = Particles(ANGLES, MASSES)
    moments = zonal_harmonics(32, dim) @ np.cos(np.outer(np.arange(33), ANGLES)) @ np.asarray(MASSES)
    np.testing.assert_allclose(
        features.image(jnp.asarray(moments)), matrix @ np.asarray(nu.weights), atol=1e-11
    )
    check_feature_map(features, ANGLES, features.inputs())


# --- one declaration --------------------------------------------------------------------------------------


def law(x):
    return jnp.exp(0.8 * jnp.cos(x[0]) + 0.4 * jnp.cos(2 * x[0]))


def scattered(domain, n):
    """Particles at even angles with the masses of `law`.

    Quantiles, of equal masses, would have order 1 + 2/d alone: they grow like u^(1/d) at the poles.
    """
    grid = Grid.from_density(domain, n, law)
    return Particles(grid.points, grid.weights)


def declared(name, dim):
    """A flow, how far it runs, and in how many steps."""
    domain, teacher = mf.domains.Zonal(dim), Particles(jnp.array([[0.9], [1.5]]), [0.6, 0.4])
    smooth = MMD(ZonalKernel(exponential, dim, 10), teacher)
    if name == "discrepancy":
        return mf.flows.Wasserstein(smooth, domain), 0.4, 8
    if name == "growth":
        return mf.flows.WassersteinFisherRao(smooth, domain, 1.0, 2.0), 0.4, 8
    risk = PopulationReducedRisk(ZonalKernel(ArcCosine(), dim, 16), teacher, 0.1)
    return mf.flows.Wasserstein(risk, domain), 0.2, 8


SYSTEMS = [(n, d) for n in ("discrepancy", "growth", "variable projection") for d in (1, 2, 3, 10)]


def test_rates_of_particles_and_density_from_one_declaration():
    """Energy and dissipation on S^10, of a density and of particles, with order 2 in the cells."""
    flow, _, _ = declared("growth", 10)

    def rates(mu):
        now = flow.evaluate(flow.init(mu))
        return np.array([float(now.energy), float(now.dissipation)])

    exact = rates(scattered(flow.domain, 128))
    errors = [np.abs(rates(Grid.from_density(flow.domain, n, law)) / exact - 1).sum() for n in (16, 32)]
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.3 and errors[1] < 0.02, errors


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), SYSTEMS)
def test_particles_and_density_from_one_declaration(name, dim):
    """Mass, two moments and energy of the density meet those of particles with observed order 2."""
    flow, end, steps = declared(name, dim)

    def ended(mu):
        final = mf.simulate(flow, mu, stepper=RK4(end / steps), steps=steps).final
        height = jnp.cos(final.points[:, 0])
        moments = [final.integrate(height**p) for p in range(3)]
        return np.array([*map(float, moments), float(flow.energy(final))])

    # Two numbers of particles, whose error of second order is extrapolated away.
    coarse, fine = (ended(scattered(flow.domain, n)) for n in (64, 128))
    exact, sizes = fine + (fine - coarse) / 3, (16, 32, 64)
    errors = np.stack([np.abs(ended(Grid.from_density(flow.domain, n, law)) - exact) for n in sizes])
    total = np.sum(errors, axis=1)
    orders = np.log2(total[:-1] / total[1:])
    print(name, dim, orders, errors[-1])
    assert abs(orders[-1] - 2) < 0.2 and np.all(errors[-1] < 2e-2), (orders, errors)


# --- exponents --------------------------------------------------------------------------------------------

EXPONENTS = [(kind, dim) for kind in ("jump", "kink") for dim in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dim"), EXPONENTS, ids=lambda value: str(value))
def test_rough_teachers_are_learnt_at_the_rate_of_their_smoothness(kind, dim):
    """E ~ t^-(r + s)/(s - 1), s = (d + 3)/2, of the ReLU risk: r = 1/2 for a jump, 3/2 for a kink.

    Over the decade up to t = 10^4: the exponent of the linearized flow to 0.02, that of the limit to 0.15. In
    the norm of dot-H^-1 in place of dot-H^-s, that is (r + 1)/(s - 1).
    """
    domain, degree, beta = mf.domains.Zonal(dim), 64, 2.0
    coefficients = relu_coefficients(0.0, degree, dim)
    features = ZonalModes(coefficients, dim)
    at = np.pi / 3 if kind == "jump" else np.pi / 2
    node, weight = np.polynomial.legendre.leggauss(300)
    angle = np.concatenate([at * (node + 1) / 2, at + (np.pi - at) * (node + 1) / 2])
    volume = np.concatenate([at * weight, (np.pi - at) * weight]) * np.sin(angle) ** (dim - 1)
    volume = volume / volume.sum()
    shape = np.sign(at - angle) if kind == "jump" else np.abs(np.cos(angle))
    change = volume * 0.03 * (shape - volume @ shape)
    y, gap = (
        np.asarray(features.matrix(jnp.asarray(angle)[:, None], features.inputs())) @ masses
        for masses in (volume + change, change)
    )
    risk = Risk(features, features.inputs(), jnp.asarray(y))
    # Gauss nodes: errors of the uniform start, which fall slowly, would be seen beside so small a teacher.
    height, masses = special.roots_jacobi(144, dim / 2 - 1, dim / 2 - 1)
    start, times = Particles(np.arccos(height)[:, None], masses / masses.sum()), np.array([1e3, 1e4])
    smoother = mf.observables.SobolevNorm(Particles(angle[:, None], volume + change), -1.0, domain, degree)
    run = mf.simulate(
        mf.flows.WassersteinFisherRao(risk, domain, 1.0, beta),
        start,
        stepper=RK4(2.5),
        save_at=times,
        save_measures=False,
        observables={"norm": smoother},
    )
    k = np.arange(degree + 1)
    rates = (k * (k + dim - 1) + beta) * np.asarray(coefficients)
    linear = np.exp(-2 * np.outer(times, rates)) @ gap**2
    exponent, of_linear = (np.log10(e[-2] / e[-1]) for e in (run.observables["energy"], linear))
    s, r = (dim + 3) / 2, {"jump": 0.5, "kink": 1.5}[kind]
    print(f"S^{dim}, {kind}: {exponent:.3f}, linearized {of_linear:.3f}, limit {(r + s) / (s - 1):.3f}")
    assert abs(exponent - of_linear) < 0.02 and abs(exponent - (r + s) / (s - 1)) < 0.15
    if kind == "kink" and dim > 1:
        # All of its harmonics are seen, and by far not all of those up to `degree` are learnt.
        in_norm = 2 * np.log10(run.observables["norm"][-2] / run.observables["norm"][-1])
        print(f"S^{dim}, {kind}, in dot-H^-1: {in_norm:.3f}, limit {(r + 1) / (s - 1):.3f}")
        assert abs(in_norm - (r + 1) / (s - 1)) < 0.15
