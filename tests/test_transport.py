"""Wasserstein distances beyond one dimension: against assignments, linear programs and closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment

import mfjax as mf
from mfjax.measures import Grid, Particles
from mfjax.observables import SinkhornDivergence, Wasserstein1D, WassersteinDistance
from mfjax.observables.coupling import _on_host

PLANE, TORUS, SPHERE = mf.domains.Euclidean(2), mf.domains.Torus(2, 2.5), mf.domains.Sphere(2)


def masses(n, seed):
    drawn = np.random.default_rng(seed).random(n) + 0.1
    return jnp.asarray(drawn / drawn.sum())


def lengths(domain, x, y):
    """Geodesic lengths by NumPy."""
    x, y = np.asarray(x), np.asarray(y)
    if domain is SPHERE:
        return np.arccos(np.clip(x @ y.T, -1, 1))
    gap = x[:, None] - y[None]
    if domain is TORUS:
        gap = np.minimum(np.abs(gap), 2.5 - np.abs(gap))
    return np.linalg.norm(gap, axis=-1)


@pytest.mark.parametrize("d", [2, 3, 10])
def test_equal_masses_are_an_assignment_and_a_translation_costs_its_length(d):
    x, y = jr.normal(jr.key(0), (60, d)), jr.normal(jr.key(1), (60, d)) + 0.5
    cost = np.sum((np.asarray(x)[:, None] - np.asarray(y)) ** 2, axis=-1)
    rows, columns = linear_sum_assignment(cost)
    exact = np.sqrt(cost[rows, columns].mean())
    assert float(WassersteinDistance(y, 2)(Particles(x))) == pytest.approx(exact, rel=1e-12)
    shift = jnp.arange(1.0, d + 1)
    for weights in (None, masses(60, 0)):
        moved = Particles((x + shift)[::-1], None if weights is None else weights[::-1])
        error = float(WassersteinDistance(moved, 2)(Particles(x, weights)) / jnp.linalg.norm(shift)) - 1
        print(f"d = {d}: a translation is off by {error:.1e}")
        assert abs(error) < 1e-10


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("domain", [PLANE, TORUS, SPHERE], ids=["plane", "torus", "sphere"])
def test_unequal_masses_against_a_network_simplex(domain, order):
    mu, nu = (Particles(domain.sample(jr.key(i), n), masses(n, i)) for i, n in enumerate((40, 25)))
    exact = ot.emd2(
        *map(np.asarray, (mu.weights, nu.weights)), lengths(domain, mu.points, nu.points) ** order
    ) ** (1 / order)
    assert float(WassersteinDistance(nu, order, domain)(mu)) == pytest.approx(
        exact, rel=1e-7 if domain is SPHERE else 1e-11
    )


def test_no_plan_is_cheaper():
    """The prices of the host prove it, on grids too, whose costs have ties: no gap to the dual program."""
    cells = Grid.uniform(mf.domains.Torus(2), 9).points
    cost = lengths(None, cells, cells)
    for a, b in ((masses(81, 0), masses(81, 1)), (jnp.full(81, 1 / 81), jnp.full(81, 1 / 81)[::-1])):
        plan, u, v = _on_host(True, cost, np.asarray(a), np.asarray(b))
        assert np.min(cost - u[:, None] - v) > -1e-9
        assert np.sum(plan * cost) - (a @ u + b @ v) == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose([plan.sum(1), plan.sum(0)], [a, b], atol=1e-14)
        assert plan.min() >= 0


def test_a_grid_against_a_cloud_and_in_one_dimension():
    grid = Grid.from_density(TORUS, 8, lambda x: 1.5 + jnp.cos(2 * jnp.pi * x[0] / 2.5))
    cloud = Particles.sample(TORUS, jr.key(0), 30)
    exact = ot.emd2(
        *map(np.asarray, (cloud.weights, grid.weights)), lengths(TORUS, cloud.points, grid.points)
    )
    assert float(WassersteinDistance(grid, 1, TORUS)(cloud)) == pytest.approx(exact, rel=1e-11)
    line = mf.domains.Interval(0.0, 1.0)
    one, other = (Particles.sample(line, jr.key(i), 20) for i in range(2))
    assert float(WassersteinDistance(one, 2, line)(other)) == float(Wasserstein1D(one, 2, line)(other))
    flat = WassersteinDistance(one, 2)
    assert flat.sorted is None and float(flat(other)) == pytest.approx(
        float(Wasserstein1D(one, 2, line)(other)), rel=1e-12
    )


def test_shortest_paths():
    """Opposite and neighboring points of a sphere; a domain that has coordinates alone."""
    north, near = jnp.array([0.0, 0.0, 1.0]), jnp.array([1e-9, 0.0, 1.0])
    assert float(SPHERE.distance(north, -north)) == pytest.approx(np.pi, rel=1e-15)
    assert float(SPHERE.distance(north, near)) == pytest.approx(1e-9, rel=1e-12)
    assert float(TORUS.distance(jnp.array([0.1, 0.2]), jnp.array([2.4, 2.3]))) == pytest.approx(
        np.hypot(0.2, 0.4)
    )
    with pytest.raises(NotImplementedError, match="overrides `distance`"):
        mf.domains.Domain.distance(SPHERE, north, near)
    signs = mf.domains.Signed(TORUS)
    here, there = jnp.array([1.0, 0.1, 0.2]), jnp.array([1.0, 2.4, 2.3])
    assert float(signs.distance(here, there)) == pytest.approx(np.hypot(0.2, 0.4))
    assert float(signs.distance(here, there.at[0].set(-1.0))) == np.inf


def test_nan_and_masses_that_do_not_match_end_in_nan():
    x = jr.normal(jr.key(0), (5, 2))
    observe = WassersteinDistance(x, 2)
    assert bool(jnp.isnan(jax.jit(lambda p: observe(Particles(p)))(x.at[0, 0].set(jnp.nan))))
    plan = jax.jit(mf.theory.optimal_coupling)(jnp.ones((2, 2)), jnp.ones(2), 0.5 * jnp.ones(2))
    assert bool(jnp.all(jnp.isnan(plan)))


@pytest.mark.slow
def test_second_derivatives_hold_the_coupling():
    x, y = jr.normal(jr.key(0), (7, 2)), jr.normal(jr.key(1), (5, 2))
    value = lambda p: WassersteinDistance(Particles(y, masses(5, 0)), 2)(Particles(p, masses(7, 1)))
    slope = jax.jit(jax.grad(value))
    v, h = jr.normal(jr.key(2), x.shape), 1e-6
    along = jax.jit(lambda p: jax.jvp(jax.grad(value), (p,), (v,))[1])(x)
    np.testing.assert_allclose(along, (slope(x + h * v) - slope(x - h * v)) / (2 * h), atol=1e-8)
    mixed = jax.grad(lambda m: jnp.sum(jax.grad(lambda p: WassersteinDistance(y, 2)(Particles(p, m)))(x)))(
        masses(7, 1)
    )
    assert bool(jnp.all(jnp.isnan(mixed)))


WELL = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))


def test_in_a_run_every_saved_value_is_that_of_the_saved_measure(tmp_path):
    """Of a run that is written, and of a batch: W_2 contracts like e^{-t} in a quadratic well."""
    flow, start = mf.flows.Wasserstein(WELL, PLANE), Particles(jr.normal(jr.key(0), (12, 2)))
    still = Particles(jnp.zeros((3, 2)), masses(3, 0))
    observe = WassersteinDistance(still, 2)
    run = mf.simulate(
        flow,
        start,
        stepper=mf.steppers.RK4(0.05),
        steps=20,
        save_every=10,
        observables={"w": observe},
        path=tmp_path,
    )
    again = [float(observe(jax.tree.map(jnp.asarray, run.measure(k)))) for k in range(3)]
    np.testing.assert_allclose(run.observables["w"], again, rtol=1e-12)
    np.testing.assert_allclose(run.observables["w"] / run.observables["w"][0], np.exp(-run.times), rtol=1e-6)
    batch = jax.vmap(lambda s: observe(Particles(s * start.points)))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(batch, [again[0], 2 * again[0]], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["map", "vmap", "loop"])
def test_in_a_sweep(method):
    target = jr.normal(jr.key(1), (9, 2))

    def cell(scale, seed):
        mu = Particles(scale * jr.normal(jr.key(seed), (12, 2)))
        flow = mf.flows.Wasserstein(WELL, PLANE)
        watch = {"w": WassersteinDistance(target, 2), "s": SinkhornDivergence(target, 0.5)}
        return mf.Simulation(flow, mu, stepper=mf.steppers.RK4(0.1), steps=4, observables=watch)

    table = mf.sweep(cell, scale=[1.0, 2.0], seed=range(2), method=method)
    found = table.to_xarray()
    for i, scale in enumerate((1.0, 2.0)):
        mu = Particles(scale * jr.normal(jr.key(1), (12, 2)))
        exact = float(WassersteinDistance(target, 2)(mu))
        assert float(found.w[i, 1, 0]) == pytest.approx(exact, rel=1e-12)
        assert float(found.s[i, 1, 0]) == pytest.approx(float(SinkhornDivergence(target, 0.5)(mu)), rel=1e-9)


# --- The Sinkhorn divergence


def entropic(a, b, cost, blur):
    """The entropic cost by another program, with KL to the product of the masses."""
    plan = ot.sinkhorn(a, b, cost, 2 * blur**2, method="sinkhorn_log", stopThr=1e-13, numItermax=50000)
    kl = np.sum(plan * np.log(np.maximum(plan, 1e-300) / np.outer(a, b)))
    return float(np.sum(plan * cost) + 2 * blur**2 * kl)


@pytest.mark.slow
def test_sinkhorn_divergence_against_another_program():
    mu, nu = (Particles(TORUS.sample(jr.key(i), n), masses(n, i)) for i, n in enumerate((20, 14)))
    blur, (a, b) = 0.3, (np.asarray(m.weights) for m in (mu, nu))
    cost = lambda x, y: lengths(TORUS, x.points, y.points) ** 2
    exact = entropic(a, b, cost(mu, nu), blur)
    exact -= 0.5 * (entropic(a, a, cost(mu, mu), blur) + entropic(b, b, cost(nu, nu), blur))
    observe = SinkhornDivergence(nu, blur, TORUS)
    assert float(observe(mu)) == pytest.approx(exact, rel=1e-8)
    assert float(observe(nu)) == pytest.approx(0, abs=1e-12)
    # Points that are apart from each other by more than the blur need more iterations than there are.
    assert bool(jnp.isnan(SinkhornDivergence(nu, 1e-3, TORUS, max_iterations=5)(mu)))


@pytest.mark.slow
def test_the_blur_is_a_bias_that_vanishes_and_none_for_translations(dtype):
    x = jr.normal(jr.key(0), (30, 3)).astype(dtype)
    bar = {"float32": 1e-4, "float64": 1e-10}[dtype]
    for blur in (0.7, 1.0, 3.0):
        moved = SinkhornDivergence(x + jnp.array([0.3, 0.4, 1.2], dtype), blur)(Particles(x))
        assert moved.dtype == dtype and float(moved) == pytest.approx(1.69, rel=bar)
    y = 0.5 * jr.normal(jr.key(1), (40, 3)).astype(dtype)
    exact = float(WassersteinDistance(y, 2)(Particles(x))) ** 2
    # A target of another precision is compared in that of the measure.
    other = SinkhornDivergence(np.asarray(y, np.float32).astype(y.dtype), 1.0)
    narrow = SinkhornDivergence(np.asarray(y, np.float32), 1.0)
    assert float(narrow(Particles(x))) == pytest.approx(float(other(Particles(x))), rel=bar)
    gaps = [exact - float(SinkhornDivergence(y, b, rtol=1e-4)(Particles(x))) for b in (1.0, 0.5, 0.25)]
    print(f"W_2^2 = {exact:.3f}, Sinkhorn divergences below it by {gaps}")
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.1 * exact


@pytest.mark.slow
def test_derivatives_of_the_sinkhorn_divergence():
    """First and second, in points, masses and blur, against differences."""
    x, y = jr.normal(jr.key(0), (7, 2)), jr.normal(jr.key(1), (5, 2))
    value = jax.jit(lambda p, m, b: SinkhornDivergence(Particles(y, masses(5, 0)), b)(Particles(p, m)))
    at = (x, masses(7, 1), jnp.asarray(0.5))
    slopes = jax.jit(jax.grad(value, (0, 1, 2)))
    along = (
        jr.normal(jr.key(2), x.shape),
        jnp.asarray(np.r_[1.0, -1, 2, -2, 0, 0, 0]) / 50,
        jnp.asarray(0.3),
    )
    h = 1e-5
    for i in range(3):
        moved = [
            tuple(p + s * h * v if i == j else p for j, (p, v) in enumerate(zip(at, along, strict=True)))
            for s in (1, -1)
        ]
        first = (value(*moved[0]) - value(*moved[1])) / (2 * h)
        assert float(jnp.sum(slopes(*at)[i] * along[i])) == pytest.approx(float(first), rel=1e-7)
        second = jax.tree.map(lambda p, q: (p - q) / (2 * h), slopes(*moved[0]), slopes(*moved[1]))
        tangents = tuple(v if i == j else jnp.zeros_like(v) for j, v in enumerate(along))
        exact = jax.jvp(lambda *a: jax.grad(value, (0, 1, 2))(*a), at, tangents)[1]
        for p, q in zip(exact, second, strict=True):
            np.testing.assert_allclose(p, q, atol=1e-6)
