"""Minimizing movements: by quantiles with internal energies from spacings, and on grids by Sinkhorn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Blob, Entropy, PorousMedium, Potential, PowerDivergence, Spacings
from mfjax.measures import Grid, Particles
from mfjax.observables import Wasserstein1D
from mfjax.steppers import Adaptive, EntropicProximal, Proximal

run = eqx.filter_jit(trajectory)
LINE, TORUS = mf.domains.Euclidean(1), mf.domains.Torus(1)
INTERVAL = mf.domains.Interval(-2.0, 2.0)


def barenblatt(n, radius):
    """Middle quantiles of 3 / (4 R) (1 - x^2 / R^2)_+."""
    levels = (np.arange(n) + 0.5) / n
    return Particles(jnp.asarray(radius * 2 * np.sin(np.arcsin(2 * levels - 1) / 3))[:, None])


def slow_diffusion():
    return mf.flows.Wasserstein(Spacings(PorousMedium(), LINE), LINE)


def spread(t):
    return (0.8**3 + 4.5 * t) ** (1 / 3)


def cosine_quantiles(n, amplitude):
    """Middle quantiles of 1 + amplitude cos(2 pi x) on the torus."""
    levels = (np.arange(n) + 0.5) / n
    x = levels.copy()
    for _ in range(60):
        value = x + amplitude * np.sin(2 * np.pi * x) / (2 * np.pi) - levels
        x = x - value / (1 + amplitude * np.cos(2 * np.pi * x))
    return x[:, None]


# --- spacings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [LINE, INTERVAL, TORUS], ids=["line", "interval", "torus"])
@pytest.mark.parametrize(
    "inner",
    [Entropy(), PorousMedium(2.5), PowerDivergence(lambda x: 1 + 0.5 * jnp.sin(2 * jnp.pi * x[0]))],
    ids=str,
)
def test_forces_are_the_slope_of_the_value(domain, inner, dtype):
    """dF/dx_i = w_i grad V(x_i), dF/dw_i, and the order of particles, in a sum with a potential."""
    energy = 0.7 * Spacings(inner, domain) + Potential(lambda x: jnp.sum(jnp.cos(x)))
    points = jnp.asarray([[0.7], [0.1], [0.35], [0.9]], dtype)
    mu = Particles(points, jnp.asarray([0.1, 0.2, 0.4, 0.3], dtype))

    @jax.jit
    def all_of(points, weights):
        mu = Particles(points, weights)
        solution = energy.solve(mu)
        fields = energy.gradient_field(mu, solution), energy.first_variation(mu, solution)
        return (
            solution.value,
            *fields,
            jax.grad(lambda x, w: energy.solve(Particles(x, w)).value, (0, 1))(points, weights),
        )

    value, gradient, variation, (by_points, by_weights) = all_of(points, mu.weights)
    tolerance = {"float32": 2e-4, "float64": 1e-10}[dtype]
    assert value.dtype == gradient.dtype == dtype
    np.testing.assert_allclose(mu.weights[:, None] * gradient, by_points, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(variation, by_weights, rtol=tolerance, atol=tolerance)
    order = jnp.array([2, 0, 3, 1])
    other = all_of(points[order], mu.weights[order])
    np.testing.assert_allclose(other[1], gradient[order], rtol=tolerance, atol=tolerance)
    if dtype == "float64":
        along = jr.normal(jr.key(0), points.shape)
        ahead, behind = (all_of(points + s * 1e-6 * along, mu.weights)[0] for s in (1, -1))
        np.testing.assert_allclose((ahead - behind) / 2e-6, jnp.sum(by_points * along), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [LINE, INTERVAL, TORUS], ids=["line", "interval", "torus"])
def test_padding_cuts_no_spacings(domain):
    """Particles of zero mass, known or traced, between the others, beyond them or on one of them."""
    energy = Spacings(PowerDivergence(lambda x: 1 + 0.5 * x[0] ** 2), domain)
    points = jnp.array([[0.7], [0.1], [0.35], [0.9]])
    extra = jnp.array([[0.2], [0.99], [0.0], [0.7]])
    mu = Particles(points, [0.1, 0.2, 0.4, 0.3])
    padded = Particles(jnp.concatenate([extra, points]), jnp.append(jnp.zeros(4), mu.weights))
    all_of = lambda mu: (energy(mu), energy.gradient_field(mu), energy.first_variation(mu))
    at = jax.vmap(energy.potential(mu))(extra)
    np.testing.assert_allclose(jax.vmap(energy.potential(padded))(extra), at, rtol=1e-12)
    expected = all_of(mu)
    for value, gradient, variation in (all_of(padded), jax.jit(all_of)(padded)):
        np.testing.assert_allclose(value, expected[0], rtol=1e-12)
        np.testing.assert_allclose(gradient[4:], expected[1], rtol=1e-12)
        np.testing.assert_allclose(variation[4:], expected[2], rtol=1e-12)
        np.testing.assert_array_equal(gradient[:4], 0)
        assert np.all(np.isfinite(variation))


@pytest.mark.slow
def test_heat_on_the_torus_is_second_order_in_the_number_of_particles():
    """Quantiles of 1 + a e^{-4 pi^2 t} cos(2 pi x), without noise."""
    errors = []
    for n in (16, 32, 64):
        flow = mf.flows.Wasserstein(Spacings(Entropy(), TORUS), TORUS)
        sim = mf.Simulation(flow, Particles(cosine_quantiles(n, 0.5)), t1=0.02, stepper=Adaptive(1e-8, 1e-10))
        carry, _ = run(sim)
        assert int(carry.status) == 0
        exact = cosine_quantiles(n, 0.5 * np.exp(-4 * np.pi**2 * 0.02))
        errors.append(np.max(np.abs(np.asarray(carry.state.measure.points) - exact)))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.1), (orders, errors)


@pytest.mark.slow
def test_heat_between_walls_is_second_order_too():
    """Half of the mass of the outer particle lies before its wall: 1 + a e^{-pi^2 t} cos(pi x) on [0, 1]."""
    unit, errors = mf.domains.Interval(0.0, 1.0), []
    half_wave = lambda n, a: 2 * cosine_quantiles(2 * n, a)[:n]
    for n in (16, 32, 64):
        flow = mf.flows.Wasserstein(Spacings(Entropy(), unit), unit)
        sim = mf.Simulation(flow, Particles(half_wave(n, 0.5)), t1=0.05, stepper=Adaptive(1e-8, 1e-10))
        carry, _ = run(sim)
        assert int(carry.status) == 0
        exact = half_wave(n, 0.5 * np.exp(-(np.pi**2) * 0.05))
        errors.append(np.max(np.abs(np.asarray(carry.state.measure.points) - exact)))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(np.abs(orders - 2) < 0.1), (orders, errors)


@pytest.mark.slow
def test_barenblatt_by_quantiles():
    """Free ends: order 1 at least; and minimizing movements with dt tend to the same particles at order 1."""
    errors = []
    for n in (16, 32, 64):
        sim = mf.Simulation(slow_diffusion(), barenblatt(n, 0.8), t1=0.2, stepper=Adaptive(1e-8, 1e-10))
        carry, _ = run(sim)
        end = np.asarray(carry.state.measure.points)
        errors.append(np.mean(np.abs(end - np.asarray(barenblatt(n, spread(0.2)).points))))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert np.all(orders > 1) and errors[-1] < 3e-3, (orders, errors)
    gaps = []
    for dt in (0.05, 0.025, 0.0125):
        carry, _ = run(mf.Simulation(slow_diffusion(), barenblatt(64, 0.8), t1=0.2, stepper=Proximal(dt)))
        assert int(carry.status) == 0
        gaps.append(np.mean(np.abs(np.asarray(carry.state.measure.points) - end)))
    orders = np.log2(np.divide(gaps[:-1], gaps[1:]))
    assert np.all(np.abs(orders - 1) < 0.25), (orders, gaps)


@pytest.mark.slow
def test_a_step_by_quantiles_is_the_minimizing_movement():
    """Particles keep their order, so the displacement is W_2 itself; no other measure tried is better."""
    flow, mu, dt = slow_diffusion(), barenblatt(12, 0.8), 0.1
    carry, _ = run(mf.Simulation(flow, mu, stepper=Proximal(dt), steps=1))
    moved = carry.state.measure
    assert np.all(np.diff(np.asarray(moved.points[:, 0])) > 0)
    distance = jax.jit(lambda nu: Wasserstein1D(mu, order=2)(nu))
    squared = jnp.mean(jnp.sum((moved.points - mu.points) ** 2, axis=1))
    np.testing.assert_allclose(distance(moved) ** 2, squared, rtol=1e-10)
    objective = jax.jit(
        lambda nu: flow.energy.solve(nu).value + Wasserstein1D(mu, order=2)(nu) ** 2 / (2 * dt)
    )
    least = float(objective(moved))
    assert least < float(objective(mu))
    for i in range(8):
        for size in (1e-3, 1e-2):
            other = Particles(moved.points + size * jr.normal(jr.key(i), moved.points.shape))
            assert float(objective(other)) > least


@pytest.mark.parametrize(("domain", "width"), [(INTERVAL, 0.3), (TORUS, 0.3)], ids=["walls", "wide"])
def test_blobs_leave_the_uniform_law_alone(domain, width):
    """Beside walls, at which blobs are reflected, and where more than the nearest image counts."""
    lattice = Grid.uniform(domain, 32)
    flow = mf.flows.Wasserstein(Blob(Entropy(), width, domain), domain)
    now = jax.jit(lambda mu: flow.evaluate(flow.init(mu)))(Particles(lattice.points))
    np.testing.assert_allclose(now.energy, -jnp.log(jnp.sum(lattice.volume) * lattice.size), atol=1e-9)
    np.testing.assert_allclose(now.tangent.points, 0, atol=1e-8)


@pytest.mark.slow
def test_blobs_tend_to_the_density():
    """Quantiles of heat and of a Barenblatt profile: the error is that of the width, second order inside."""
    errors = {"heat": [], "slow": []}
    for width in (0.08, 0.04):
        n = round(3 / width)
        flow = mf.flows.Wasserstein(Blob(Entropy(), width, TORUS), TORUS)
        sim = mf.Simulation(flow, Particles(cosine_quantiles(n, 0.5)), t1=0.01, stepper=Adaptive(1e-6, 1e-8))
        carry, _ = run(sim)
        exact = cosine_quantiles(n, 0.5 * np.exp(-4 * np.pi**2 * 0.01))
        errors["heat"].append(np.max(np.abs(np.asarray(carry.state.measure.points) - exact)))
        flow = mf.flows.Wasserstein(Blob(PorousMedium(), width, LINE), LINE)
        sim = mf.Simulation(flow, barenblatt(n, 0.8), t1=0.1, stepper=Adaptive(1e-6, 1e-8))
        carry, _ = run(sim)
        assert int(carry.status) == 0
        exact = np.asarray(barenblatt(n, spread(0.1)).points)
        errors["slow"].append(np.mean(np.abs(np.asarray(carry.state.measure.points) - exact)))
    print(f"blobs of width 0.08, 0.04: {errors}")
    assert errors["heat"][1] < 0.4 * errors["heat"][0] and errors["heat"][1] < 2e-3, errors
    assert errors["slow"][1] < 0.6 * errors["slow"][0] and errors["slow"][1] < 1e-2, errors


# --- Sinkhorn ---------------------------------------------------------------------------------------------


def off_center(n, dtype=None):
    return Grid.from_density(INTERVAL, n, lambda x: 0.1 + jnp.exp(-((x[0] - 0.7) ** 2) / 0.18), dtype=dtype)


WELL = Potential(lambda x: 0.5 * x[0] ** 2)
ENERGIES = {
    "potential": WELL,
    "fokker-planck": WELL + 0.2 * Entropy(),
    "porous medium": WELL + 0.5 * PorousMedium(),
    "ultra-fast": 0.2 * PowerDivergence(lambda x: jnp.asarray(0.25, x.dtype)),
    "discrepancy": mf.energies.MMD(mf.kernels.Gaussian(1.0), Particles(jnp.array([[-1.0], [0.5]]))),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("porous medium", "potential", "ultra-fast")
        else name
        for name in ENERGIES
    ],
)
def test_entropic_steps_tend_to_the_flow(name):
    """Two discretizations of time and of transport: L1 distance to finite volumes falls with dt; F falls."""
    # The blur costs the same in every step: a slow flow shows the order in long ones, others on finer cells.
    cells = 128 if name == "potential" else 64
    mu = off_center(cells)
    t1 = {"discrepancy": 3.2, "ultra-fast": 0.8}.get(name, 0.4)
    flow = mf.flows.Wasserstein(ENERGIES[name], INTERVAL)
    reference = run(mf.Simulation(flow, mu, t1=t1))[0].state.measure.weights
    errors, counts = [], (4, 8, 16) if name == "porous medium" else (2, 4, 8)
    for steps in counts:
        stepper = EntropicProximal(t1 / steps, blur=4 / cells)
        carry, (_, values) = run(mf.Simulation(flow, mu, stepper=stepper, steps=steps))
        assert int(carry.status) == 0
        assert np.max(np.diff(values["energy"])) < 0
        assert np.max(np.abs(values["mass"] - 1)) < 1e-12 and np.min(values["min_weight"]) > 0
        errors.append(float(jnp.sum(jnp.abs(carry.state.measure.weights - reference))))
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    print(f"entropic steps, {name}: L1 errors {errors}, order {order:.2f}")
    assert errors[-1] < 0.1 and 0.8 < order < 1.2, (order, errors)


@pytest.mark.slow
def test_one_long_step_against_the_closed_form():
    """V = x^2 / 2: the minimizing movement of a Gaussian is that Gaussian shrunk by 1 / (1 + dt)."""
    density = lambda x, width: jnp.exp(-(((x[0] - 0.8 * width) / (0.3 * width)) ** 2) / 2)
    errors = []
    for n in (64, 128):
        mu = Grid.from_density(INTERVAL, n, lambda x: density(x, 1.0))
        flow = mf.flows.Wasserstein(WELL, INTERVAL)
        carry, _ = run(mf.Simulation(flow, mu, stepper=EntropicProximal(1.0, blur=4 / n), steps=1))
        assert int(carry.status) == 0
        exact = Grid.from_density(INTERVAL, n, lambda x: density(x, 0.5))
        errors.append(float(jnp.sum(jnp.abs(carry.state.measure.weights - exact.weights))))
    assert errors[1] < errors[0] / 2 and errors[1] < 0.03, errors


@pytest.mark.slow_cases("float32")
def test_heat_on_the_two_dimensional_torus(dtype):
    torus = mf.domains.Torus(2)
    wave = lambda x, a: 1 + a * jnp.cos(2 * jnp.pi * (x[0] + 2 * x[1]))
    mu = Grid.from_density(torus, 16, lambda x: wave(x, 0.5), dtype=dtype)
    flow = mf.flows.Wasserstein(Entropy(), torus)
    dt = 1e-3
    # At b^2 = 2 T dt the blur is all the entropy there is, and the step the heat flow itself.
    carry, _ = run(mf.Simulation(flow, mu, stepper=EntropicProximal(dt, blur=(2 * dt) ** 0.5), steps=2))
    assert int(carry.status) == 0 and carry.state.measure.weights.dtype == dtype
    exact = Grid.from_density(torus, 16, lambda x: wave(x, 0.5 * np.exp(-4 * np.pi**2 * 5 * 2 * dt)))
    assert np.abs(np.asarray(carry.state.measure.weights) - np.asarray(exact.weights)).sum() < 2e-2


@pytest.mark.wrong_calls
def test_bad_input():
    grid, three = Grid.uniform(INTERVAL, 8), Particles(jnp.array([[0.0], [0.5], [1.0]]))
    padded = Particles(three.points, [0.5, 0.5, 0.0])
    on_torus = lambda energy: mf.flows.Wasserstein(energy, TORUS).init(Particles(three.points[:2]))
    flow = mf.flows.Wasserstein(WELL, INTERVAL)
    for wrong, message in [
        (lambda: Spacings(WELL, LINE), "must be an InternalEnergy"),
        (lambda: Spacings(Entropy(), mf.domains.Euclidean(2)), "Euclidean\\(1\\)"),
        (
            lambda: mf.flows.Wasserstein(Spacings(Entropy(), INTERVAL), INTERVAL).init(grid),
            "use Entropy itself",
        ),
        (lambda: slow_diffusion().init(padded), "three particles or more of positive mass"),
        (lambda: on_torus(Blob(Entropy(), 0.1, LINE)), "this Blob lives on Euclidean"),
        (lambda: Spacings(Entropy(), LINE).validate(three, TORUS), "this Spacings lives on Euclidean"),
        (lambda: Spacings(Entropy(), TORUS).validate(three, mf.domains.Torus(1, 2.0)), "measure moves on"),
        (lambda: Blob(Entropy(), 0.1, mf.domains.Sphere(3)), "no Gaussian is known on Sphere"),
        (
            lambda: mf.flows.Wasserstein(Blob(Entropy(), 0.1, INTERVAL), INTERVAL).init(grid),
            "use Entropy itself",
        ),
        (lambda: EntropicProximal(0.1, 0.0), "blur must be greater than 0"),
        (
            lambda: mf.Simulation(flow, three, stepper=EntropicProximal(0.1, 0.1), steps=1),
            "use steppers.Proximal",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_too_few_iterations_are_told():
    flow = mf.flows.Wasserstein(WELL, INTERVAL)
    stepper = EntropicProximal(0.1, blur=1 / 16, max_iterations=2)
    with pytest.raises(mf.SimulationError, match="did not converge"):
        mf.simulate(flow, off_center(64), stepper=stepper, steps=1)
