"""Gibbs measures: the equation to rounding, against each other and closed forms, derivatives, faults."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import mfjax as mf
from mfjax import losses
from mfjax.energies import MMD, Entropy, Potential, PowerDivergence, ReducedRisk, Risk
from mfjax.features import Function
from mfjax.measures import Grid, Particles
from mfjax.testing import check_traces
from mfjax.theory.gibbs_measure.problem import problem

LINE = mf.domains.Interval(-4.0, 4.0)
PLANE = mf.domains.Box([-4.0, -4.0], [4.0, 4.0])


def neuron(xi, x):
    """2 tanh(w) tanh(theta x): a neuron whose output is bounded by 2."""
    return 2 * jnp.tanh(xi[0]) * jnp.tanh(xi[1] * x[0])


NEURON = Function(neuron)


def data(n=12, dtype="float64"):
    x = jnp.linspace(-2, 2, n, dtype=dtype)[:, None]
    return x, jnp.tanh(1.5 * x[:, 0]) - 0.5 * jnp.tanh(3 * x[:, 0] - 1)


def risk(loss=None, lam=0.1, dtype="float64"):
    x, y = data(dtype=dtype)
    y = jnp.sign(y) if isinstance(loss, losses.Logistic) else y
    return Risk(NEURON, x, y, lam, loss)


def bowl(z):
    return 0.05 * jnp.sum(z * z)


def cosh(f, y):
    return jnp.cosh(f - y) - 1


def reduced(lam=1e-2, dtype="float64", **options):
    return ReducedRisk(
        Function(lambda xi, x: jnp.tanh(xi[0] * x[0] + xi[1])), *data(dtype=dtype), lam, **options
    )


def gibbs_by_hand(energy, m, temperature):
    """e^{-V/T} / Z with V from the energy itself, NumPy only."""
    v = np.asarray(energy.first_variation(m)) / temperature
    weights = np.exp(-(v - v.min()))
    return weights / weights.sum()


@pytest.mark.slow_cases("1.0", "0.3")
@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.1])
def test_the_tanh_network_to_rounding(sigma):
    """Residual <= 1e-10, recomputed from the energy; T = sigma^2 / 2."""
    temperature = sigma**2 / 2
    energy = risk()
    found = mf.gibbs(energy + temperature * Entropy(), Grid.uniform(PLANE, 40))
    there = gibbs_by_hand(energy, found.measure, temperature)
    residual = np.abs(np.asarray(found.measure.weights) - there).sum()
    print(f"sigma = {sigma}: residual {residual:.1e} after {int(found.iterations)} iterations")
    assert residual <= 1e-10 and float(found.residual) <= 1e-10
    assert int(found.status) == 0 and 0 <= float(found.gap) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: risk(losses.Huber(0.2)),
        lambda: (
            0.5 * risk(losses.ConvexLoss(cosh))
            + 2.0 * reduced(regularizer=mf.regularizers.Quadratic(1.0))
            + Potential(bowl)
        ),
    ],
    ids=["huber", "sum"],
)
def test_newton_and_fixed_point_agree(make):
    """Two unrelated iterations; V is recomputed from the energy."""
    energy, temperature = make(), 0.02
    grid = Grid.uniform(PLANE, 16)
    newton = mf.gibbs(energy + temperature * Entropy(), grid)
    damped = mf.gibbs(energy + temperature * Entropy(), grid, method="fixed point", tolerance=1e-9)
    there = gibbs_by_hand(energy, newton.measure, temperature)
    assert np.abs(np.asarray(newton.measure.weights) - there).sum() < 1e-10
    gap = np.abs(np.asarray(newton.measure.weights - damped.measure.weights)).sum()
    assert gap < 1e-8
    assert float(newton.value) <= float(damped.value) + 1e-14
    assert int(damped.iterations) > int(newton.iterations)


def test_the_plain_iteration_diverges_where_both_methods_converge():
    """m <- e^{-V_m/T} / Z at small T: it ends in a cycle far from the solution."""
    energy, temperature = risk(), 0.005
    found = mf.gibbs(energy + temperature * Entropy(), Grid.uniform(PLANE, 20))
    mu = Grid.uniform(PLANE, 20)
    step = jax.jit(lambda mu: mu.with_weights(jax.nn.softmax(-energy.first_variation(mu) / temperature)))
    for _ in range(100):
        mu = step(mu)
    assert float(jnp.sum(jnp.abs(mu.weights - found.measure.weights))) > 0.5


def test_a_gaussian_in_closed_form():
    """F = (mean - y)^2 / 2 with V = lam x^2 / 2: normal law of mean y / (1 + lam), variance T / lam."""
    lam, y, temperature = 2.0, 1.2, 0.3
    energy = Risk(Function(lambda xi, x: xi[0] * x[0]), [[1.0]], [y], lam) + temperature * Entropy()
    line = mf.domains.Interval(-5.0, 6.0)
    m = mf.gibbs(energy, Grid.uniform(line, 200)).measure
    x = m.points[:, 0]
    mean = float(m.integrate(x))
    # The midpoint rule is spectrally accurate for a normal law.
    assert mean == pytest.approx(y / (1 + lam), abs=1e-12)
    assert float(m.integrate((x - mean) ** 2)) == pytest.approx(temperature / lam, abs=1e-12)


def test_one_datum_is_a_scalar_equation():
    """With one datum the prediction solves f = <phi> under e^{-((f - y) phi + V) / T}, one number."""
    y, temperature, lam = 0.8, 0.05, 0.1
    phi = Function(lambda xi, x: jnp.tanh(xi[0] * x[0]))
    grid = Grid.uniform(LINE, 64)
    found = mf.gibbs(Risk(phi, [[1.5]], [y], lam) + temperature * Entropy(), grid)
    x = np.asarray(grid.points[:, 0])
    value = np.tanh(1.5 * x)

    def mean(f):
        weights = np.exp(-((f - y) * value + 0.5 * lam * x**2) / temperature)
        return value @ weights / weights.sum()

    root = brentq(lambda f: f - mean(f), -1, 1, xtol=1e-15)
    assert float(found.measure.integrate(jnp.asarray(value))) == pytest.approx(root, abs=1e-12)


def test_it_minimizes_and_the_gap_bounds_the_excess():
    """No perturbation has less free energy; on a path to another measure the gap is above the excess."""
    energy = risk(losses.Huber(0.2)) + 0.05 * Entropy()
    grid = Grid.uniform(PLANE, 20)
    found = mf.gibbs(energy, grid)
    free = jax.jit(jax.vmap(lambda w: energy.solve(grid.with_weights(w)).value))
    rng = np.random.default_rng(0)
    best = np.asarray(found.measure.weights)
    others = best * np.exp(0.3 * rng.normal(size=(50, best.size)))
    excess = np.asarray(free(jnp.asarray(others / others.sum(1, keepdims=True)))) - float(found.value)
    assert excess.min() > 0
    bound = jax.jit(lambda w: problem(energy, grid).gap(w))
    for share in (1.0, 0.3, 0.01):
        mixed = jnp.asarray((1 - share) * best + share * np.asarray(grid.weights))
        assert 0 < float(free(mixed[None])[0] - found.value) <= float(bound(mixed))


@pytest.mark.slow
def test_any_energy_through_the_potential_at_the_cells():
    """A discrepancy has no finite dual: Newton on the cells, the fixed point, and a mass that is not one."""
    torus = mf.domains.Torus(1)
    energy = MMD(mf.kernels.Gaussian(0.2, torus), Particles([[0.2], [0.25], [0.7]])) + 0.01 * Entropy()
    grid = Grid.uniform(torus, 48)
    assert energy.dual(grid) is None
    ends = [mf.gibbs(energy, grid, method=method).measure.weights for method in ("newton", "fixed point")]
    np.testing.assert_allclose(*ends, atol=1e-9)
    heavy = mf.gibbs(risk() + 0.05 * Entropy(), Grid(PLANE, 16, np.full(256, 3 / 256)))
    assert float(heavy.measure.mass) == pytest.approx(3.0, rel=1e-14) and float(heavy.residual) < 1e-12


@pytest.mark.slow
def test_derivatives_are_those_of_the_implicit_function_theorem():
    """In (lam, T), of the free energy and of a mean: the envelope theorem and central differences."""
    grid = Grid.uniform(PLANE, 12)

    def solve(lam, temperature):
        found = mf.gibbs(risk(lam=lam) + temperature * Entropy(), grid)
        weights = found.measure.weights
        return found.value, found.measure.integrate(jnp.prod(jnp.tanh(grid.points), 1)), weights

    at = (0.1, 0.05)
    compiled = jax.jit(jax.value_and_grad(lambda *a: solve(*a)[1], (0, 1)))
    _, slopes = compiled(*at)
    value = jax.jit(lambda *a: solve(*a)[:2])
    step = 1e-5
    for i in (0, 1):
        shifted = [tuple(a + s * step * (i == j) for j, a in enumerate(at)) for s in (1, -1)]
        ends = [np.asarray(value(*place)) for place in shifted]
        np.testing.assert_allclose(slopes[i], (ends[0][1] - ends[1][1]) / (2 * step), rtol=1e-6)
    forward = jax.jit(jax.jacfwd(lambda *a: solve(*a)[:2], (0, 1)))(*at)
    np.testing.assert_allclose(forward[1], slopes, rtol=1e-9)
    # dF_T/dlam is the partial derivative, int |xi|^2 / 2 dm.
    squares = jnp.sum(grid.points**2, axis=1)
    np.testing.assert_allclose(forward[0][0], 0.5 * solve(*at)[2] @ squares, rtol=1e-9)


@pytest.mark.slow
def test_one_program_batched_over_strength_and_temperature():
    grid = Grid.uniform(PLANE, 12)
    solve = lambda lam, temperature: mf.gibbs(risk(lam=lam) + temperature * Entropy(), grid)
    lams, temperatures = jnp.array([0.01, 0.1, 0.3]), jnp.array([0.005, 0.05, 0.5])
    batched = jax.jit(jax.vmap(solve))(lams, temperatures)
    assert np.all(np.asarray(batched.status) == 0) and float(jnp.max(batched.residual)) < 1e-10
    for i in range(3):
        alone = solve(lams[i], temperatures[i])
        np.testing.assert_allclose(batched.measure.weights[i], alone.measure.weights, atol=1e-12)
    assert (
        check_traces(
            lambda lam, t: solve(lam, t).value,
            [(jnp.array(a), jnp.array(b)) for a, b in ((0.1, 0.1), (0.2, 0.3))],
        )
        == 1
    )


@pytest.mark.slow
def test_single_precision():
    grid = Grid.uniform(PLANE, 16, dtype="float32")
    found = mf.gibbs(risk(dtype="float32") + 0.05 * Entropy(), grid)
    assert found.measure.dtype == "float32" and float(found.residual) < 1e-5
    double = mf.gibbs(risk() + 0.05 * Entropy(), Grid.uniform(PLANE, 16))
    np.testing.assert_allclose(found.measure.weights, double.measure.weights, atol=1e-6)


@pytest.mark.slow
def test_a_search_cut_short_is_told():
    energy, grid = risk() + 0.005 * Entropy(), Grid.uniform(PLANE, 12)
    with pytest.raises(mf.SimulationError, match=r"residual of .* after 2 iterations of newton") as caught:
        mf.gibbs(energy, grid, iterations=2)
    assert int(caught.value.run.status) == mf.status.NOT_CONVERGED
    with pytest.raises(mf.SimulationError, match='method="newton"'):
        mf.gibbs(energy, grid, method="fixed point", iterations=3)
    status = jax.jit(lambda t: mf.gibbs(risk() + t * Entropy(), grid, iterations=2).status)(0.005)
    assert int(status) == mf.status.NOT_CONVERGED


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mf.gibbs(risk(), Grid.uniform(PLANE, 8)), "add temperature \\* energies.Entropy"),
        (lambda: mf.gibbs(risk() + Entropy(), Particles([[0.0, 0.0]])), "on a Grid, got Particles"),
        (lambda: mf.gibbs(3.0, Grid.uniform(PLANE, 8)), "energy must be an Energy"),
        (
            lambda: mf.gibbs(risk() + Entropy(), Grid.uniform(PLANE, 8), method="bfgs"),
            "method must be one of",
        ),
        (lambda: mf.gibbs(risk() + Entropy(), Grid.uniform(PLANE, 8), iterations=0), "iterations must be"),
        (
            lambda: mf.gibbs(Entropy() + PowerDivergence(lambda x: 1.0), Grid.uniform(PLANE, 8)),
            "PowerDivergence has no Gibbs measure",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The flow beside the equation.
def start(domain, n):
    return Grid.from_density(domain, n, lambda z: jnp.exp(-jnp.sum((z - 1.5) ** 2)))


def neuron_risk(temperature):
    """One-neuron tanh network on the line, with its entropy."""
    return Risk(Function(lambda xi, x: 2 * jnp.tanh(xi[0] * x[0])), *data(), 0.1) + temperature * Entropy()


def fokker_planck(energy, mu, t1, rtol=1e-9, saves=100, **observables):
    flow = mf.flows.Wasserstein(energy, LINE)
    stepper = mf.steppers.RosenbrockW(rtol, 1e-3 * rtol)
    times = t1 * (np.arange(1, saves + 1) / saves) ** 2
    return mf.simulate(flow, mu, stepper=stepper, save_at=times, observables=observables)


@pytest.fixture(scope="module")
def runs():
    """The flow of the one-neuron network at sigma = 1, 0.3, 0.1, with its Gibbs measure."""
    grid = start(LINE, 96)
    results = {}
    for sigma in (1.0, 0.3, 0.1):
        energy = neuron_risk(sigma**2 / 2)
        found = mf.gibbs(energy, grid)
        results[sigma] = fokker_planck(energy, grid, 5.0, target=mf.observables.KL(found.measure)), found
    return results


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.1])
def test_fokker_planck_free_energy_drops_by_the_dissipation(runs, sigma):
    run, found = runs[sigma]
    energy, dissipated = np.asarray(run.observables["energy"]), float(run.observables["dissipated"][-1])
    drop = energy[0] - energy[-1]
    print(f"sigma = {sigma}: drop {drop:.9f}, dissipated {dissipated:.9f}")
    assert np.all(np.diff(energy) < 0) and drop > 0.7
    assert abs(drop - dissipated) < 1e-6 * drop
    assert float(run.final.mass) == pytest.approx(1, abs=1e-12) and float(run.final.weights.min()) >= 0
    # For convex F the excess free energy is above T KL(m | m*).
    excess, temperature = energy - float(found.value), sigma**2 / 2
    assert np.all(excess >= temperature * np.asarray(run.observables["target"]) - 1e-12)


def test_the_log_sobolev_bound_lies_above_the_curve(runs):
    """With the oscillation that the run meets; it fails with the sign of the energy's fall changed."""
    run, found = runs[1.0]
    excess = np.asarray(run.observables["energy"]) - float(found.value)
    # lam |xi|^2 / 2, lam = 0.1, is the convex part; the rest sees the data.
    seen = Risk(Function(lambda xi, x: 2 * jnp.tanh(xi[0] * x[0])), *data(), 0.0)
    bound = mf.bounds.entropy_decay_along(excess[0], 0.5, run.times, run.measures, seen, convexity=0.1)
    margin, end = bound.check(run.times, excess), float(bound(run.times)[-1] / excess[0])
    print(f"margin {margin:.2e}, bound at the end {end:.3f} of its start, rates {bound.rates[::33]}")
    assert margin >= 0 and end < 0.95
    assert bound.check(run.times, excess[0] ** 2 / excess) < 0
    # As if the log-Sobolev constant were a multiple of what it is: the fall of the run is not so fast.
    faster = eqx.tree_at(lambda b: b.rates, bound, 100 * bound.rates)
    assert faster.check(run.times, excess) < 0


@pytest.mark.slow
def test_the_flow_ends_at_the_gibbs_measure():
    """Stationary to rounding for the grid flow; a run of the bilevel flow ends there, decreasing."""
    mu = start(LINE, 48)
    for energy in (neuron_risk(0.05), bilevel(0.05)):
        flow, found = mf.flows.Wasserstein(energy, LINE), mf.gibbs(energy, mu)
        assert float(jnp.max(jnp.abs(flow.rate(flow.init(found.measure)).weights))) < 1e-11
    run = fokker_planck(energy, mu, 350.0, rtol=1e-8, saves=20)
    assert float(jnp.sum(jnp.abs(run.final.weights - found.measure.weights))) < 5e-8
    excess = np.asarray(run.observables["energy"]) - float(found.value)
    assert np.all(np.diff(excess) < 1e-12) and excess[0] > 0.02 and abs(excess[-1]) < 1e-12


def bilevel(temperature, dtype="float64"):
    """Langevin on the reduced risk: the outer weights are optimal at any time, signs included."""
    features = Function(lambda xi, x: jnp.tanh(xi[0] * x[0] + 0.5))
    return ReducedRisk(features, *data(dtype=dtype), 0.05) + Potential(bowl) + temperature * Entropy()


@pytest.mark.slow
def test_bilevel_langevin_on_particles():
    """The reduced risk of noisy particles is that of the Fokker-Planck density, time by time.

    Twelve seeds of 400 particles: means within four standard errors, and a bias of O(1 / M) of an energy of
    order one.
    """
    energy, times, width = bilevel(0.02), [0.5, 1.0, 2.0, 4.0], 400
    smooth = bilevel(0.0).parts()[:2]
    law = Grid.from_density(LINE, 192, lambda z: jnp.exp(-2 * (z[0] - 2) ** 2))
    density = mf.simulate(mf.flows.Wasserstein(energy, LINE), law, save_at=times)
    at = lambda weights: sum(c * term.solve(law.with_weights(weights)).value for c, term in smooth)
    expected = np.asarray(jax.vmap(at)(density.measures.weights))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))

    def cell(seed):
        for_start, for_noise = jax.random.split(jax.random.key(seed))
        mu = Particles(2 + 0.5 * jax.random.normal(for_start, (width, 1)))
        stepper = mf.steppers.StochasticHeun(0.05)
        return mf.Simulation(flow, mu, stepper=stepper, save_at=times, key=for_noise, save_measures=False)

    risks = np.asarray(mf.sweep(cell, seed=range(12)).to_xarray().energy)
    gaps, errors = risks.mean(0) - expected, risks.std(0, ddof=1) / np.sqrt(12)
    print(f"bilevel particles against the density: {gaps} (standard errors {errors})")
    assert expected[0] > 1.2 * expected[-1]
    assert np.all(np.abs(gaps) < 4 * errors + 1 / width), (gaps, errors)


@pytest.mark.slow
def test_dissipation_is_the_fisher_information():
    """For a linear energy T^2 I(m | m*) is the recorded dissipation, to rounding."""
    temperature = 0.3
    for domain, n in ((PLANE, 8), (mf.domains.Torus(1, 8.0), 40)):
        energy = Potential(lambda z: jnp.sum(jnp.cos(z) + 0.1 * z)) + temperature * Entropy()
        mu = start(domain, n)
        found = mf.gibbs(energy, mu)
        flow = mf.flows.Wasserstein(energy, domain)
        information = mf.observables.FisherInformation(found.measure)
        dissipation = float(flow.evaluate(flow.init(mu)).dissipation)
        assert temperature**2 * float(information(mu)) == pytest.approx(dissipation, rel=1e-11)
        assert float(information(found.measure)) < 1e-25
    spiked = mu.with_weights(jnp.eye(40)[3])
    assert np.isinf(information(spiked))


@pytest.mark.slow
def test_the_spectrum_of_ornstein_uhlenbeck():
    """Rates A, 2A, 3A of the Hermite modes, by Richardson from cells of two sizes; e^{-2At} in the energy."""
    a, temperature = 1.3, 0.4
    energy = Potential(lambda z: 0.5 * a * z[0] ** 2) + temperature * Entropy()
    flow, rates = mf.flows.Wasserstein(energy, LINE), []
    for n in (48, 96, 192):
        star = mf.gibbs(energy, Grid.uniform(LINE, n)).measure
        rates.append(np.asarray(mf.linearize(flow, star).rates[:3]))
    coarse, fine = ((4 * b - a_) / 3 for a_, b in pairwise(rates))
    extrapolated = (16 * fine - coarse) / 15
    print(f"rates / A: {extrapolated / a}")
    np.testing.assert_allclose(extrapolated, a * np.arange(1, 4), rtol=1e-6)
    order = np.log2(np.abs(rates[0] - a * np.arange(1, 4)) / np.abs(rates[1] - a * np.arange(1, 4)))
    assert np.all(np.abs(order - 2) < 0.1)
    run = fokker_planck(energy, start(LINE, 48), 6.0, rtol=1e-7)
    star = mf.gibbs(energy, start(LINE, 48))
    excess = np.asarray(run.observables["energy"]) - float(star.value)
    fit = mf.theory.fit_rate(run.times, excess, transient=1e-3)
    assert fit.rate == pytest.approx(2 * rates[0][0], rel=1e-4)
    # Exact for a Gaussian: the bound is the rate, to the mesh.
    assert fit.rate == pytest.approx(float(mf.bounds.entropy_decay(1.0, 1.0, a).rate), rel=0.02)


@pytest.mark.slow
def test_annealing_to_zero_reaches_the_least_risk():
    """F(m^{*,sigma}) decreases to inf F as sigma falls (Gamma-convergence), here along a batch of sigmas."""
    grid = Grid.uniform(LINE, 128)
    smooth = neuron_risk(0.0).parts()[0][1]
    solve = lambda t: mf.gibbs(smooth + t * Entropy(), grid).measure.weights
    temperatures = jnp.array([0.5, 0.05, 5e-3, 5e-4, 5e-5])
    weights = jax.jit(jax.vmap(solve))(temperatures)
    risks = np.asarray(jax.vmap(lambda w: smooth.solve(grid.with_weights(w)).value)(weights))
    assert np.all(np.diff(risks) < 0)
    # inf F over the simplex by its dual gap at the last measure: F(m) - inf F <= int V dm - min V.
    potential = smooth.first_variation(grid.with_weights(weights[-1]))
    gap = float(weights[-1] @ potential - potential.min())
    assert 0 <= gap < 5e-3 and risks[-2] - risks[-1] < 5e-3
