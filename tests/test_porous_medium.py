"""Slow diffusion across free boundaries: exact profiles, fronts, compact equilibria; fitted fluxes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.testing import check_traces

run = eqx.filter_jit(trajectory)
LINE = mf.domains.Interval(-2.0, 2.0)


class Well(eqx.Module):
    strength: jax.Array

    def __call__(self, x):
        return 0.5 * self.strength.astype(x.dtype) * jnp.sum(x * x)


def flow_of(lam, temperature=1.0, order=2.0, domain=LINE):
    energy = temperature * mf.energies.PorousMedium(order)
    return mf.flows.Wasserstein(energy + mf.energies.Potential(Well(jnp.asarray(lam))), domain)


def barenblatt(faces, radius):
    """Masses between the faces of 3 / (4 R) (1 - x^2 / R^2)_+."""
    s = np.clip(faces / radius, -1, 1)
    return np.diff(0.75 * (s - s**3 / 3))


def radius(t, lam, temperature, start):
    if lam == 0:
        return (start**3 + 4.5 * temperature * t) ** (1 / 3)
    limit = 1.5 * temperature / lam
    return (limit + (start**3 - limit) * np.exp(-3 * lam * t)) ** (1 / 3)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("cells", [(100, 200), (100, 200, 400)])
@pytest.mark.parametrize(("lam", "temperature"), [(0.0, 1.0), (2.0, 1.0), (8.0, 0.5)])
def test_barenblatt(lam, temperature, cells):
    """Spreading, relaxing outwards and (lam = 8) shrinking: mass, sign, L1 order, front within one cell."""
    times, errors, masses, fronts = np.array([0.1, 0.2]), [], [], []
    for n in cells:
        faces = np.linspace(-2, 2, n + 1)
        mu = mf.measures.Grid(LINE, n, barenblatt(faces, 0.8))
        carry, ((weights, _), values) = run(mf.Simulation(flow_of(lam, temperature), mu, save_at=times))
        weights = np.asarray(weights)
        assert int(carry.status) == 0
        assert np.min(weights) >= 0
        masses.append(np.max(np.abs(weights.sum(axis=1) - 1)))
        assert masses[-1] <= 1e-12
        drop = float(values["energy"][0] - values["energy"][-1])
        assert np.max(np.diff(values["energy"])) < 0
        assert abs(float(values["dissipated"][-1]) - drop) <= 1e-3 * drop
        for t, w in zip(times, weights[1:], strict=True):
            # A front that moves back leaves a wake, each cell with a hundredth of the mass of the one inside.
            for threshold, wake in ((1e-6, 3), (1e-2, 1)) if lam == 8 else ((1e-6, 1),):
                occupied = np.flatnonzero(w * n / 4 > threshold)
                front = max(faces[occupied[-1] + 1], -faces[occupied[0]])
                off = (front - radius(t, lam, temperature, 0.8)) * n / 4
                assert abs(off) <= wake + 1e-9, (n, t, threshold, off)
                fronts.append(abs(off))
        errors.append(np.abs(weights[-1] - barenblatt(faces, radius(0.2, lam, temperature, 0.8))).sum())
    order = np.log(errors[0] / errors[-1]) / np.log(cells[-1] / cells[0])
    print(f"Barenblatt, lam = {lam:g}: L1 errors {errors}, order {order:.2f}, mass to {max(masses):.1e}")
    print(f"front off by at most {max(fronts):.2f} cells")
    assert order >= 1.6, errors


def test_higher_power():
    """d_t rho = (rho^3)'' / 3: the source solution with square-root fronts, by mass and second moment."""
    m, n = 3.0, 200
    domain = mf.domains.Interval(-3.0, 3.0)
    alpha = 1 / (m + 1)
    k = alpha * (m - 1) / (2 * m)
    profile = lambda x, s: s**-alpha * np.maximum(0.5 - k * x**2 * s ** (-2 * alpha), 0) ** (1 / (m - 1))
    x = np.linspace(-3, 3, 40 * n + 1)[:-1] + 3 / (40 * n)
    cells = lambda s: profile(x, s).reshape(n, 40).mean(axis=1) * 6 / n
    # Its time runs m times slower than that of d_t u = (u^m)''.
    mu = mf.measures.Grid(domain, n, cells(0.5))
    carry, ((weights, _), _) = run(mf.Simulation(flow_of(0.0, order=m, domain=domain), mu, t1=m * 1.0))
    assert int(carry.status) == 0
    assert np.abs(np.asarray(weights[-1]) - cells(1.5)).sum() < 0.01 * cells(1.5).sum()


@pytest.mark.slow
def test_compact_equilibrium():
    """With a potential the support stays compact: V + T rho = c on it, and V > c beyond."""
    lam, temperature, n = 8.0, 0.5, 80
    mu = mf.measures.Grid.uniform(LINE, n)
    carry, ((weights, _), _) = run(mf.Simulation(flow_of(lam, temperature), mu, t1=4.0))
    assert int(carry.status) == 0
    density, x = np.asarray(weights[-1]) * n / 4, np.asarray(mu.points[:, 0])
    variation = 0.5 * lam * x**2 + temperature * density
    inside = density > 1e-4
    constant = variation[inside].mean()
    assert np.max(np.abs(variation[inside] - constant)) < 1e-4
    assert np.all(0.5 * lam * x[~inside] ** 2 > constant - 1e-4)
    limit = (1.5 * temperature / lam) ** (1 / 3)
    print(f"support ends at {np.abs(x[inside]).max() + 2 / n:.4f}, exact {limit:.4f}, cells of {4 / n:.4f}")
    assert abs(np.abs(x[inside]).max() + 2 / n - limit) <= 4 / n


@pytest.mark.slow
def test_in_two_dimensions():
    """On the torus: mass, sign, energy, and the equilibrium (c - V)_+ / T of a potential."""
    torus = mf.domains.Torus(2)
    potential = mf.energies.Potential(lambda x: 1.5 * jnp.sum(jnp.sin(jnp.pi * (x - 0.5)) ** 2))
    flow = mf.flows.Wasserstein(0.5 * mf.energies.PorousMedium() + potential, torus)
    mu = mf.measures.Grid.uniform(torus, 16)
    stepper = mf.steppers.RosenbrockW(1e-3, 1e-5)
    carry, ((weights, _), values) = run(mf.Simulation(flow, mu, save_at=[0.1, 3.0], stepper=stepper))
    assert int(carry.status) == 0
    weights = np.asarray(weights)
    assert np.min(weights) >= 0 and np.max(np.abs(weights.sum(axis=1) - 1)) <= 1e-12
    assert np.max(np.diff(values["energy"])) < 0
    v = np.asarray(jax.vmap(potential.function)(mu.points))
    low, high = v.min(), v.max() + 1
    for _ in range(60):
        c = 0.5 * (low + high)
        low, high = (c, high) if np.sum(np.maximum(c - v, 0)) / 0.5 / 256 < 1 else (low, c)
    exact = np.maximum(c - v, 0) / 0.5 / 256
    assert np.sum(exact == 0) > 10
    assert np.abs(weights[-1] - exact).sum() < 1e-3


@pytest.mark.slow
def test_parameters_are_batched_in_one_trace():
    dtype = "float64"
    mu = mf.measures.Grid(LINE, 40, barenblatt(np.linspace(-2, 2, 41), 0.8), dtype=dtype)

    @jax.vmap
    def ends(lam, temperature, order):
        sim = mf.Simulation(flow_of(lam, temperature, order), mu, t1=0.05)
        carry, _ = trajectory(sim)
        return carry.state.measure.weights, carry.status

    calls = [([0.0, 1.0], [1.0, 0.5], [2.0, 2.5]), ([0.5, 2.0], [0.7, 0.2], [1.5, 3.0])]
    calls = [tuple(jnp.asarray(n, dtype) for n in numbers) for numbers in calls]
    assert check_traces(ends, calls) == 1
    weights, status = ends(*calls[0])
    assert weights.dtype == dtype and not np.any(status)
    alone, ((solo, _), _) = run(mf.Simulation(flow_of(1.0, 0.5, 2.5), mu, t1=0.05))
    assert int(alone.status) == 0
    np.testing.assert_allclose(weights[1], solo[-1], atol=1e-8)


# --- fitted fluxes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fokker_planck_against_the_exact_gaussian():
    """Ornstein-Uhlenbeck from a Gaussian off center: second order in space, free energy never rising."""
    temperature, lam, t1 = 0.3, 1.0, 0.5
    domain, errors = mf.domains.Interval(-4.0, 4.0), []
    mean, variance = 1.0, 0.1
    density = lambda x, m, v: jnp.exp(-((x[0] - m) ** 2) / (2 * v)) / jnp.sqrt(2 * jnp.pi * v)
    end = temperature + (variance - temperature) * np.exp(-2 * t1)
    for n in (50, 100, 200):
        mu = mf.measures.Grid.from_density(domain, n, lambda x: density(x, mean, variance))
        energy = temperature * mf.energies.Entropy() + mf.energies.Potential(Well(jnp.asarray(lam)))
        sim = mf.Simulation(mf.flows.Wasserstein(energy, domain), mu, t1=t1)
        carry, (_, values) = run(sim)
        assert int(carry.status) == 0 and np.max(np.diff(values["energy"])) < 0
        exact = mf.measures.Grid.from_density(domain, n, lambda x: density(x, mean * np.exp(-t1), end))
        errors.append(float(jnp.sum(jnp.abs(carry.state.measure.weights - exact.weights))))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.15), (orders, errors)


@pytest.mark.slow_cases("float32-0.001")
@pytest.mark.parametrize("temperature", [1e-3, 0.0])
def test_fitted_fluxes_become_upwind_ones_at_low_temperature(temperature, dtype):
    """No overflow, no NaN, in derivatives too, for any drift; a positive implicit step of any size."""
    mu = mf.measures.Grid.uniform(LINE, 32, dtype=dtype)

    def end(temperature):
        energy = temperature * mf.energies.Entropy() + mf.energies.Potential(Well(jnp.asarray(50.0)))
        flow = mf.flows.Wasserstein(energy, LINE)
        carry, _ = trajectory(mf.Simulation(flow, mu, stepper=mf.steppers.ImplicitEuler(1.0), steps=3))
        return carry.state.measure.weights, carry.status

    (weights, status), (slope, _) = jax.jit(lambda t: jax.jvp(end, (t,), (jnp.ones_like(t),)))(
        jnp.asarray(temperature, dtype)
    )
    assert int(status) == 0 and np.min(weights) >= 0 and np.all(np.isfinite(slope))
    # All mass ends in the two cells beside the minimum.
    assert float(jnp.sum(weights[15:17])) > 0.999


def test_derivatives_pass_through_fitted_fluxes():
    """d(rates)/d(temperature, drift) against differences, where the drift is zero, small and large."""
    mu = mf.measures.Grid.uniform(LINE, 8)
    weights = jnp.asarray(np.random.default_rng(0).exponential(size=8))

    def rates(temperature, rise):
        drift = (jnp.linspace(-1.0, 1.0, 8) ** 3 * rise,)
        part = ((temperature, mf.energies.Entropy()),)
        return mf.grids.mass_rate(mu.with_weights(weights), drift, part)[0]

    compiled = jax.jit(rates)
    for numbers in ((0.3, 0.0), (0.3, 0.1), (0.3, 40.0)):
        for i in range(2):
            step = [0.0, 0.0]
            step[i] = 1e-5
            ahead, behind = (
                compiled(*(n + s * d for n, d in zip(numbers, step, strict=True))) for s in (1, -1)
            )
            exact = jax.jacfwd(rates, argnums=i)(*numbers)
            np.testing.assert_allclose(
                (ahead - behind) / 2e-5, exact, atol=1e-6 * float(jnp.max(jnp.abs(exact)))
            )


@pytest.mark.wrong_calls
def test_bad_input():
    mu = mf.measures.Grid.uniform(LINE, 8)
    for wrong, message in [
        (lambda: mf.energies.PorousMedium(1.0), "greater than 1"),
        (lambda: flow_of(0.0).init(mf.measures.Particles(mu.points)), "run this flow on a Grid"),
        (
            lambda: mf.Simulation(flow_of(0.0), mu, stepper=mf.steppers.ImplicitEuler(0.1), steps=1),
            "at its front",
        ),
        (lambda: mf.Simulation(flow_of(0.0), mu, stepper=mf.steppers.Rosenbrock(), t1=1.0), "has fronts"),
        (lambda: mf.flows.Wasserstein(flow_of(0.0).energy, LINE, space=None), "mf.grids.Discretization"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
