"""Exact identities and limits of energies: the survey's section 4, large lam, few atoms, many particles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize

import mfjax as mf
from mfjax import problems
from mfjax._engine.loop import trajectory
from mfjax.measures import Grid, Particles, padded_weights
from mfjax.regularizers import Power, Quadratic

CIRCLE = mf.domains.Sphere(1)
LINE = mf.domains.Interval(-2.0, 2.0)
# One network for the identities: tanh neurons on the line, whose quadratic form is positive semidefinite.
INPUTS = jnp.linspace(-3.0, 3.0, 12)[:, None]
NETWORK = mf.features.Function(lambda xi, x: jnp.tanh(2 * xi[0] * x[0] + 1))
RISK = mf.energies.Risk(NETWORK, INPUTS, jnp.cos(INPUTS[:, 0]), lam=0.3)
GRID = Grid.uniform(LINE, 48)


def quadratic_form(mu, nu):
    """1/2 int (int Phi d(mu - nu))^2: survey (4.5) with K = Phi Phi / 2 integrated over the data."""
    row = NETWORK.matrix(GRID.points, INPUTS) @ (mu.weights - nu.weights)
    return 0.5 * jnp.mean(row**2)


def random_laws(seed, count=4):
    """Measures on the grid of very different roughness, some with empty cells."""
    keys = jr.split(jr.key(seed), count)
    for i, key in enumerate(keys):
        masses = jr.uniform(key, (GRID.size,)) ** (4.0**i)
        masses = jnp.where(jnp.arange(GRID.size) < 12 * i, 0, masses)
        yield GRID.with_weights(masses / jnp.sum(masses))


def gibbs(tau):
    """The minimizer of RISK + tau Entropy by Newton on the finitely many residuals of the network."""
    features = NETWORK.matrix(GRID.points, INPUTS)

    def law(error):
        potential = error @ features / len(INPUTS) + 0.15 * GRID.points[:, 0] ** 2
        return jax.nn.softmax(-potential / tau)

    equation = lambda error: features @ law(error) - RISK.data.y - error
    found = scipy.optimize.root(
        jax.jit(equation), np.zeros(len(INPUTS)), jac=jax.jit(jax.jacfwd(equation)), tol=1e-14
    )
    assert np.max(np.abs(found.fun)) < 1e-12
    return GRID.with_weights(law(jnp.asarray(found.x)))


@pytest.mark.slow_cases("1.0")
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_the_heat_identity_is_exact(tau):
    """(4.5): F(mu) - F(mu*) = K-form + tau KL(mu | mu*) for every mu, the stationary law being positive."""
    energy = RISK + tau * mf.energies.Entropy()
    best = gibbs(tau)
    slope = energy.first_variation(best)
    assert float(jnp.max(slope) - jnp.min(slope)) < 1e-11
    for mu in random_laws(1):
        excess = energy(mu) - energy(best)
        terms = quadratic_form(mu, best), tau * mf.observables.KL(best)(mu)
        assert all(float(term) > 0 for term in terms)
        assert float(excess) == pytest.approx(float(sum(terms)), rel=1e-11)
    # The identity is about the stationary law: about another one it is false.
    other = next(iter(random_laws(2)))
    false = quadratic_form(mu, other) + tau * mf.observables.KL(other)(mu)
    assert abs(float(energy(mu) - energy(other) - false)) > 1e-3


def porous_minimizer(tau):
    """The minimizer of RISK + tau PorousMedium: active set on the quadratic program, to rounding."""
    features = np.asarray(NETWORK.matrix(GRID.points, INPUTS))
    h, x = float(GRID.volume), np.asarray(GRID.points[:, 0])
    matrix = features.T @ features / len(INPUTS) + tau / h * np.eye(GRID.size)
    linear = 0.15 * x**2 - features.T @ np.asarray(RISK.data.y) / len(INPUTS)
    support = np.ones(GRID.size, bool)
    for _ in range(200):
        k = support.sum()
        system = np.block([[matrix[np.ix_(support, support)], np.ones((k, 1))], [np.ones((1, k)), 0]])
        solution = np.linalg.solve(system, np.append(-linear[support], 1))
        masses = np.zeros(GRID.size)
        masses[support] = solution[:-1]
        slack = matrix @ masses + linear + solution[-1]
        if masses.min() >= 0 and slack.min() >= -1e-12:
            return GRID.with_weights(jnp.asarray(masses)), -solution[-1]
        support = (masses > 0) | (~support & (slack < -1e-12))
    raise AssertionError("no minimizer found")


def test_the_porous_medium_identity_has_three_terms():
    """(4.8) with the term it lacks, int (dF/dmu(mu*) - c) dmu: zero iff mu lives on the support of mu*."""
    tau = 0.05
    energy = RISK + tau * mf.energies.PorousMedium()
    best, level = porous_minimizer(tau)
    inside = np.asarray(best.weights) > 0
    assert 0 < inside.sum() < GRID.size
    excess_slope = np.asarray(energy.first_variation(best)) - level
    np.testing.assert_allclose(excess_slope[inside], 0, atol=1e-12)
    assert excess_slope[~inside].min() > 0
    leaving = 0
    within = [GRID.with_weights(jnp.where(inside, mu.weights + 1e-3, 0)) for mu in random_laws(3)]
    within = [GRID.with_weights(mu.weights / mu.mass) for mu in within]
    for mu in [*random_laws(3), *within]:
        third = float(excess_slope @ np.asarray(mu.weights))
        square = 0.5 * tau * float(jnp.sum((mu.weights - best.weights) ** 2) / GRID.volume)
        total = float(quadratic_form(mu, best)) + square + third
        assert float(energy(mu) - energy(best)) == pytest.approx(total, rel=1e-11)
        stays = not np.any(np.asarray(mu.weights)[~inside] > 0)
        assert abs(third) < 1e-12 if stays else third > 1e-4
        leaving += not stays
    # Both cases occur, and (4.8) as printed is false for those that leave.
    assert 0 < leaving < 8


@pytest.mark.slow
def test_the_potential_of_a_large_lam_is_that_of_the_discrepancy():
    """lam V + c^2 C(mu) -> c^2 int kappa d(mu - teacher), and lam L -> MMD^2 / 2, with error O(1 / lam)."""
    problem = problems.circle_population(3.0, bias=0.5, degree=8)
    features, inputs = problem.features, problem.x
    kernel = lambda a, b: jnp.mean(jax.vmap(lambda j: features(a, j) * features(b, j))(inputs))
    teacher = Grid.from_density(CIRCLE, 64, problem.teacher)
    mu = Grid.from_density(CIRCLE, 64, lambda p: jnp.exp(p[1]))
    discrepancy = mf.energies.MMD(kernel, teacher)
    limit = eqx.filter_jit(lambda energy, mu: energy.solve(mu))(discrepancy, mu)
    expected, value = jax.jit(lambda points: jax.vmap(limit.potential)(points))(mu.points), limit.value
    errors = []

    @jax.jit
    def scaled(lam, center):
        solution = problem.risk(lam, Quadratic(center)).solve(mu)
        return lam * jax.vmap(solution.potential)(mu.points), lam * solution.value

    for lam in (1e2, 1e3, 1e4):
        potential, risk = scaled(lam, 1.0)
        errors.append((float(jnp.max(jnp.abs(potential - expected))), abs(float(risk - value))))
    ratio = np.array(errors[:-1]) / np.array(errors[1:])
    print(f"lam V - V_MMD, lam L - MMD^2 / 2 for lam = 1e2, 1e3, 1e4: {errors}")
    assert np.all((ratio > 9) & (ratio < 11)) and errors[-1][0] < 1e-4
    # The biased f has no such limit: V is of order 1 / lam^2, lam^2 V -> -(Phi^T y)^2 / 2.
    score = np.asarray(inputs.shape[0] ** -1 * problem.y @ features.matrix(mu.points, inputs))
    lam = 1e4
    np.testing.assert_allclose(lam * scaled(lam, 0.0)[0], -0.5 * score**2, rtol=1e-3)


@eqx.filter_jit
def end(sim):
    carry, _ = trajectory(sim)
    return carry.status, carry.state.measure


@pytest.mark.slow_cases("reduced risk")
@pytest.mark.parametrize("kind", ["reduced risk", "two timescales"])
def test_few_atoms_stay_few_atoms(kind):
    """The flow map moves coincident particles alike: 12 particles at 3 points are 3 atoms for ever."""
    problem = problems.circle_population(3.0, bias=0.5, degree=8)
    energy, make = problem.risk(0.1, Quadratic(1.0)), mf.flows.Wasserstein
    if kind == "two timescales":
        make = lambda energy, domain: mf.flows.TwoTimescale(energy, domain, rate=3.0)
    flow, angle = make(energy, CIRCLE), jnp.array([0.2, 1.9, 4.0])
    atoms = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    copies = jnp.array([0, 1, 2, 0, 0, 1, 2, 2, 2, 0, 0, 0])
    runs = []
    for mu in (Particles(atoms[copies]), Particles(atoms, jnp.array([6.0, 2.0, 4.0]) / 12)):
        sim = mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.05), steps=60, save_every=60)
        status, measure = end(sim)
        assert int(status) == 0
        runs.append(measure)
    together, merged = runs
    np.testing.assert_allclose(together.points, merged.points[copies], atol=1e-11)
    assert float(jnp.max(jnp.abs(merged.points - atoms))) > 0.05


def test_the_energy_of_a_sample_is_off_by_one_over_n():
    """E F(mu_N) - F(mu) = Var / (2 N) exactly for the quadratic risk, Var = mean over data of Var Phi."""
    law = Grid.from_density(LINE, 48, lambda x: jnp.exp(x[0]))
    features = NETWORK.matrix(law.points, INPUTS)
    mean = features @ law.weights
    variance = float(jnp.mean((features**2) @ law.weights - mean**2))
    risk, draws = float(RISK(law)), 4000

    for n in (4, 16, 64):
        keys = jr.split(jr.key(n), draws)

        @jax.jit
        def energies(keys, n=n):
            def one(key):
                cells = jr.choice(key, law.size, (n,), p=law.weights)
                return RISK.solve(Particles(law.points[cells])).value

            return jax.lax.map(one, keys, batch_size=500)

        values = np.asarray(energies(keys)) - risk
        expected, error = variance / (2 * n), values.std() / np.sqrt(draws)
        z = (values.mean() - expected) / error
        print(f"N = {n}: N (E F_N - F) = {n * values.mean():.4f}, exactly {variance / 2:.4f}, z = {z:.2f}")
        assert abs(z) < 4
    # Were the excess of order N^-1/2, this would be many standard errors away.
    assert abs(values.mean() - variance / (2 * np.sqrt(n))) > 10 * error


@pytest.mark.slow
def test_the_least_energy_of_n_particles_is_off_by_at_most_one_over_n():
    """Samples of the minimizer bound inf F_N: the mean reduced risk of N of them falls like N^-1."""
    problem = problems.circle_population(3.0, bias=0.5, degree=8)
    # Its infimum is zero, at the teacher.
    energy = problem.risk(1.0, Quadratic(1.0))
    widths, seeds = (32, 64, 128), 400
    keys = jax.vmap(lambda i: jr.fold_in(jr.key(5), i))(jnp.arange(seeds * len(widths)))

    @jax.jit
    def risk(args):
        key, width = args
        mu = problem.teacher.sample(key, widths[-1])
        return energy.solve(Particles(mu.points, padded_weights(width, widths[-1]))).value

    values = jax.lax.map(risk, (keys, jnp.repeat(jnp.asarray(widths), seeds)))
    values = np.asarray(values).reshape(len(widths), seeds)
    means = values.mean(axis=1)
    slope = np.log(means[-1] / means[0]) / np.log(widths[-1] / widths[0])
    error = np.linalg.norm((values.std(axis=1) / means)[[0, -1]]) / np.sqrt(seeds) / np.log(4)
    print(f"mean F_N - F for N = {widths}: {means}, slope {slope:.3f}, standard error {error:.3f}")
    assert abs(slope + 1) < 3 * error < 0.2


def signed_masses(n):
    """Masses of either sign on n cells, and positive ones of sum one."""
    return np.random.default_rng(0).normal(size=n) / n, np.random.default_rng(1).dirichlet(np.full(n, 2.0))


@pytest.mark.parametrize("order", [2.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_the_reduced_risk_is_an_infimal_convolution(order):
    """VarPro paper (11) to (14): L = min over nu of MMD^2(nu, teacher) / (2 lam) + int f(dnu/dmu) dmu.

    The right side by a general optimizer over the masses of nu, with the kernel in closed form; at lam = 0
    it is the divergence of the teacher itself, (13).
    """
    n, lam = 12, 1e-2
    grid = Grid.uniform(CIRCLE, n)
    angle = np.arctan2(grid.points[:, 1], grid.points[:, 0])
    c = np.asarray(problems.relu_coefficients(0.5, 8))
    k = np.arange(1, 9)
    kernel = c[0] + 2 * np.cos((angle[:, None] - angle)[..., None] * k) @ c[1:]
    teacher, masses = signed_masses(n)
    features = mf.features.CircleModes(c)
    y = features.matrix(grid.points, features.inputs()) @ teacher
    f = Power(order)
    energy = lambda lam: mf.energies.ReducedRisk(features, features.inputs(), y, lam, f)
    mu = grid.with_weights(jnp.asarray(masses))

    def convolution(nu):
        gap = kernel @ (nu - teacher)
        u = np.asarray(nu / masses)
        value = (nu - teacher) @ gap / (2 * lam) + masses @ np.abs(u) ** order / (order - 1)
        return value, gap / lam + order / (order - 1) * np.sign(u) * np.abs(u) ** (order - 1)

    found = scipy.optimize.minimize(
        convolution, 0.5 * teacher, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 5000}
    )
    assert float(energy(lam)(mu)) == pytest.approx(found.fun, rel=1e-10)
    np.testing.assert_allclose(energy(lam).outer_weights(mu) * masses, found.x, atol=1e-6)
    divergence = masses @ np.abs(teacher / masses) ** order / (order - 1)
    assert float(energy(0.0)(mu)) == pytest.approx(divergence, rel=1e-8)


@pytest.mark.slow
def test_the_flow_without_regularization_ends_at_the_teacher():
    """At lam = 0 the flow of D_f(teacher | mu), seen through 9 modes, ends with all outer weights one."""
    teacher, m = problems.CircleTeacher(1.0), 32
    problem = problems.circle_population(teacher=teacher, bias=0.5, degree=4)
    angle = 2 * jnp.pi * jnp.arange(m) / m
    start = Particles(jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1))
    flow = mf.flows.Wasserstein(problem.risk(0.0), CIRCLE)
    sim = mf.Simulation(flow, start, stepper=mf.steppers.RK4(0.1), steps=250, save_every=250)
    status, measure = end(sim)
    assert int(status) == 0
    np.testing.assert_allclose(flow.energy.outer_weights(measure), 1, atol=1e-6)
    assert float(flow.energy(measure)) == pytest.approx(0.5, abs=1e-10)
    modes = mf.observables.FourierModes(4, CIRCLE)(measure)
    exact = np.asarray(teacher.fourier(4))
    np.testing.assert_allclose(modes[1:], np.stack([exact.real, exact.imag], axis=1)[1:], atol=1e-6)


@pytest.mark.slow
def test_a_minimizing_movement_keeps_the_order_of_particles_on_a_line():
    """(24) of the VarPro paper, with W_2 squared: `Proximal` keeps particles, and no coupling does better.

    The step against a general optimizer of L + W_2^2 / (2 dt) over all positions, from many starts.
    """
    energy = mf.energies.ReducedRisk(NETWORK, INPUTS, jnp.cos(INPUTS[:, 0]), 0.05)
    places, dt = jnp.array([-1.2, -0.4, 0.1, 1.1]), 2.0
    flow, start = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1)), Particles(places[:, None])
    _, step = end(mf.Simulation(flow, start, stepper=mf.steppers.Proximal(dt), steps=1))
    moved = step.points[:, 0]
    cost = float(jnp.mean((moved - places) ** 2))
    assert cost > 1e-3
    squared = float(mf.observables.Wasserstein1D(start, 2, flow.domain)(step)) ** 2
    assert squared == pytest.approx(cost, rel=1e-10)

    @jax.jit
    @jax.value_and_grad
    def objective(x):
        return energy.solve(Particles(x[:, None])).value + jnp.mean((jnp.sort(x) - places) ** 2) / (2 * dt)

    value = float(objective(moved)[0])
    for seed in range(12):
        guess = np.asarray(places) + np.random.default_rng(seed).normal(size=4)
        call = lambda x: tuple(np.asarray(part) for part in objective(jnp.asarray(x)))
        assert scipy.optimize.minimize(call, guess, jac=True, method="BFGS").fun > value - 1e-9


@pytest.mark.slow
def test_minimizing_movements_of_particles_are_those_of_measures_in_the_plane():
    """(24) with W_2 by the optimal coupling: each step of `Proximal` moves particles as that would, d = 2.

    L(k + 1) + W_2^2 / (2 dt) <= L(k) with the true distance, which no permutation of the particles shortens.
    """
    x = jr.normal(jr.key(4), (12, 2))
    features = mf.features.Ridge(jnp.tanh, 0.3)
    energy, plane = mf.energies.ReducedRisk(features, x, jnp.cos(x[:, 0]), 0.05), mf.domains.Euclidean(2)
    start, dt, steps = Particles(jr.normal(jr.key(5), (24, 2))), 1.0, 4
    flow, stepper = mf.flows.Wasserstein(energy, plane), mf.steppers.Proximal(1.0)
    run = mf.simulate(flow, start, stepper=stepper, steps=steps, save_every=1)
    value = run.observables["energy"]
    for k in range(steps):
        old, new = (jax.tree.map(jnp.asarray, run.measure(i)) for i in (k, k + 1))
        moved = float(jnp.mean(jnp.sum((new.points - old.points) ** 2, axis=1)))
        squared = float(mf.observables.WassersteinDistance(old, 2, plane)(new)) ** 2
        assert moved > 1e-5 and squared == pytest.approx(moved, rel=1e-9)
        assert value[k + 1] + squared / (2 * dt) <= value[k] + 1e-12


def test_the_bound_without_regularization_has_a_half():
    """Survey 4.3: F(mu) - F(mu*) >= 1/2 int (int Phi d(mu - mu*))^2, with equality on the support of mu*.

    As printed, without the half, it is false.
    """
    features = np.asarray(NETWORK.matrix(GRID.points, INPUTS)) / np.sqrt(len(INPUTS))
    y = np.asarray(RISK.data.y) / np.sqrt(len(INPUTS))
    price = 0.15 * np.asarray(GRID.points[:, 0]) ** 2
    # Frank-Wolfe with exact steps on the atoms found: an active set as of Lawson and Hanson.
    support = [int(np.argmin(price - y @ features))]
    for _ in range(100):
        while True:
            a = features[:, support]
            system = np.block([[a.T @ a, np.ones((len(support), 1))], [np.ones((1, len(support))), 0]])
            right = np.append(y @ a - price[support], 1)
            solution = np.linalg.lstsq(system, right, rcond=None)[0]
            if solution[:-1].min() > 0:
                break
            support.pop(int(np.argmin(solution[:-1])))
        masses = np.zeros(GRID.size)
        masses[support] = solution[:-1]
        slope = (features @ masses - y) @ features + price
        worst = int(np.argmin(slope))
        if slope[worst] > slope[support].min() - 1e-12:
            break
        support.append(worst)
    best = GRID.with_weights(jnp.asarray(masses))
    assert 1 < len(support) < 10
    inside = GRID.with_weights(jnp.zeros(GRID.size).at[support[0]].set(1.0))
    for mu in (*random_laws(4), inside):
        excess, form = float(RISK(mu) - RISK(best)), float(quadratic_form(mu, best))
        assert excess >= form - 1e-13
    assert excess == pytest.approx(form, rel=1e-9) and excess < 2 * form


@pytest.mark.slow
def test_symmetrized_measures_have_less_risk():
    """Survey 2.1: of a symmetric objective, F(g mu) = F(mu), and by convexity F((mu + g mu) / 2) <= F(mu)."""
    problem = problems.circle_population(
        teacher=problems.CircleTeacher(3.0, centers=0.0, masses=1.0), degree=8
    )
    mu = Particles.sample(CIRCLE, jr.key(0), 6)
    mirrored = mu.points * jnp.array([1.0, -1.0])
    both = Particles(jnp.concatenate([mu.points, mirrored]))
    for energy in (problem.risk(0.1), mf.energies.Risk(problem.features, problem.x, problem.y)):
        value = float(energy(mu))
        assert float(energy(Particles(mirrored))) == pytest.approx(value, rel=1e-12)
        assert float(energy(both)) < value - 1e-3


def test_gibbs_laws_concentrate_by_curvature():
    """Hwang 1980 (slides): as T -> 0 wells of one depth have masses like 1 / sqrt(U''), to order T."""
    line = Grid.uniform(mf.domains.Interval(-1.6, 1.6), 1024)
    # Wells at -1 and 1 of depth zero and curvatures 1 and 4.
    well = mf.energies.Potential(lambda x: (x[0] ** 2 - 1) ** 2 * (5 + 3 * x[0]) / 16)

    @jax.jit
    def left(temperature):
        law = mf.gibbs(well + temperature * mf.energies.Entropy(), line).measure
        return law.integrate((law.points[:, 0] < 0).astype(law.dtype)), law.integrate(
            jax.vmap(well.potential(law))(law.points)
        )

    errors = []
    for temperature in (4e-3, 2e-3, 1e-3):
        share, risk = left(temperature)
        errors.append(abs(float(share) - 2 / 3))
        # Each coordinate has T / 2, equipartition.
        assert float(risk) == pytest.approx(temperature / 2, rel=0.1)
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    print(f"mass of the flat well, off from 2/3 by {errors}, orders {orders}")
    assert abs(orders[-1] - 1) < 0.1


def test_the_least_variation_norm_of_a_network():
    """Thesis 1.3.3: the Barron norm (neurons of unit norm, no bias) is the least |nu|_TV that represents F.

    |nu|_TV of the minimizer as lam -> 0 against a linear program; at most the weights of the network.
    """
    cells, x = Grid.uniform(CIRCLE, 48), problems.gaussian_inputs(jr.key(2), 24)
    features = mf.features.ReLU()
    matrix = np.asarray(features.matrix(cells.points, x))
    weights = np.zeros(48)
    weights[[3, 27, 11]] = 1.0, 1.0, -0.7
    y = matrix @ weights
    ones = np.ones(96)
    program = scipy.optimize.linprog(ones, A_eq=np.hstack([matrix, -matrix]), b_eq=y, method="highs")
    found = mf.minimize_reduced_risk(mf.energies.ReducedRisk(features, x, jnp.asarray(y), 1e-7), cells)
    assert found.variation == pytest.approx(program.fun, rel=1e-4) and found.variation < program.fun
    assert program.fun <= np.abs(weights).sum() + 1e-9


@pytest.mark.slow
def test_networks_of_the_other_scaling_stay_by_their_tangent_kernel():
    """Thesis (36), (38): with 1 / sqrt(M) in front F' = -K (F - y) / N, and the parameters move by M^-1/2.

    A mean-field flow of features sqrt(M) phi, whose time t is M t of the plain gradient; K by automatic
    differentiation of the plain network.
    """
    neuron = mf.features.Weighted(mf.features.Ridge(jnp.tanh))
    x, y = INPUTS, jnp.sin(INPUTS[:, 0])
    widths, moved, lazy = (64, 256, 1024), [], []
    for width in widths:
        half = jr.normal(jr.key(width), (width // 2, 2))
        # Pairs of opposite outer weights: F = 0 at the start.
        points = jnp.concatenate([half, half * jnp.array([-1.0, 1.0])])
        scaled = mf.features.Function(lambda xi, z, m=width: jnp.sqrt(1.0 * m) * neuron(xi, z))
        flow = mf.flows.Wasserstein(mf.energies.Risk(scaled, x, y), mf.domains.Euclidean(2))

        @jax.jit
        def plain(p, m=width):
            return jnp.sum(jnp.tanh(p[:, 1] * x) * p[:, 0], axis=1) / jnp.sqrt(1.0 * m)

        jacobian = jax.jacobian(plain)(points).reshape(len(x), -1)
        kernel = jacobian @ jacobian.T
        state = flow.init(Particles(points))
        _, rate = jax.jvp(plain, (points,), (flow.evaluate(state).tangent.points,))
        np.testing.assert_allclose(rate / width, kernel @ (y - plain(points)) / len(x), rtol=1e-9, atol=1e-12)
        time = 2.0
        sim = mf.Simulation(
            flow, Particles(points), stepper=mf.steppers.RK4(time / 40 / width), steps=40, save_every=40
        )
        _, last = end(sim)
        moved.append(float(jnp.sqrt(jnp.mean((last.points - points) ** 2))))
        linear = y - jax.scipy.linalg.expm(-time * kernel / len(x)) @ y
        lazy.append(float(jnp.max(jnp.abs(plain(last.points) - linear))))
    slopes = [np.polyfit(np.log(widths), np.log(v), 1)[0] for v in (moved, lazy)]
    print(f"M = {widths}: parameters move by {moved}, F is off its linearization by {lazy}, slopes {slopes}")
    assert abs(slopes[0] + 0.5) < 0.1 and slopes[1] < -0.4
