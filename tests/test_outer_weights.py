"""Flows whose outer weights move by themselves: both sides, noise, averages over batches, given weights."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.simulation import data_key
from mfjax.energies import Batches, Entropy, PopulationReducedRisk, Potential, ReducedRisk, Risk
from mfjax.features import Function, Ridge
from mfjax.flows import OuterMomentum, TwoTimescale, Wasserstein
from mfjax.measures import Grid, Particles
from mfjax.steppers import RK4, Euler, EulerMaruyama, StochasticHeun

CIRCLE, LOOP = mf.domains.Sphere(1), mf.domains.Torus(1)
TANH = Ridge(jnp.tanh)
BUMP = Function(lambda omega, x: jnp.exp(jnp.cos(2 * jnp.pi * (omega[0] - x[0]))))
KEY = jr.key(5)
X = jr.normal(jr.key(0), (13, 2))
Y = jnp.sin(X @ jnp.array([1.0, 0.5])) + 0.2
SEVERAL = jnp.stack([Y, 0.3 - Y**2, jnp.cos(X[:, 0])], axis=1)
PLACES = jnp.arange(7.0)[:, None] / 7
SIGNAL = jnp.stack([1 + jnp.sin(2 * jnp.pi * PLACES[:, 0]), jnp.cos(2 * jnp.pi * PLACES[:, 0])], axis=1)


def reduced(y=Y, lam=0.1, batches=None):
    return ReducedRisk(TANH, X, y, lam, mf.regularizers.Quadratic(1.0), batches=batches)


def on_loop(outputs=None, lam=0.5):
    return ReducedRisk(BUMP, PLACES, SIGNAL[:, 0] if outputs is None else SIGNAL[:, :outputs], lam)


def start(width=6):
    return Particles.sample(CIRCLE, jr.key(2), width)


def smooth(x):
    return 1 + 0.4 * jnp.cos(2 * jnp.pi * x[0])


def quantiles(width):
    """Particles at the quantiles of `smooth`, by Newton's method."""
    levels = (jnp.arange(width) + 0.5) / width
    x = levels
    for _ in range(50):
        mass = x + 0.4 * jnp.sin(2 * jnp.pi * x) / (2 * jnp.pi)
        x = x - (mass - levels) / (1 + 0.4 * jnp.cos(2 * jnp.pi * x))
    return Particles(x[:, None])


def moments(mu):
    """Integrals that see the measure and its outer weights."""
    angle = 2 * jnp.pi * mu.points[:, 0]
    test = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.cos(2 * angle)], axis=1)
    u = mu.marks["u"].reshape(mu.size, -1)
    return jnp.concatenate(
        [mu.integrate(test), mu.integrate((test[:, :, None] * u[:, None, :]).reshape(mu.size, -1))]
    )


@pytest.mark.slow_cases("data-None", "population-3", "population-None")
@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("kind", ["data", "population"])
def test_the_risk_at_given_weights_and_its_slopes(kind, outputs):
    """dE/du_i = m_i (f'(u_i) - s(omega_i)), dE/domega_i = -m_i u_i grad s(omega_i); L is its minimum."""
    points, columns = start().points, () if outputs is None else (outputs,)
    masses = jnp.array([0.1, 0.3, 0.2, 0.15, 0.25, 0.4])
    if kind == "data":
        energy = reduced(Y if outputs is None else SEVERAL)
    else:
        taught = Particles(start(3).points, marks={"u": jr.normal(jr.key(4), (3, *columns))})
        energy = PopulationReducedRisk(mf.kernels.ArcCosine(), taught, 0.1, mf.regularizers.Quadratic(1.0))
    u = jr.normal(jr.key(3), (6, *columns))
    value = lambda points, u: energy.at_weights(Particles(points, masses), u)[0]
    score = energy.at_weights(Particles(points, masses), u)[1]
    by_points, by_u = jax.grad(value, (0, 1))(points, u)
    weight = masses.reshape(-1, *[1] * len(columns))
    np.testing.assert_allclose(by_u, weight * (u - 1 - score.at(points)), rtol=1e-11, atol=1e-13)
    pull = jax.vmap(lambda p, u: jax.grad(lambda q: jnp.sum(u * score(q)))(p))(points, u)
    np.testing.assert_allclose(by_points, -masses[:, None] * pull, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(score)(points), score.at(points), rtol=1e-11, atol=1e-13)
    mu = Particles(points, masses)
    best = energy.outer_weights(mu)
    np.testing.assert_allclose(energy.at_weights(mu, best)[0], energy(mu), rtol=1e-10)
    assert float(value(points, best + 0.01 * u)) > float(energy(mu))


@pytest.mark.slow_cases("None")
@pytest.mark.parametrize("outputs", [None, 2])
def test_a_population_with_the_kernel_of_the_data_is_the_data(outputs):
    kernel = lambda p, q: jnp.mean(jax.vmap(lambda x: BUMP(p, x) * BUMP(q, x))(PLACES))
    teacher = Particles(jnp.array([[0.1], [0.5], [0.8]]), [0.5, 0.2, 0.3])
    if outputs is not None:
        teacher = teacher.with_marks(u=jnp.array([[1.0, -1.0], [0.5, 2.0], [0.3, 0.4]]))
    taught = teacher.marks.get("u", jnp.ones(3))
    signal = jax.vmap(
        lambda x: teacher.integrate(
            jax.vmap(BUMP, (0, None))(teacher.points, x)[:, None] * taught.reshape(3, -1)
        )
    )
    y = signal(PLACES)
    energies = (
        PopulationReducedRisk(kernel, teacher, 0.5),
        ReducedRisk(BUMP, PLACES, y[:, 0] if outputs is None else y, 0.5),
    )
    ends = []
    for energy in energies:
        flow = TwoTimescale(energy, LOOP, rate=2.0)
        run = mf.simulate(flow, quantiles(5), stepper=RK4(0.05), steps=6)
        ends.append((run.final.points, run.final.marks["u"], run.observables["energy"]))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


FLOWS = {
    "two timescales": lambda outputs: TwoTimescale(on_loop(outputs), LOOP, 3.0),
    "with a potential": lambda outputs: TwoTimescale(
        1.5 * on_loop(outputs) + 0.3 * Potential(lambda x: jnp.cos(2 * jnp.pi * x[0])), LOOP, 3.0
    ),
    "outer momentum": lambda outputs: OuterMomentum(on_loop(outputs), LOOP, 0.5, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outputs"),
    [("two timescales", None), ("two timescales", 2), ("with a potential", 2), ("outer momentum", 2)],
)
def test_density_and_quantiles_agree_to_second_order(name, outputs):
    """Grids of 32, 64, 128 cells beside 1024 particles, at t = 1/8: integrals of the measure and of u."""
    flow = FLOWS[name](outputs)
    options = {"stepper": RK4(1 / 512), "steps": 64}
    end = mf.simulate(flow, quantiles(1024), **options).final
    exact, gaps = moments(end), jnp.diff(end.points[:, 0], append=end.points[:1, 0] + 1)
    assert float(jnp.min((gaps + 0.5) % 1 - 0.5)) > 0, "particles have crossed"
    errors = []
    for n in (32, 64, 128):
        run = mf.simulate(flow, Grid.from_density(LOOP, n, smooth), **options)
        np.testing.assert_allclose(run.observables["mass"], 1, rtol=1e-13)
        errors.append(float(jnp.max(jnp.abs(moments(run.final) - exact))))
    order = np.log2(errors[0] / errors[2]) / 2
    moved = float(jnp.max(jnp.abs(exact - moments(flow.init(quantiles(1024)).measure))))
    print(f"{name}: errors {errors}, order {order:.2f}; moved by {moved:.2e}")
    assert 1.8 < order < 2.4 and errors[-1] < 0.02 * moved


@pytest.mark.slow_cases(
    "with a potential-particles",
    "with a potential-density",
    "two timescales-particles",
    "two timescales-density",
    "outer momentum-particles",
)
@pytest.mark.parametrize("side", ["density", "particles"])
@pytest.mark.parametrize("name", FLOWS)
def test_generic(name, side):
    mu = Grid.from_density(LOOP, 64, smooth) if side == "density" else quantiles(9)
    u = jnp.stack([jnp.cos(2 * jnp.pi * mu.points[:, 0]), 0.5 + mu.points[:, 0] * 0], axis=1)
    mf.testing.check_flow(FLOWS[name](2), mu.with_marks(u=u), rtol=0.02 if side == "density" else None)


@pytest.mark.slow
def test_variable_projection_of_a_density_is_the_limit_of_two_timescales():
    """Distance of the masses at t = 0.25, slope -1 in gamma."""
    mu, gammas = Grid.from_density(LOOP, 32, smooth), np.array([80.0, 160.0, 320.0])
    limit = mf.simulate(Wasserstein(on_loop(2), LOOP), mu, stepper=RK4(1 / 256), t1=0.25).final
    errors = []
    for gamma in gammas:
        flow = TwoTimescale(on_loop(2), LOOP, gamma)
        run = mf.simulate(flow, mu, stepper=RK4(1 / (16 * gamma)), t1=0.25)
        errors.append(float(jnp.sum(jnp.abs(run.final.weights - limit.weights))))
    slope = np.polyfit(np.log(gammas), np.log(errors), 1)[0]
    print(f"two timescales to variable projection on a grid: {errors}, slope {slope:.2f}")
    np.testing.assert_allclose(slope, -1, atol=0.1)


@pytest.mark.slow
def test_noise_of_outer_weights_is_that_of_ornstein_and_uhlenbeck():
    """Features that see nothing leave du = -gamma u dt + sqrt(2 gamma T_u) dB: 4000 particles, z < 4."""
    blind = Function(lambda omega, x: 0.0 * omega[0])
    flow = TwoTimescale(ReducedRisk(blind, PLACES, SIGNAL[:, 0], 0.5), LOOP, 3.0, outer_temperature=0.4)
    mu = Particles(jnp.full((4000, 1), 0.5), marks={"u": jnp.full(4000, 2.0)})
    dt, steps = 0.02, 20
    for scheme, decay in ((EulerMaruyama, 1 - 3 * dt), (StochasticHeun, 1 - 3 * dt + 4.5 * dt**2)):
        run = mf.simulate(flow, mu, stepper=scheme(dt), steps=steps, key=KEY)
        u = np.asarray(run.final.marks["u"])
        np.testing.assert_array_equal(run.final.points, mu.points)
        step = 2 * 3 * 0.4 * dt * (1 if scheme is EulerMaruyama else (1 - 1.5 * dt) ** 2)
        variance = step * (1 - decay ** (2 * steps)) / (1 - decay**2)
        assert abs(u.mean() - 2 * decay**steps) < 4 * np.sqrt(variance / 4000)
        assert abs(u.var() - variance) < 4 * variance * np.sqrt(2 / 4000)
    again = mf.simulate(flow, mu, stepper=EulerMaruyama(dt), steps=steps, key=KEY)
    padded = Particles(jnp.full((4002, 1), 0.5), [*[1 / 4000] * 4000, 0, 0], {"u": jnp.full(4002, 2.0)})
    more = mf.simulate(flow, padded, stepper=EulerMaruyama(dt), steps=steps, key=KEY)
    np.testing.assert_array_equal(again.final.marks["u"], more.final.marks["u"][:4000])


@pytest.mark.slow_cases("population", "two outputs")
@pytest.mark.parametrize("kind", ["data", "two outputs", "population"])
def test_particles_of_pairs_are_those_with_a_mark(kind):
    """Without noise, with a factor and another term: (u / sqrt(gamma), omega) to 1e-11, and the energy."""
    gamma, extra = 3.0, 0.3 * Potential(lambda x: jnp.cos(2 * jnp.pi * x[0]))
    energy = on_loop(2 if kind == "two outputs" else None)
    if kind == "population":
        teacher = Particles(jnp.array([[0.1], [0.5], [0.8]]), [0.5, 0.2, 0.3])
        energy = PopulationReducedRisk(mf.kernels.Gaussian(0.3, LOOP), teacher, 0.5)
    flow = TwoTimescale(1.5 * energy + extra, LOOP, gamma)
    mu = flow.init(quantiles(5)).measure
    pairs = flow.of_pairs(mf.domains.Euclidean(2 if kind == "two outputs" else 1))
    v = mu.marks["u"].reshape(mu.size, -1) / np.sqrt(gamma)
    joint = Particles(jnp.concatenate([v, mu.points], axis=1), mu.weights)
    one, other = (mf.simulate(f, nu, stepper=RK4(0.05), steps=6) for f, nu in ((flow, mu), (pairs, joint)))
    np.testing.assert_allclose(other.final.points[:, -1:], one.final.points, rtol=1e-11)
    u = np.sqrt(gamma) * other.final.points[:, :-1]
    np.testing.assert_allclose(u, one.final.marks["u"].reshape(mu.size, -1), rtol=1e-10)
    for name in ("energy", "dissipation"):
        np.testing.assert_allclose(other.observables[name], one.observables[name], rtol=1e-10)


@pytest.mark.slow_cases("both")
@pytest.mark.parametrize("noisy", ["features", "both"])
def test_the_energy_of_pairs_is_a_risk(noisy):
    """(1 / lam) Risk(Weighted) + f and its slopes, at random pairs; identities of every energy."""
    temperature = 0.3 if noisy == "both" else None
    flow = TwoTimescale(on_loop() + 0.3 * Entropy(), LOOP, 4.0, outer_temperature=temperature)
    pairs = flow.of_pairs(mf.domains.Interval(-3.0, 3.0))
    assert pairs.domain.noiseless == (noisy == "features") and float(pairs.temperature) == 0.3
    double = Function(lambda xi, x: 2 * xi[0] * BUMP(xi[1:], x))
    joint = (1 / 0.5) * Risk(double, PLACES, SIGNAL[:, 0]) + Potential(lambda xi: 0.5 * (2 * xi[0]) ** 2)
    mu = Particles.sample(pairs.domain, jr.key(0), 6)
    smooth = mf.grids.transport_part(pairs.energy)
    np.testing.assert_allclose(smooth(mu), joint(mu), rtol=1e-13)
    np.testing.assert_allclose(smooth.gradient_field(mu), joint.gradient_field(mu), rtol=1e-11)
    point = jnp.array([0.4, 0.3])
    np.testing.assert_allclose(smooth.potential(mu)(point), joint.potential(mu)(point), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [True, False], ids=["both", "features alone"])
def test_noisy_particles_against_the_density_of_pairs(everywhere):
    """Noise on features, and on weights or not: (u / sqrt(gamma), omega) follows a Fokker-Planck equation.

    omega between two walls, 24 runs of 1024 particles to t = 0.2, each integral within 4 standard errors and
    what is left between two meshes and two steps. The density diffuses along omega alone where weights have
    no noise, or in both where T_u = T.
    """
    gamma, temperature, lam, t1 = 4.0, 0.3, 0.5, 0.2
    bump = lambda omega, x: jnp.exp(-2 * (omega - x[0]) ** 2)
    x, y = jnp.linspace(0, 1, 7)[:, None], jnp.linspace(1.5, -0.5, 7)
    one = Function(lambda omega, x: bump(omega[0], x))
    energy = ReducedRisk(one, x, y, lam) + temperature * Entropy()
    flow = TwoTimescale(
        energy,
        mf.domains.Interval(0.0, 1.0),
        gamma,
        outer_temperature=temperature if everywhere else None,
    )
    joint = flow.of_pairs(mf.domains.Interval(-3.5, 3.5))
    density = lambda xi: jnp.exp(-0.5 * (xi[0] - 0.3) ** 2 / 0.2) * (1 + 0.8 * jnp.cos(jnp.pi * xi[1]))

    def integrals(v, omega, mean):
        u = np.sqrt(gamma) * v
        return jnp.stack(
            [mean(f) for f in (u, u**2, jnp.cos(jnp.pi * omega), u * bump(omega, x[0]), u * omega)]
        )

    def of_density(n):
        mu = Grid.from_density(joint.domain, (2 * n, n), density)
        end = mf.simulate(joint, mu, t1=t1).final
        np.testing.assert_allclose(end.mass, 1, rtol=1e-13)
        return integrals(end.points[:, 0], end.points[:, 1], end.integrate)

    coarse, fine = of_density(24), of_density(48)
    limit = fine + (fine - coarse) / 3

    def of_particles(seed, dt):
        keys = jr.split(jr.key(seed), 3)
        v = 0.3 + np.sqrt(0.2) * jr.normal(keys[0], (1024,))
        # omega from 1 + 0.8 cos(pi omega), by inversion on a table.
        table = jnp.linspace(0, 1, 4097)
        omega = jnp.interp(
            jr.uniform(keys[1], (1024,)), table + 0.8 * jnp.sin(jnp.pi * table) / jnp.pi, table
        )
        mu = Particles(omega[:, None], marks={"u": np.sqrt(gamma) * v})
        end = mf.simulate(flow, mu, stepper=EulerMaruyama(dt), t1=t1, key=keys[2]).final
        return integrals(end.marks["u"] / np.sqrt(gamma), end.points[:, 0], end.integrate)

    many = lambda dt: np.asarray(jax.jit(jax.vmap(lambda seed: of_particles(seed, dt)))(jnp.arange(24)))
    rough, runs = many(0.005), many(0.0025)
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    slack = np.abs(limit - fine) + np.abs(rough.mean(axis=0) - runs.mean(axis=0))
    gap = np.abs(runs.mean(axis=0) - limit)
    print("pairs: gap", gap, "standard errors", error, "slack", slack, "integrals", limit)
    assert np.all(gap < 4 * error + slack) and np.all(4 * error + slack < 0.1 * np.max(np.abs(limit)))


def seen(batches, step):
    return np.asarray(batches.rows(13, data_key(KEY), jnp.asarray(step)))


@pytest.mark.core
@pytest.mark.slow_cases("0.0-3", "0.9-None", "0.0-None")
@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_outer_momentum_is_the_published_algorithm(momentum, outputs):
    """(III.46) in NumPy: U = m U + (1 - m) U*(batch), omega - M tau / lam grad R(batch) at the new U."""
    lam, tau, batches, y = 0.1, 0.05, Batches(5), np.asarray(Y if outputs is None else SEVERAL)
    flow = OuterMomentum(reduced(jnp.asarray(y), lam, batches), CIRCLE, momentum, tau)
    run = mf.simulate(flow, start(), stepper=Euler(tau), steps=6, key=KEY)
    omega, x, y = np.asarray(start().points), np.asarray(X), y.reshape(13, -1)

    def projection(omega, x, y):
        phi = np.tanh(x @ omega.T) / np.sqrt(len(x))
        matrix = phi.T @ phi / 6 + lam * np.eye(6)
        return np.linalg.solve(matrix, phi.T @ y / np.sqrt(len(x)) + lam)

    weights = projection(omega, x, y)
    for step in range(6):
        rows = seen(batches, step)
        weights = momentum * weights + (1 - momentum) * projection(omega, x[rows], y[rows])
        phi = np.tanh(x[rows] @ omega.T)
        error = (phi @ weights / 6 - y[rows]) / 5
        gradient = ((error @ weights.T) * (1 - phi**2)).T @ x[rows] / lam
        gradient -= np.sum(gradient * omega, axis=1, keepdims=True) * omega
        omega = omega - tau * gradient
        omega /= np.linalg.norm(omega, axis=1, keepdims=True)
    np.testing.assert_allclose(run.final.points, omega, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.final.marks["u"].reshape(6, -1), weights, rtol=1e-9)
    phi = np.tanh(x @ omega.T)
    risk = np.sum((phi @ weights / 6 - y) ** 2) / 26 / lam + np.sum((weights - 1) ** 2) / 12
    np.testing.assert_allclose(run.observables["energy"][-1], risk, rtol=1e-10)


@pytest.mark.slow
def test_without_momentum_the_features_are_those_of_variable_projection():
    batches = Batches(5)
    slow = mf.simulate(
        OuterMomentum(reduced(batches=batches), CIRCLE, 0.0, 0.1),
        start(),
        stepper=Euler(0.1),
        steps=8,
        key=KEY,
    )
    plain = mf.simulate(
        Wasserstein(reduced(batches=batches), CIRCLE), start(), stepper=Euler(0.1), steps=8, key=KEY
    )
    np.testing.assert_allclose(slow.final.points, plain.final.points, rtol=1e-9)


@pytest.mark.slow
def test_momentum_in_single_precision_and_in_a_sweep():
    def cell(momentum):
        energy = ReducedRisk(TANH, X.astype("float32"), Y.astype("float32"), 0.1, batches=Batches(5))
        mu = Particles(start().points.astype("float32"))
        flow = OuterMomentum(energy, CIRCLE, momentum, 0.1)
        return mf.Simulation(flow, mu, stepper=Euler(0.1), steps=8, key=KEY)

    table = mf.sweep(cell, momentum=[0.0, 0.5, 0.9])
    assert table["energy"].dtype == np.float32 and np.all(np.isfinite(table["energy"]))
    energy = ReducedRisk(TANH, X, Y, 0.1, batches=Batches(5))
    for i, momentum in enumerate((0.0, 0.5, 0.9)):
        run = mf.simulate(
            OuterMomentum(energy, CIRCLE, momentum, 0.1), start(), stepper=Euler(0.1), steps=8, key=KEY
        )
        np.testing.assert_allclose(table["energy"][i], run.observables["energy"], rtol=1e-3)


@pytest.mark.slow
def test_derivatives_of_whole_runs():
    def end(momentum):
        flow = OuterMomentum(reduced(batches=Batches(5)), CIRCLE, momentum, 0.1)
        run = mf.simulate(flow, start(), stepper=Euler(0.1), steps=6, key=KEY)
        return run.observables["energy"][-1]

    difference = (end(0.5 + 1e-5) - end(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(end)(0.5), difference, rtol=1e-6)
