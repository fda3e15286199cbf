"""The published problems against independent quadrature, Monte Carlo with fixed keys, and stored data."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import integrate, special, stats

import mfjax as mf
from mfjax import problems
from mfjax.measures import Particles
from mfjax.problems.teachers import bump, bump_quantile, poisson_radius

REFERENCE = Path(__file__).parent / "reference"


def on_circle(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def kernel(coefficients, s):
    k = np.arange(len(coefficients))
    return np.asarray(coefficients) @ (np.where(k == 0, 1, 2)[:, None] * np.cos(k[:, None] * s))


@pytest.mark.parametrize("gamma", [0.0, 10.0, 100.0, 1000.0])
def test_bump_is_the_poisson_kernel_and_its_quantile_inverts_it(gamma):
    array = jnp.asarray(gamma)
    theta = 2 * np.pi * np.arange(2048) / 2048
    values = np.asarray(bump(jnp.asarray(theta), array))
    moments = 2 * np.pi * np.fft.rfft(values).real[:40] / 2048
    np.testing.assert_allclose(moments, float(poisson_radius(gamma)) ** np.arange(40), atol=1e-13)
    v = np.linspace(0.01, 0.99, 25)
    node, weight = special.roots_legendre(600)
    for level, q in zip(v, np.asarray(bump_quantile(jnp.asarray(v), array)), strict=True):
        half = (q + np.pi) / 2
        mass = half * weight @ np.asarray(bump(jnp.asarray(-np.pi + half * (node + 1)), array))
        assert abs(mass - level) < 1e-12


@pytest.mark.parametrize("masses", [(2 / 3, 1 / 3), (1.5, -0.5)])
def test_circle_moments_are_those_of_the_density(masses):
    teacher = problems.CircleTeacher(10.0, masses=masses)
    grid = mf.measures.Grid(teacher.domain, 256)
    density = np.asarray(jax.vmap(teacher)(grid.points))
    angle = np.arctan2(grid.points[:, 1], grid.points[:, 0])
    k = np.arange(13)
    direct = np.exp(1j * k[:, None] * angle) @ density * float(grid.volume)
    np.testing.assert_allclose(teacher.fourier(12), direct, atol=1e-13)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("masses", [(2 / 3, 1 / 3), (1.5, -0.5)])
def test_circle_samples_have_the_moments_of_the_density(masses, stratified):
    """z-scores of the first six complex moments: 12 numbers, 4 standard errors are a chance of 1e-3."""
    teacher = problems.CircleTeacher(10.0, masses=masses)
    n = 40_000
    mu = teacher.sample(jr.key(0), n, stratified=stratified)
    angle = np.arctan2(mu.points[:, 1], mu.points[:, 0])
    u = np.asarray(mu.marks["u"])
    waves = u * np.exp(1j * np.arange(1, 7)[:, None] * angle)
    error = waves.mean(axis=1) - np.asarray(teacher.fourier(6))[1:]
    for part in (np.real, np.imag):
        z = part(error) / (part(waves).std(axis=1) / np.sqrt(n))
        assert np.max(np.abs(z)) < 4
    assert mu.marks["u"].dtype == mu.points.dtype
    if masses[1] > 0:
        np.testing.assert_allclose(u, 1, rtol=1e-14)


def test_stratified_sample_deals_a_third_to_the_second_bump():
    teacher = problems.CircleTeacher(1e6)
    for n in (100, 1001):
        mu = teacher.sample(jr.key(1), n, stratified=True)
        second = np.sum(np.asarray(mu.points @ on_circle(0.4 * jnp.pi)) > 0.95)
        # gamma = 1e6 leaves a tail of 2e-3 outside any fixed neighborhood: a few strays in 1001.
        assert abs(second - n / 3) <= 1 + 0.01 * n


def test_independent_samples_do_not_depend_on_the_width():
    teacher = problems.CircleTeacher(100.0)
    small, large = (teacher.sample(jr.key(2), n, dtype="float32") for n in (5, 40))
    assert small.points.dtype == large.marks["u"].dtype == jnp.float32
    np.testing.assert_array_equal(small.points, large.points[:5])
    teacher.domain.validate(large.points)


def test_torus_teacher_density_and_sample():
    teacher = problems.TorusTeacher(20.0)
    # The trapezoid error is of size rho^128 = 1e-25.
    grid = mf.measures.Grid(teacher.domain, 128)
    density = jax.vmap(teacher)(grid.points)
    mass = density * grid.volume
    assert abs(float(jnp.sum(mass)) - 1) < 1e-12
    n = 20_000
    mu = teacher.sample(jr.key(3), n)
    teacher.domain.validate(mu.points)
    for wave in ((1, 0), (0, 1), (1, 1), (2, -1)):
        on_grid = np.exp(0.5j * np.pi * grid.points @ jnp.asarray(wave, float))
        at_sample = np.exp(0.5j * np.pi * np.asarray(mu.points, float) @ np.asarray(wave, float))
        error = at_sample.mean() - np.asarray(mass) @ on_grid
        assert abs(error) < 4 * np.sqrt(2 / n)


def test_infinite_concentration_gives_two_atoms(dtype):
    mu = problems.TorusTeacher(jnp.inf).sample(jr.key(4), 8, dtype=dtype)
    assert mu.points.dtype == dtype
    assert set(map(tuple, np.asarray(mu.points).tolist())) == {(3.0, 0.0), (1.0, 1.0)}


def test_bias_free_kernel_is_the_arc_cosine_kernel():
    """sum_k c_k e^{iks} = (|sin s| + (pi - |s|) cos s) / (2 pi), and that is the Gaussian expectation."""
    c = problems.relu_coefficients(0.0, 4000)
    s = np.linspace(-np.pi, np.pi, 41)
    exact = (np.abs(np.sin(s)) + (np.pi - np.abs(s)) * np.cos(s)) / (2 * np.pi)
    # Tail of the series: sum over even k > 4000 of 4 / (pi^2 k^4).
    np.testing.assert_allclose(kernel(c, s), exact, atol=1.5e-12)
    for angle in (0.0, 0.7, 2.5):
        # By polar coordinates E r^2 = 2, and the angular mean of the product of two half-cosines remains.
        f = lambda t, a=angle: max(np.cos(t), 0) * max(np.cos(t - a), 0) / np.pi
        mean = integrate.quad(f, angle - np.pi / 2, np.pi / 2)[0]
        closed = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        assert abs(mean - closed) < 1e-10


@pytest.mark.parametrize("bias", [0.5, -0.5, 2.0, 0.01])
def test_coefficients_with_bias_against_two_quadratures(bias):
    degree = 24
    c = np.asarray(problems.relu_coefficients(bias, degree))
    # kappa(0) = E max(z + bias, 0)^2 for one standard normal z; the tail beyond degree 400 is below 2e-9.
    long = np.asarray(problems.relu_coefficients(bias, 400))
    at_zero = (1 + bias**2) * stats.norm.cdf(bias) + bias * stats.norm.pdf(bias)
    assert abs(long[0] + 2 * long[1:].sum() - at_zero) < 2e-9
    np.testing.assert_allclose(long[: degree + 1], c, atol=1e-14)

    # Oracle: product Gauss quadrature over the radius and over the support |t| < edge of the feature.
    node, weight = special.roots_legendre(80)
    for k in (0, 1, 2, 3, 7):
        total = 0.0
        # Beyond the corner r = |bias| the integrand is smooth in q = sqrt(r - |bias|).
        for low, high, corner in ((0, abs(bias), 0), (0, 1, 1), (1, 3.5, 1)):
            q = low + (high - low) * (node + 1) / 2
            r, slope = (abs(bias) + q**2, 2 * q) if corner else (q, 1)
            edge = np.arccos(np.clip(-bias / r, -1, 1))
            t = edge[:, None] * (node + 1) / 2
            angular = edge / 2 * ((r[:, None] * np.cos(t) + bias) * np.cos(k * t) @ weight) / np.pi
            total += (high - low) / 2 * weight @ (angular**2 * slope * r * np.exp(-(r**2) / 2))
        # At bias 0.01 the fixed panels of this oracle resolve the corner r = bias to 1e-7 only.
        assert abs(total - c[k]) < (1e-13 if abs(bias) >= 0.5 else 1e-7), k


def test_all_modes_of_the_biased_map_are_visible():
    assert float(jnp.min(problems.relu_coefficients(0.5, 200))) > 1e-12
    bias_free = np.asarray(problems.relu_coefficients(0.0, 200))
    assert np.all(bias_free[3::2] == 0) and np.all(bias_free[2::2] > 0)


def test_coefficients_are_continuous_in_the_bias():
    for bias in (1e-3, -1e-3):
        gap = problems.relu_coefficients(bias, 16) - problems.relu_coefficients(0.0, 16)
        assert float(jnp.max(jnp.abs(gap))) < 2 * abs(bias)


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_circle_modes_reproduce_the_population_kernel_of_relu(bias):
    """Mean over inputs of phi phi' = kappa, and the same with a quadrature of the Gaussian law as data."""
    degree = 40
    features = mf.features.CircleModes(problems.relu_coefficients(bias, degree))
    angle = jnp.asarray(np.linspace(0, 6, 17))
    matrix = features.matrix(on_circle(angle), features.inputs())
    assert matrix.shape == (2 * degree + 1, 17)
    gram = matrix.T @ matrix / matrix.shape[0]
    expected = [kernel(features.coefficients, np.asarray(angle - a)) for a in angle]
    np.testing.assert_allclose(gram, expected, atol=1e-13)
    x, p = problems.gaussian_quadrature(160, 1024)
    relu = mf.features.ReLU(bias).matrix(on_circle(angle), x)
    # Truncation at degree 40: at most 2 sum_{k > 40} c_k, about 1e-6. At bias 1/2 the quadrature adds the
    # square-root corner at the radius |x| = bias, of size radial^(-5/2) = 3e-6.
    assert float(jnp.max(jnp.abs(relu.T @ (p[:, None] * relu) - gram))) < (1.5e-6 if bias == 0 else 5e-6)


def test_gaussian_quadrature_has_the_moments_of_the_normal_law():
    x, p = problems.gaussian_quadrature(32, 64)
    assert abs(float(jnp.sum(p)) - 1) < 1e-14
    for a, b in ((2, 0), (4, 0), (2, 2), (6, 2), (1, 1), (3, 0)):
        exact = (special.factorial2(a - 1) if a % 2 == 0 and a else a % 2 == 0) * (
            special.factorial2(b - 1) if b % 2 == 0 and b else b % 2 == 0
        )
        np.testing.assert_allclose(p @ (x[:, 0] ** a * x[:, 1] ** b), exact, atol=1e-10, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_population_targets_are_the_image_of_the_teacher(bias):
    """y by moments = integral of the features against the density, and sampled data come near it."""
    problem = problems.circle_population(10.0, bias=bias, degree=24)
    grid = mf.measures.Grid.from_density(problem.domain, 512, problem.teacher)
    direct = problem.features.matrix(grid.points, problem.x) @ grid.weights
    np.testing.assert_allclose(problem.y, direct, atol=1e-13)
    # The data term |y|^2 is the double integral of kappa, also for sampled teacher and inputs.
    sampled = problems.circle(jr.key(5), gamma=10.0, bias=bias, inputs=4000, width=4000)
    n = sampled.y.size
    z = (jnp.mean(sampled.y**2) - jnp.mean(problem.y**2)) / (jnp.std(sampled.y**2) / np.sqrt(n))
    # The teacher's own sampling error is of the same size as that of the inputs.
    assert abs(float(z)) < 4


def test_population_risk_is_least_at_the_teacher():
    problem = problems.circle_population(10.0, bias=0.5, degree=16)
    energy = problem.risk(1e-2, mf.regularizers.Quadratic(center=1.0))
    solve = eqx.filter_jit(lambda mu: energy.solve(mu).value)
    at = lambda density: float(solve(mf.measures.Grid.from_density(problem.domain, 256, density)))
    exact = at(problem.teacher)
    assert exact < 1e-14
    assert at(lambda p: jnp.ones(())) > 1e-3
    assert at(problems.CircleTeacher(9.0)) > 1e-6


def test_signal_by_hand_and_with_signs():
    x = problems.gaussian_inputs(jr.key(6), 300)
    mu = problems.CircleTeacher(10.0, masses=(1.5, -0.5)).sample(jr.key(7), 40)
    assert set(np.unique(np.round(np.asarray(mu.marks["u"]), 12))) == {-2.0, 2.0}
    features = mf.features.ReLU()
    expected = np.maximum(np.asarray(x) @ np.asarray(mu.points).T, 0) @ np.asarray(mu.marks["u"]) / 40
    np.testing.assert_allclose(problems.network_output(features, mu, x), expected, rtol=1e-12, atol=1e-14)


def test_signal_reproduces_the_stored_reference_targets():
    with np.load(REFERENCE / "setup_1d.npz") as setup:
        x, y, angle = setup["x"], setup["y"], setup["teacher_theta"]
    neurons = Particles(on_circle(jnp.asarray(angle)))
    np.testing.assert_allclose(
        problems.network_output(mf.features.ReLU(), neurons, jnp.asarray(x)), y, atol=1e-13
    )


def test_total_variation_of_a_signed_teacher():
    teacher = problems.CircleTeacher(100.0, masses=(1.0, -1.0))
    points = lambda t: np.array([np.cos(t), np.sin(t)])
    f = lambda t: abs(float(teacher(jnp.asarray(points(t)))))
    crossings = [0.2 * np.pi, 1.2 * np.pi]
    exact = sum(
        integrate.quad(f, a, b, limit=200, epsabs=1e-11)[0]
        for a, b in ((-0.8 * np.pi, 0.2 * np.pi), (0.2 * np.pi, 1.2 * np.pi))
    )
    assert all(f(t) < 1e-12 for t in crossings)
    np.testing.assert_allclose(float(teacher.variation()), exact, atol=1e-6)
    assert exact < 2
    absolute = teacher.absolute()
    grid = mf.measures.Grid(teacher.domain, 4096)
    np.testing.assert_allclose(float(jnp.sum(jax.vmap(absolute)(grid.points)) * grid.volume), 1, rtol=1e-12)
    positive = problems.CircleTeacher(100.0)
    np.testing.assert_allclose(float(positive.variation()), 1, rtol=1e-12)


def test_torus_problem_by_hand():
    problem = problems.torus(jr.key(8), gamma=jnp.inf, inputs=20, width=8, dtype="float32")
    assert problem.y.dtype == jnp.float32 and problem.domain.dim == 2
    distance = lambda x, c: np.linalg.norm((x - c + 2) % 4 - 2, axis=-1)
    share = float(jnp.mean(problem.neurons.points[:, 0] == 3))
    x = np.asarray(problem.x, float)
    by_hand = share * 8 * np.exp(-distance(x, [3, 0]) / 2) + (1 - share) * 8 * np.exp(
        -distance(x, [1, 1]) / 2
    )
    np.testing.assert_allclose(problem.y, by_hand, rtol=1e-5)
    # The teacher's own neurons with unit outer weights interpolate: the risk for f_u is zero.
    solution = eqx.filter_jit(problem.risk(1e-1, mf.regularizers.Quadratic(1.0)).solve)(problem.neurons)
    assert abs(float(solution.value)) < 1e-4


def test_gradient_in_gamma_matches_finite_differences():
    point = on_circle(jnp.asarray(0.3))
    value = lambda gamma: problems.CircleTeacher(gamma)(point)
    step = 1e-5
    slope = (value(10.0 + step) - value(10.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(10.0), slope, rtol=1e-7)


def test_gradient_of_the_modes_is_finite_at_invisible_modes():
    features = lambda c: mf.features.CircleModes(c).matrix(
        on_circle(jnp.asarray([0.4])), jnp.array([[3.0, 0.0]])
    )
    slope = jax.grad(lambda c: jnp.sum(features(c)))(problems.relu_coefficients(0.0, 4))
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: problems.CircleTeacher(-1.0), "gamma must be at least 0"),
        (lambda: problems.CircleTeacher(jnp.inf), "gamma must be finite"),
        (lambda: problems.CircleTeacher(jnp.nan), "gamma must be finite"),
        (lambda: problems.TorusTeacher(-1.0), "gamma must be at least 0"),
        (lambda: problems.CircleTeacher(1.0, masses=(1.0,)), "masses must have shape"),
        (lambda: problems.CircleTeacher(1.0, masses=(0.0, 0.0)), "not all zero"),
        (lambda: problems.TorusTeacher(1.0, centers=(0.0, 1.0)), "centers must have shape"),
        (lambda: problems.CircleTeacher(1.0).sample(jr.key(0), 0), "n must be at least 1"),
        (lambda: problems.relu_coefficients(0.0, 0), "degree must be at least 1"),
        (lambda: problems.relu_coefficients(jnp.inf, 4), "bias must be finite"),
        (lambda: mf.features.CircleModes([1.0]), "coefficients must be a vector"),
        (lambda: mf.features.CircleModes([1.0, -1.0]), "coefficients must be non-negative"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
