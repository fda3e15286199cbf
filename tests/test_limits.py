"""Limits that tie the parts of the library together: lam -> 0, and particles to density.

Values of MMD^2 to ultra-fast diffusion are those of the specification, at the population level; the energy
distance is summed from Fourier modes, by -2 |sin(s / 2)| = sum_k 4 / (pi (4 k^2 - 1)) e^{iks}.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import observables, problems
from mfjax._engine.loop import trajectory
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.problems.teachers import bump, bump_quantile
from mfjax.regularizers import Power, Quadratic

pytestmark = pytest.mark.optimized
CIRCLE = mf.domains.Sphere(1)
MODES = observables.FourierModes(48, CIRCLE)
GAMMA, TIME = 10.0, 0.5


def on_circle(angle):
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def energy_distance(a, b):
    k = np.arange(1, a.shape[0])
    return 2 * np.sum(4 / (np.pi * (4 * k**2 - 1)) * np.sum((np.asarray(a) - np.asarray(b))[1:] ** 2, axis=1))


@eqx.filter_jit
def end(sim):
    carry, _ = trajectory(sim)
    return carry.status, carry.state.measure, MODES(carry.state.measure, sim.flow)


def measure_at_end(flow, mu, stepper=None, time=TIME):
    """The measure and its Fourier modes at the common time."""
    status, measure, modes = end(mf.Simulation(flow, mu, stepper=stepper, t1=time))
    assert int(status) == 0
    return measure, np.asarray(modes)


@pytest.fixture(scope="module")
def diffusion():
    """Fourier modes of ultra-fast diffusion at the common time, extrapolated from 128 and 256 cells."""
    levels = []
    for n in (128, 256):
        target = Grid.from_density(CIRCLE, n, problems.CircleTeacher(GAMMA))
        flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(target, 2.0, 0.5), CIRCLE)
        levels.append(measure_at_end(flow, Grid.uniform(CIRCLE, n), mf.steppers.Rosenbrock(1e-7, 1e-9))[1])
    coarse, fine = levels
    # The values below need modes to 1e-5: the extrapolation gains two orders on this difference.
    assert np.max(np.abs(fine - coarse)) < 3e-4
    return (4 * fine - coarse) / 3


def varpro_modes(lam, bias, m=128):
    """VarPro from a uniform lattice: for a smooth flow map its modes are spectrally accurate."""
    problem = problems.circle_population(GAMMA, bias=bias, degree=40)
    flow = mf.flows.Wasserstein(problem.risk(lam, Quadratic(0.0)), CIRCLE)
    lattice = Particles(on_circle(2 * jnp.pi * jnp.arange(m) / m))
    return measure_at_end(flow, lattice, mf.steppers.RK4(1 / 128))[1]


VALUES = {
    0.5: {1e-3: 1.4e-5, 1e-4: 7.4e-7, 1e-5: 1.3e-8},
    0.0: {1e-3: 3.7e-4, 1e-4: 4.15e-4, 1e-5: 4.24e-4},
}


@pytest.mark.slow
@pytest.mark.parametrize("bias", [pytest.param(0.5, marks=pytest.mark.slow), 0.0])
def test_distance_to_the_diffusion_as_lam_vanishes(diffusion, bias):
    """It vanishes for an injective feature map, and has a floor for bias-free ReLU: two digits as printed."""
    found = {lam: energy_distance(varpro_modes(lam, bias), diffusion) for lam in VALUES[bias]}
    print(f"bias {bias}: MMD^2 to the diffusion", {lam: f"{v:.3e}" for lam, v in found.items()})
    for lam, value in VALUES[bias].items():
        digits = 0.005 if value in (4.15e-4, 4.24e-4) else 0.05
        assert found[lam] == pytest.approx(value, rel=digits), lam


# The order r of f, the teacher, the common time, and values of MMD^2 for lam = 1e-2, ..., 1e-5: those of the
# specification, found again with gamma = 3 at these times. The last one of the signed teacher, there 7.5e-7,
# is 3.9e-7 with 256, 512 and 1024 cells and with 256 particles, too.
ORDERS = {
    "r = 3": (3.0, (2 / 3, 1 / 3), 1 / 8, (1.3e-4, 1.0e-5, 4.1e-7, 8.2e-9)),
    "r = 1.5": (1.5, (2 / 3, 1 / 3), 1 / 4, (3.7e-5, 1.2e-6, 4.2e-8, 5.6e-10)),
    "signed": (2.0, (1.0, -0.5), 1 / 4, (1.2e-4, 3.2e-5, 4.2e-6, 3.9e-7)),
}


def regularizer(order):
    """f = |t|^r / (r - 1), and t^2 / 2 for r = 2."""
    return Quadratic(0.0) if order == 2 else Power(order)


def divergence(order, teacher, n):
    """The limit of the reduced risk: of |nu| / |nu|_TV, scaled by |nu|_TV^r (a half of it for t^2 / 2)."""
    variation = float(teacher.variation(1 << 16))
    scale = variation**order * (0.5 if order == 2 else 1)
    target = Grid.from_density(CIRCLE, n, lambda p: jnp.abs(teacher(p)))
    return mf.energies.PowerDivergence(target, order, scale)


@pytest.mark.slow
@pytest.mark.parametrize("case", ORDERS)
def test_distance_to_the_diffusion_for_other_orders_and_signs(case):
    """Every f = |t|^r / (r - 1) has its diffusion, a signed teacher that of its modulus."""
    order, masses, time, values = ORDERS[case]
    teacher, levels = problems.CircleTeacher(3.0, masses=masses), []
    for n in (128, 256):
        flow = mf.flows.Wasserstein(divergence(order, teacher, n), CIRCLE)
        stepper = mf.steppers.Rosenbrock(1e-7, 1e-9)
        levels.append(measure_at_end(flow, Grid.uniform(CIRCLE, n), stepper, time)[1])
    reference = (4 * levels[1] - levels[0]) / 3
    problem = problems.circle_population(teacher=teacher, bias=0.5, degree=40)
    lattice = Particles(on_circle(2 * jnp.pi * jnp.arange(128) / 128))
    found = []
    for lam in (1e-2, 1e-3, 1e-4, 1e-5):
        flow = mf.flows.Wasserstein(problem.risk(lam, regularizer(order)), CIRCLE)
        found.append(
            energy_distance(measure_at_end(flow, lattice, mf.steppers.RK4(1 / 128), time)[1], reference)
        )
    print(f"{case}, t = {time}: MMD^2 to the diffusion", [f"{v:.3e}" for v in found])
    np.testing.assert_allclose(found, values, rtol=0.05)


@pytest.mark.slow_cases("r = 3")
@pytest.mark.parametrize("case", ["r = 3", pytest.param("r = 1.5", marks=pytest.mark.slow), "signed"])
def test_the_risk_tends_to_the_divergence(case):
    """At one measure: L and its first variation tend to those of the power divergence at the rate lam."""
    order, masses, _, _ = ORDERS[case]
    teacher, grid = problems.CircleTeacher(1.0, masses=masses), Grid.uniform(CIRCLE, 32)
    # As many modes as cells: the features are injective.
    problem = problems.circle_population(teacher=teacher, bias=0.5, degree=16)
    mu = Grid.from_density(CIRCLE, 32, lambda p: 1 + 0.3 * p[1])
    limit = divergence(order, teacher, 32)
    value, slope = limit(mu), limit.first_variation(mu)

    @jax.jit
    def gap(lam):
        solution = problem.risk(lam, regularizer(order)).solve(mu)
        return jnp.abs(solution.value - value), jnp.max(jnp.abs(solution.potential.at(grid.points) - slope))

    gaps = np.array([gap(lam) for lam in (1e-4, 1e-5, 1e-6)])
    print(f"{case}: gaps of L and V for lam = 1e-4, 1e-5, 1e-6", gaps)
    rates = np.log10(gaps[:-1] / gaps[1:])
    assert np.all(np.abs(rates[-1] - 1) < 0.1), rates


def population_flow(lam=1e-2, center=0.0):
    problem = problems.circle_population(GAMMA, bias=0.5, degree=16)
    return mf.flows.Wasserstein(problem.risk(lam, Quadratic(center)), CIRCLE)


@pytest.mark.slow
def test_random_particles_tend_to_the_density_like_a_root():
    """MMD (not squared), root mean square over seeds, falls like M^(-0.5 +- 0.1)."""
    flow = population_flow()
    density, _ = measure_at_end(flow, Grid.uniform(CIRCLE, 256))
    target = observables.EnergyDistance(density, CIRCLE)
    widths, seeds = (16, 64, 256), 32
    points = jax.vmap(lambda k: CIRCLE.sample(k, widths[-1]))(jr.split(jr.key(0), seeds * len(widths)))

    # Widths as zero-mass padding: one program, independent starts.
    @eqx.filter_jit
    def distance(args):
        mu = Particles(args[0], padded_weights(args[1], widths[-1]))
        sim = mf.Simulation(flow, mu, stepper=mf.steppers.RK4(1 / 8), t1=TIME)
        return target(trajectory(sim)[0].state.measure)

    squares = jax.jit(lambda p, m: jax.lax.map(distance, (p, m)))(
        points, jnp.repeat(jnp.asarray(widths), seeds)
    )
    rms = np.sqrt(np.mean(np.asarray(squares).reshape(len(widths), seeds), axis=1))
    slope = np.polyfit(np.log(widths), np.log(rms), 1)[0]
    print(f"MMD to the density for M = {widths}: {rms}, slope {slope:.3f}")
    assert abs(slope + 0.5) < 0.1


@pytest.mark.slow
def test_quantile_particles_tend_to_the_density_fast():
    """The first 8 modes from quantiles of a smooth start: at least M^-1.8 (here faster than any power)."""
    flow, gamma = population_flow(), jnp.asarray(3.0)
    levels = []
    for n in (256, 512):
        start = Grid.from_density(CIRCLE, n, lambda p: bump(jnp.arctan2(p[1], p[0]), gamma))
        levels.append(measure_at_end(flow, start)[1][:9])
    widths, errors = (10, 20, 40, 80), []
    for m in widths:
        index = jnp.arange(widths[-1])
        angle = bump_quantile(jnp.where(index < m, index + 0.5, 0.5) / m, gamma)
        start = Particles(on_circle(angle), padded_weights(m, widths[-1]))
        errors.append(measure_at_end(flow, start, mf.steppers.RK4(1 / 64))[1][:9])
    # Second order of the grid scheme bounds the error of the reference.
    reference, doubt = (4 * levels[1] - levels[0]) / 3, np.max(np.abs(levels[1] - levels[0]))
    errors = [float(np.max(np.abs(e - reference))) for e in errors]
    print(f"modes 1 to 8 for M = {widths}: {errors}; 256 against 512 cells: {doubt:.1e}")
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope < -1.8 and errors[-1] < 0.1 * doubt
