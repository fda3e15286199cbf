"""Predicted rates: closed forms with exact aliasing and mesh symbols, an independent Galerkin solve, runs."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import mfjax as mf
import mfjax.observables
from mfjax import problems
from mfjax._engine.loop import trajectory
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.regularizers import Quadratic
from mfjax.theory.spectrum import linearize

CIRCLE = mf.domains.Sphere(1)
# One size for the particle tests, so that they share one compiled program.
M, DEGREE = 32, 12
MODES = mf.observables.FourierModes(3, CIRCLE)
UNIFORM = problems.CircleTeacher(0.0)


def on_circle(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def lattice(m, dtype=float):
    return Particles(on_circle(2 * jnp.pi * jnp.arange(m, dtype=dtype) / m))


def varpro(lam, center, degree, bias=0.5, dtype=float):
    c = problems.relu_coefficients(bias, degree, dtype=dtype)
    features = mf.features.CircleModes(c)
    y = features.image(UNIFORM.fourier(degree)).astype(dtype)
    energy = mf.energies.ReducedRisk(features, features.inputs(), y, lam, Quadratic(center))
    return mf.flows.Wasserstein(energy, CIRCLE), np.asarray(c, float)


def mode_rates(c, lam, center, waves):
    """specs: k^2 c_k / (c_k + lam), times (c_0 / (c_0 + lam))^2 for center 0."""
    k = np.abs(np.asarray(waves))
    ck = np.where(k < len(c), c[np.minimum(k, len(c) - 1)], 0)
    return k**2 * ck / (ck + lam) * (1.0 if center else (c[0] / (c[0] + lam)) ** 2)


@pytest.mark.slow_cases("1.0-0.0-0.0")
@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("center", [0.0, 1.0])
@pytest.mark.parametrize("lam", [1.0, 1e-3])
def test_varpro_rates_on_particles(bias, center, lam):
    """Exact on a lattice when the kernel has no mode beyond M / 2: bar of the specification 1e-6."""
    m, degree = M, DEGREE
    flow, c = varpro(lam, center, degree, bias)
    spectrum = linearize(flow, lattice(m))
    waves = np.arange(m)
    expected = np.sort(mode_rates(c, lam, center, np.minimum(waves, m - waves)))
    print(f"bias {bias}, center {center}, lam {lam:g}: error {np.max(np.abs(spectrum.rates - expected)):.1e}")
    np.testing.assert_allclose(spectrum.rates, expected, atol=1e-9, rtol=1e-9)
    assert float(spectrum.speed) < 1e-12
    assert float(spectrum.gap()) == pytest.approx(np.min(expected[expected > 1e-6]), rel=1e-8)


@pytest.mark.slow
def test_aliasing_of_a_lattice_is_exact():
    """With the lattice itself as teacher and modes beyond M / 2, class k of p = k mod M has a closed rate.

    (lam + a a^T)^{-1} on the class, a_p = sqrt(c_p): rate = (d.d - (a.d)^2 / (lam + a.a)) / lam, d_p = p a_p.
    """
    m, degree, lam = 12, 40, 1e-2
    c = problems.relu_coefficients(0.5, degree)
    features = mf.features.CircleModes(c)
    mu = lattice(m)
    y = features.matrix(mu.points, features.inputs()) @ mu.weights
    energy = mf.energies.ReducedRisk(features, features.inputs(), y, lam, Quadratic(1.0))
    spectrum = linearize(mf.flows.Wasserstein(energy, CIRCLE), mu)
    expected = []
    for k in range(m):
        p = np.array([q for q in range(-degree, degree + 1) if (q - k) % m == 0])
        a = np.sqrt(np.asarray(c))[np.abs(p)]
        expected.append((np.sum((p * a) ** 2) - np.sum(p * a * a) ** 2 / (lam + np.sum(a * a))) / lam)
    np.testing.assert_allclose(spectrum.rates, np.sort(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_mmd_rates_on_particles():
    m, degree = 24, 8
    c = problems.relu_coefficients(0.5, degree)
    features = mf.features.CircleModes(c)
    inputs = features.inputs()
    kernel = lambda x, y: jnp.mean(jax.vmap(lambda j: features(x, j) * features(y, j))(inputs))
    flow = mf.flows.Wasserstein(mf.energies.MMD(kernel, lattice(64)), CIRCLE)
    k = np.minimum(np.arange(m), m - np.arange(m))
    expected = np.sort(k**2 * np.where(k <= degree, np.asarray(c)[np.minimum(k, degree)], 0))
    np.testing.assert_allclose(linearize(flow, lattice(m)).rates, expected, atol=1e-12)


def test_varpro_becomes_the_mmd_flow_for_large_lam():
    """lam times the rates tend to k^2 c_k with error O(1 / lam)."""
    errors = []
    for lam in (1e2, 1e3):
        flow, c = varpro(lam, 1.0, DEGREE)
        rates = lam * linearize(flow, lattice(M)).rates
        k = np.minimum(np.arange(M), M - np.arange(M))
        errors.append(
            np.max(np.abs(rates - np.sort(k**2 * np.where(k <= DEGREE, c[np.minimum(k, DEGREE)], 0))))
        )
    assert errors[1] < 0.11 * errors[0] < 0.01


@pytest.mark.slow_cases("0.0", "1.0")
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_varpro_rates_on_a_grid(center):
    """The scheme has k replaced by 2 sin(k h / 2) / h, exactly; extrapolated in h the rates meet 1e-6."""
    lam, degree = 1e-2, 4
    flow, c = varpro(lam, center, degree)
    waves = np.repeat(np.arange(1, degree + 1), 2)
    exact = np.sort(mode_rates(c, lam, center, waves))
    levels = []
    for n in (128, 256):
        rates = np.asarray(linearize(flow, Grid.uniform(CIRCLE, n)).rates)
        assert rates.shape == (n - 1,)
        symbol = (np.sin(np.pi * waves / n) * n / np.pi / waves) ** 2
        seen = np.sort(rates)[-2 * degree :]
        np.testing.assert_allclose(
            seen, np.sort(mode_rates(c, lam, center, waves) * symbol), rtol=1e-8, atol=1e-9
        )
        assert np.max(np.abs(rates[: -2 * degree])) < 1e-8
        levels.append(seen)
    extrapolated = (4 * levels[1] - levels[0]) / 3
    print(f"center {center}, from 128 and 256 cells: error {np.max(np.abs(extrapolated - exact)):.1e}")
    np.testing.assert_allclose(extrapolated, exact, atol=1e-6, rtol=0)


def galerkin_rates(gamma, degree, n):
    """Eigenvalues of h -> -(nu h')' / nu by Fourier-Galerkin with closed-form moments: spectral accuracy."""
    teacher = problems.CircleTeacher(gamma)
    moments = np.asarray(teacher.fourier(2 * degree))
    p = np.arange(-degree, degree + 1)
    mass = scipy.linalg.toeplitz(moments, moments.conj())[: p.size, : p.size]
    stiffness = p[:, None] * p * mass
    return scipy.linalg.eigh(stiffness, mass, eigvals_only=True, subset_by_index=[1, n])


GAPS = {10.0: 1.06097, 100.0: 0.99737, 1000.0: 0.39433}


@pytest.mark.parametrize("gamma, degree", [(10.0, 40), (100.0, 80), (1000.0, 160)])
def test_spectral_gap_of_the_circle_teacher(gamma, degree):
    """The gaps of the specification, by a method that shares nothing with the grid."""
    assert galerkin_rates(gamma, degree, 1)[0] == pytest.approx(GAPS[gamma], abs=5.1e-6)


@pytest.mark.slow_cases("2.0-0.5")
@pytest.mark.parametrize("order, scale", [(2.0, 0.5), (3.0, 1.0)])
def test_ultra_fast_diffusion_rates_on_a_grid(order, scale):
    """order * scale times the spectrum of the weighted Laplacian, to 1e-6 after extrapolation in the mesh."""
    exact = order * scale * galerkin_rates(10.0, 60, 4)
    teacher, levels = problems.CircleTeacher(10.0), []
    for n in (64, 128, 256):
        target = Grid.from_density(CIRCLE, n, teacher)
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target, order, scale), CIRCLE)
        spectrum = linearize(flow, target)
        assert float(spectrum.speed) < 1e-10 and np.max(np.abs(spectrum.frequencies)) < 1e-8
        levels.append(np.asarray(spectrum.rates[:4]))
    once = [(4 * b - a) / 3 for a, b in itertools.pairwise(levels)]
    twice = (16 * once[1] - once[0]) / 15
    print("gap on 64, 128, 256 cells and extrapolated:", [float(v[0]) for v in [*levels, twice]], exact[0])
    print(f"largest error of four rates: {np.max(np.abs(twice - exact)):.1e}")
    np.testing.assert_allclose(twice, exact, atol=1e-6)
    ratio = (levels[0] - levels[1]) / (levels[1] - levels[2])
    assert np.all((ratio > 3.5) & (ratio < 4.5))


def test_gap_at_gamma_1000():
    """A sharp teacher needs a finer mesh; two levels come within 0.2 %."""
    levels = []
    for n in (128, 256):
        target = Grid.from_density(CIRCLE, n, problems.CircleTeacher(1000.0))
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target, 2.0, 0.5), CIRCLE)
        levels.append(float(linearize(flow, target).gap()))
    assert (4 * levels[1] - levels[0]) / 3 == pytest.approx(GAPS[1000.0], rel=2e-3)


@pytest.mark.slow
def test_modes_are_eigenvectors_and_waves():
    lam, degree, m = 1e-2, DEGREE, M
    flow, c = varpro(lam, 1.0, degree)
    mu = lattice(m)
    spectrum = linearize(flow, mu)
    assert spectrum.modes.points.shape == (m, m, 2)
    i = m - 1
    mode, step = spectrum.modes.points[i], 1e-5
    move = lambda s: flow.rate(flow.init(Particles(jax.vmap(CIRCLE.retract)(mu.points, s * mode)))).points
    slope = (move(step) - move(-step)) / (2 * step)
    tangential = jax.vmap(CIRCLE.project)(mu.points, slope)
    np.testing.assert_allclose(tangential, -spectrum.rates[i] * mode, atol=1e-6)
    normal = jnp.sum(mu.points * mode, axis=-1)
    np.testing.assert_allclose(normal, 0, atol=1e-13)
    along = jnp.sum(mode * jnp.stack([-mu.points[:, 1], mu.points[:, 0]], axis=-1), axis=-1)
    power = np.abs(np.fft.fft(np.asarray(along))) ** 2
    k = int(np.argmax(mode_rates(c, lam, 1.0, np.arange(m // 2))))
    assert power[k] + power[m - k] > (1 - 1e-9) * power.sum()


@pytest.mark.slow
def test_padding_does_not_change_the_rates():
    """Zero-mass particles only add their own rates."""
    m, degree, lam = M, DEGREE, 1e-2
    flow, _ = varpro(lam, 0.0, degree)
    expected = np.asarray(linearize(flow, lattice(m)).rates)
    points = jnp.concatenate([lattice(m).points, on_circle(jnp.array([0.1, 0.7]))])
    weights = jnp.concatenate([jnp.full((m,), 1 / m), jnp.zeros(2)])
    padded = np.asarray(linearize(flow, Particles(points, weights)).rates)
    np.testing.assert_allclose(padded, np.sort(np.append(expected, [0, 0])), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 3])
def test_padding_adds_its_own_rates_eagerly_and_traced(width, dtype):
    """A mean that attracts (interaction) and a well: padding elsewhere, steeper and not at rest."""
    x, y = jnp.ones((1, 1), dtype), jnp.zeros((1,), dtype)
    risk = mf.energies.Risk(mf.features.Function(lambda xi, x: xi[0] * x[0]), x, y, lam=0.0)
    well = mf.energies.Potential(lambda x: jnp.sum(1.5 * x * x + x**4 / 12))
    flow, points = mf.flows.Wasserstein(risk + well, mf.domains.Euclidean(1)), jnp.zeros((3, 1), dtype)
    points = points.at[width:].set(2.0)
    spectrum = lambda w, p: linearize(flow, Particles(p, w), tolerance=None)
    weights = padded_weights(width, 3).astype(dtype)
    # Curvature 3 of the well at 0, and 1 more for the mean; 3 + x^2 at the padding.
    expected = np.sort([3.0] * (width - 1) + [4.0] + [7.0] * (3 - width))
    eager, traced = linearize(flow, Particles(points, weights)), jax.jit(spectrum)(weights, points)
    for found in (eager, traced):
        np.testing.assert_allclose(found.rates, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
        assert found.speed == 0 and bool(jnp.all(jnp.isfinite(found.modes.points)))
    alone = linearize(flow, Particles(points[:width]))
    np.testing.assert_allclose(alone.rates, expected[:width], rtol=1e-5)


@pytest.mark.slow
def test_two_timescale_tends_to_varpro():
    """Marks are part of the linearized state; the slow branch is VarPro's spectrum to O(1 / gamma)."""
    m, degree, lam = M, DEGREE, 0.1
    flow, _ = varpro(lam, 1.0, degree)
    expected = np.asarray(linearize(flow, lattice(m)).rates)
    errors = []
    for gamma in (1e3, 1e4):
        slow = linearize(mf.flows.TwoTimescale(flow.energy, CIRCLE, rate=gamma), lattice(m))
        assert slow.rates.shape == (2 * m,) and slow.modes.marks["u"].shape == (2 * m, m)
        errors.append(np.max(np.abs(np.asarray(slow.rates[:m]) - expected)))
    assert errors[1] < 0.12 * errors[0] < 0.1


def test_ornstein_uhlenbeck_type_potential_in_two_dimensions():
    stiffness = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    energy = mf.energies.Potential(lambda x: 0.5 * x @ stiffness @ x)
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(2))
    rates = linearize(flow, Particles(jnp.zeros((3, 2)), jnp.array([0.2, 0.3, 0.5]))).rates
    np.testing.assert_allclose(rates, np.repeat(np.linalg.eigvalsh(stiffness), 3), atol=1e-12)


@pytest.mark.slow
def test_derivative_in_lam_and_jit():
    degree = DEGREE
    flow, c = varpro(0.1, 1.0, degree)

    def slowest(lam):
        moved = eqx.tree_at(lambda f: f.energy.lam, flow, lam)
        return jnp.sum(linearize(moved, lattice(M)).rates)

    # A measure that is a constant of the program is inspected, not traced.
    mu = lattice(M)
    inside = jax.jit(
        lambda lam: linearize(eqx.tree_at(lambda f: f.energy.lam, flow, lam), mu, tolerance=None).rates
    )
    np.testing.assert_allclose(inside(0.1), linearize(flow, mu).rates, atol=1e-12)
    waves = np.minimum(np.arange(M), M - np.arange(M))
    ck = np.where(waves <= degree, c[np.minimum(waves, degree)], 0)
    exact = np.sum(-(waves**2) * ck / (ck + 0.1) ** 2)
    np.testing.assert_allclose(jax.jit(jax.grad(slowest))(0.1), exact, rtol=1e-8)


@pytest.mark.slow
def test_dtype_follows_the_measure(dtype):
    flow, c = varpro(0.1, 1.0, DEGREE, dtype=dtype)
    spectrum = linearize(flow, lattice(M, dtype))
    assert spectrum.rates.dtype == dtype and spectrum.modes.points.dtype == dtype
    assert "ReducedRisk" in spectrum.note and f"{M} particles" in spectrum.note
    expected = np.sort(mode_rates(c, 0.1, 1.0, np.minimum(np.arange(M), M - np.arange(M))))
    np.testing.assert_allclose(spectrum.rates, expected, atol=1e-9 if dtype == "float64" else 1e-3)
    target = Grid.from_density(CIRCLE, 64, problems.CircleTeacher(10.0), dtype=dtype)
    diffusion = mf.flows.Wasserstein(mf.energies.PowerDivergence(target, 2.0, 0.5), CIRCLE)
    spectrum = linearize(diffusion, target)
    assert spectrum.rates.dtype == dtype and spectrum.modes.weights.dtype == dtype
    assert float(spectrum.gap()) == pytest.approx(GAPS[10.0], rel=5e-3)


def cross(d):
    """The sphere S^d, a spherical design of degree three, and a kernel of degree one with k(x, x) = 2."""
    points = jnp.concatenate([jnp.eye(d + 1), -jnp.eye(d + 1)])
    return mf.domains.Sphere(d), points, lambda x, y: 1 + jnp.sum(x * y), float(d), 1 / (d + 1)


def cubes(d):
    """The torus T^d, a lattice, and a kernel of the lowest waves with k(x, x) = 2."""
    torus = mf.domains.Torus(d)
    points = mf.measures.Grid.uniform(torus, 4).points
    return (
        torus,
        points,
        lambda x, y: 1 + jnp.mean(jnp.cos(2 * jnp.pi * (x - y))),
        (2 * np.pi) ** 2,
        1 / (2 * d),
    )


@pytest.mark.slow_cases("1-cross", "3-cross", "1-cubes", "2-cubes", "3-cubes")
@pytest.mark.parametrize("place", [cross, cubes], ids=["cross", "cubes"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_rate_depends_on_the_dimension_as_the_spectral_gap_does(d, place):
    """Remark 4.2: as lam -> 0 the rate is the gap, (2 pi)^2 on every T^d and d on S^d; at a fixed lam it is
    gap c / (c + lam), with c the eigenvalue of the kernel, which falls with d."""
    domain, points, kernel, gap, c = place(d)
    mu = Particles(points)
    for lam in (0.5, 1e-8):
        energy = mf.energies.PopulationReducedRisk(kernel, mu, lam, Quadratic(1.0))
        found = float(linearize(mf.flows.Wasserstein(energy, domain), mu).gap(1e-3))
        print(f"{place.__name__}, d = {d}, lam = {lam:g}: rate {found:.4f}, gap {gap:.4f}")
        assert found == pytest.approx(gap * c / (c + lam), rel=1e-6)
    assert found == pytest.approx(gap, rel=1e-6)


def test_rates_on_a_grid_have_derivatives():
    """Rates of diffusion are proportional to the temperature; eagerly, in reverse and forward mode."""
    line = mf.domains.Interval(0.0, 1.0)
    gap = lambda t: linearize(
        mf.flows.Wasserstein(t * mf.energies.Entropy(), line), Grid.uniform(line, 8), tolerance=None
    ).gap()
    value = float(gap(1.3))
    assert float(jax.grad(gap)(1.3)) == pytest.approx(value / 1.3, rel=1e-9)
    assert float(jax.jacfwd(gap)(1.3)) == pytest.approx(value / 1.3, rel=1e-9)


def test_little_mass_at_rest_is_asked_as_much():
    """Whether a density is stationary does not depend on its mass."""
    line = mf.domains.Interval(-6.0, 6.0)
    flow = mf.flows.Wasserstein(
        mf.energies.Entropy() + mf.energies.Potential(lambda x: 0.5 * x[0] ** 2), line
    )
    for mass in (1.0, 1e-6, 1e6):
        with pytest.raises(ValueError, match="not stationary"):
            linearize(flow, Grid(line, 64, jnp.full(64, mass / 64)))


@pytest.mark.slow
def test_the_gap_of_fine_grids_in_single_precision():
    line = mf.domains.Interval(-6.0, 6.0)
    energy = 0.5 * mf.energies.Entropy() + mf.energies.Potential(lambda x: 0.5 * x[0] ** 2)
    law = Grid.from_density(line, 900, lambda x: jnp.exp(-(x[0] ** 2)), dtype="float32")
    gap = float(linearize(mf.flows.Wasserstein(energy, line), law, tolerance=None).gap())
    assert gap == pytest.approx(1.0, abs=0.02)


def test_faults_are_named():
    flow, _ = varpro(0.1, 1.0, DEGREE)
    clustered = Particles(on_circle(jnp.linspace(0, 1, M)))
    with pytest.raises(ValueError, match="mu_star is not stationary"):
        linearize(flow, clustered)
    assert linearize(flow, clustered, tolerance=None).rates.shape == (M,)
    noisy = mf.flows.Wasserstein(flow.energy + 0.1 * mf.energies.Entropy(), CIRCLE)
    with pytest.raises(ValueError, match="no stationary particles"):
        linearize(noisy, lattice(M))


@pytest.mark.slow
@pytest.mark.parametrize("center", [0.0, 1.0])
def test_measured_rates_of_a_run_equal_predicted_ones(center):
    """VarPro near equilibrium, population kernel: mode amplitudes decay at k^2 c_k / (c_k + lam) to 1e-3."""
    lam, m = 1e-2, M
    flow, c = varpro(lam, center, DEGREE)
    angle = 2 * jnp.pi * jnp.arange(m) / m
    shift = sum(jnp.sin(k * angle) for k in (1, 2, 3))
    sim = mf.Simulation(
        flow,
        Particles(on_circle(angle + 1e-6 * shift)),
        stepper=mf.steppers.RK4(0.02),
        steps=50,
        save_every=10,
        observables={"modes": MODES},
    )
    carry, (_, values) = eqx.filter_jit(trajectory)(sim)
    assert int(carry.status) == 0
    for k in (1, 2, 3):
        rate = float(mode_rates(c, lam, center, k))
        log = np.log(np.abs(np.asarray(values["modes"])[:, k, 0]))
        measured = -np.polyfit(np.asarray(sim.times), log, 1)[0]
        print(f"mode {k}, center {center}: measured {measured:.6f}, predicted {rate:.6f}")
        assert abs(measured / rate - 1) < 1e-3
