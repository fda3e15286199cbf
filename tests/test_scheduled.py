"""Flows whose numbers depend on time: exact solutions, orders of every scheme, balance, annealing."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.energies import Entropy, PorousMedium, Potential
from mfjax.flows import PropagationOfChaos, Scheduled, Wasserstein
from mfjax.measures import Grid, Particles
from mfjax.steppers import (
    RK4,
    Adaptive,
    Euler,
    EulerMaruyama,
    Heun,
    ImplicitEuler,
    Proximal,
    Rosenbrock,
    RosenbrockW,
    StochasticHeun,
)
from mfjax.testing import check_flow, check_stepper_order, check_traces

LINE, PLANE = mf.domains.Euclidean(1), mf.domains.Interval(-6.0, 6.0)


def well(x):
    return 0.5 * jnp.sum(x * x)


def stiffening(domain=LINE):
    """x' = -(1 + t) x: x(t) = x_0 exp(-t - t^2 / 2)."""
    return Scheduled(lambda t: Wasserstein((1 + t) * Potential(well), domain))


def temperature(t):
    return 0.5 * jnp.exp(-0.5 * t)


def annealed(domain, stiffness=1.0):
    """The Ornstein-Uhlenbeck process at the temperature T(t): v' = -2 k v + 2 T(t) for its variance v."""
    return Scheduled(lambda t: Wasserstein(stiffness * Potential(well) + temperature(t) * Entropy(), domain))


def variance(t, start, stiffness=1.0):
    k = 2 * stiffness
    return start * np.exp(-k * t) + 2 * 0.5 * (np.exp(-0.5 * t) - np.exp(-k * t)) / (k - 0.5)


@pytest.mark.parametrize("make", [Euler, Heun, RK4, Proximal], ids=lambda make: make.__name__)
def test_orders_on_particles(make):
    mu = Particles(jnp.array([[1.0], [-0.5]]))
    exact = Particles(mu.points * jnp.exp(-1.5))
    check_stepper_order(make, stiffening(), mu, exact=exact, steps=(16, 32, 64))


def test_adaptive_steps_see_the_time():
    mu = Particles(jnp.array([[1.0]]))
    run = mf.simulate(stiffening(), mu, stepper=Adaptive(1e-8, 1e-10), t1=1.0)
    np.testing.assert_allclose(run.final.points, jnp.exp(-1.5) * mu.points, rtol=1e-6)


@pytest.mark.slow
def test_generic():
    check_flow(stiffening(), Particles(jnp.array([[1.0], [-0.5]])))
    check_flow(annealed(PLANE), Grid.from_density(PLANE, 16, lambda x: jnp.exp(-well(x))))


def gaussian(n, spread):
    return Grid.from_density(PLANE, n, lambda x: jnp.exp(-well(x) / spread))


@pytest.mark.slow
@pytest.mark.optimized
def test_w_methods_keep_their_order_under_a_schedule():
    """Fixed steps of the adaptive scheme, against the same cells and many steps."""
    flow, mu = annealed(PLANE), gaussian(48, 1.5)
    stepper = RosenbrockW()

    @jax.jit
    def fixed(steps):
        dt = 1 / steps
        state = flow.init(mu)

        def body(_, loop):
            step = stepper.step(flow, *loop, dt, None, None)
            return step.state, step.evaluation

        return jax.lax.fori_loop(0, steps.astype(int), body, (state, flow.evaluate(state)))[0]

    ends = [fixed(jnp.asarray(n, float)) for n in (8, 16, 32, 512)]
    np.testing.assert_allclose([float(e.time) for e in ends], 1, rtol=1e-12)
    errors = [float(jnp.sum(jnp.abs(e.measure.weights - ends[-1].measure.weights))) for e in ends[:-1]]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    print("orders of RosenbrockW under annealing:", orders)
    assert np.all(orders > 2.7), (errors, orders)


@pytest.mark.slow
def test_annealed_density_has_the_exact_variance():
    """Adaptive steps to the accuracy of the cells; implicit Euler to first order in the step."""
    exact = variance(1.0, 1.5)

    def error(stepper):
        mu = mf.simulate(annealed(PLANE), gaussian(192, 1.5), stepper=stepper, t1=1.0).final
        return abs(float(mu.integrate(mu.points[:, 0] ** 2)) / exact - 1)

    assert error(None) < 2e-3
    coarse, fine = error(ImplicitEuler(1 / 32)), error(ImplicitEuler(1 / 64))
    assert fine < 0.02 and 1.8 < coarse / fine < 2.2, (coarse, fine)


@pytest.mark.slow
def test_weak_order_of_annealed_particles_from_the_exact_recursion():
    """One step is affine: the variance of the scheme obeys a recursion that the stepper itself gives."""
    flow = annealed(LINE)

    def end(make, steps):
        dt, key = jnp.asarray(1 / steps), jr.key(0)
        points, value = jnp.array([[0.0], [1.0]]), 3.0
        state = flow.init(Particles(points))
        cross = jax.jit(lambda state, key: make(dt).step(flow, state, flow.evaluate(state), dt, key, None))
        for n in range(steps):
            state = mf.flows.State(Particles(points), state.carry, time=n * dt)
            step = cross(state, jr.fold_in(key, n))
            zero, one = step.state.measure.points[:, 0]
            draws = [jr.normal(jr.fold_in(jr.fold_in(key, n), i), (1,), points.dtype)[0] for i in (0, 1)]
            # x' = a x + b xi from the images of 0 and 1 under known draws.
            b = zero / draws[0]
            a = one - b * draws[1]
            value = a**2 * value + b**2
        return float(value)

    errors = {
        make.__name__: [abs(end(make, n) - variance(1.0, 3.0)) for n in (16, 32, 64)]
        for make in (EulerMaruyama, StochasticHeun)
    }
    for name, order in (("EulerMaruyama", 1), ("StochasticHeun", 2)):
        observed = -np.polyfit(np.log([16, 32, 64]), np.log(errors[name]), 1)[0]
        print(f"weak order of {name} under annealing: {observed:.3f}")
        assert abs(observed - order) < 0.1, (name, observed)


def test_the_balance_holds_with_the_drift_of_the_energy():
    flow = Scheduled(lambda t: Wasserstein((1 + jnp.sin(9 * t)) * Potential(well), LINE))
    run = mf.simulate(flow, Particles(jnp.array([[1.0]])), stepper=RK4(1 / 256), t1=1.0, save_at=[0.25, 0.5])
    assert run.certificates["balance_defect"] < 1e-3
    assert run.certificates["largest_increase"] > 0


@pytest.mark.slow
def test_heights_and_fields_pass_through():
    risk = mf.energies.Risk(
        mf.features.Weighted(mf.features.Ridge(jnp.tanh)), jnp.array([[1.0]]), jnp.array([1.0])
    )
    plain = PropagationOfChaos(risk, LINE)
    mu = Particles(jnp.array([[1.0], [0.3]]), marks={"H": jnp.array([0.5, -0.2])})
    options = {"stepper": RK4(1 / 16), "t1": 0.5}
    run = mf.simulate(Scheduled(lambda t: PropagationOfChaos((1 + 0 * t) * risk, LINE)), mu, **options)
    same = mf.simulate(plain, mu, **options)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), run.final, same.final)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["reduced", "two timescales", "risk", pytest.param("bias", marks=pytest.mark.slow)]
)
def test_inputs_and_features_that_vary(kind):
    """What features prepare of the data is that of the time, where it needs no matrix as where it does."""
    circle, x = mf.domains.Sphere(1), jr.normal(jr.key(0), (2048, 2))
    y = jnp.maximum(x[:, 0], 0)
    turned = lambda t: x @ jnp.array([[jnp.cos(t), -jnp.sin(t)], [jnp.sin(t), jnp.cos(t)]])
    relu = lambda z: jnp.where(z > 0, z, 0)

    def ending(features, varying):
        def make(t):
            phi, inputs = features(t), turned(t) if varying else x
            if kind == "risk":
                risk = mf.energies.Risk(mf.features.Weighted(phi), inputs, y)
                return mf.flows.Wasserstein(risk, mf.domains.Euclidean(3))
            energy = mf.energies.ReducedRisk(phi, inputs, y, lam=0.1)
            if kind == "two timescales":
                return mf.flows.TwoTimescale(energy, circle, rate=1.0)
            return mf.flows.Wasserstein(energy, circle)

        points = mf.measures.Particles.sample(circle, jr.key(1), 256).points
        points = jnp.concatenate([jnp.ones((256, 1)), points], axis=1) if kind == "risk" else points
        flow = mf.flows.Scheduled(make)
        return mf.simulate(flow, mf.measures.Particles(points), stepper=Euler(0.1), steps=3, save_every=3)

    if kind == "bias":
        ours = ending(lambda t: mf.features.ReLU(t, circle=True), False)
        dense = ending(lambda t: mf.features.Ridge(relu, t), False)
    else:
        ours, dense = (
            ending(lambda t: mf.features.ReLU(), True),
            ending(lambda t: mf.features.Ridge(relu), True),
        )
    np.testing.assert_allclose(ours.observables["energy"], dense.observables["energy"], rtol=1e-8)
    np.testing.assert_allclose(ours.final.points, dense.final.points, atol=1e-8)


def test_observables_see_the_flow_of_their_time():
    seen = {"factor": lambda mu, flow: flow.energy.parts()[0][0]}
    run = mf.simulate(
        stiffening(), Particles(jnp.array([[1.0]])), stepper=Euler(1 / 4), steps=4, observables=seen
    )
    np.testing.assert_allclose(run.observables["factor"], [1, 1.25, 1.5, 1.75, 2])


def test_numbers_of_a_schedule_are_swept_in_one_trace():
    def last(rate):
        flow = Scheduled(lambda t: Wasserstein(jnp.exp(rate * t) * Potential(well), LINE))
        sim = mf.Simulation(flow, Particles(jnp.array([[1.0]])), stepper=Heun(1 / 8), steps=4)
        return trajectory(sim)[0].state.measure.points

    rates = jnp.array([0.1, 0.5, 1.0])
    assert check_traces(jax.vmap(last), [(rates,), (2 * rates,)]) == 1


@pytest.mark.slow
def test_derivatives_in_a_number_that_the_schedule_closes_over():
    """Outside jit, where no leaf of the run shows that it is traced, and by differences."""
    mu = Particles(jnp.array([[1.0], [0.2]]))

    def last(c):
        flow = Scheduled(lambda t: Wasserstein(Potential(well) + c / (1 + t) * Entropy(), LINE))
        options = {"stepper": EulerMaruyama(0.1), "steps": 5, "save_every": 5, "key": jr.key(0)}
        return mf.simulate(flow, mu, **options).observables["energy"][-1]

    difference = (float(last(0.5 + 1e-6)) - float(last(0.5 - 1e-6))) / 2e-6
    np.testing.assert_allclose(jax.grad(last)(0.5), difference, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_follows_the_measure(dtype):
    run = mf.simulate(annealed(PLANE), gaussian(16, 1.5), t1=0.25)
    single = mf.simulate(
        annealed(PLANE),
        Grid.from_density(PLANE, 16, lambda x: jnp.exp(-well(x) / 1.5), dtype=dtype),
        t1=0.25,
    )
    assert single.final.weights.dtype == dtype
    np.testing.assert_allclose(single.final.weights, run.final.weights, atol=1e-4)


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scheduled(1.0), "make must be a function from time to a flow"),
        (lambda: Scheduled(lambda t: t), "make must return a Flow, got"),
        (
            lambda: mf.Simulation(
                Scheduled(lambda t: Wasserstein((1 + t) * PorousMedium(), PLANE)),
                gaussian(16, 1.0),
                stepper=Rosenbrock(),
                t1=1.0,
            ),
            "use steppers.RosenbrockW",
        ),
        (
            lambda: mf.Simulation(annealed(LINE), Particles(jnp.ones((1, 1))), stepper=Euler(0.1), t1=1.0),
            "Euler is deterministic",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
