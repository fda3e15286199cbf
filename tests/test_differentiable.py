"""Whole runs are differentiable, in both modes, with memory that grows like the square root of their length.

Derivatives of what a run records at its end, with respect to every number that defines it, against central
differences of fourth order in float64, with smooth feature maps and kernels. Bar: 1e-5 relative.
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax import status as codes
from mfjax import steppers as st

# The points stay far from half a period of the inputs, where the nearest image changes.
TORUS, PLANE, CIRCLE = mf.domains.Torus(2, 4.0), mf.domains.Euclidean(2), mf.domains.Sphere(1)


def ending(flow, mu, **options):
    """(a number that depends on all that is left at the end, status)."""
    spread = lambda mu, flow: mu.integrate(jnp.sum(jnp.sin(mu.points + 0.3), axis=-1))
    run = mf.simulate(flow, mu, observables={"spread": spread}, **options)
    return run.observables["energy"][-1] + 3 * run.observables["spread"][-1], run.status


def network(p, **options):
    """Variable projection with Gaussian radial features on the 2-torus."""
    features = mf.features.RBF(TORUS, scale=p["scale"], profile="gaussian")
    energy = mf.energies.ReducedRisk(features, p["x"], p["y"], lam=p["lam"])
    flow = mf.flows.TwoTimescale(energy, TORUS, rate=p["gamma"]) if "gamma" in p else None
    flow = flow or mf.flows.Wasserstein(energy, TORUS)
    return ending(flow, mf.measures.Particles(p["points"], p["masses"]), **options)


def network_numbers(**more):
    x = jr.uniform(jr.key(1), (6, 2))
    numbers = {"lam": 0.1, "scale": 0.3, "x": x, "y": jnp.sin(2 * jnp.pi * x[:, 0]) + 0.5}
    numbers |= {"points": jr.uniform(jr.key(0), (4, 2)), "masses": jnp.array([0.1, 0.2, 0.3, 0.4])}
    return jax.tree.map(jnp.asarray, numbers | more)


def particles(p, **options):
    """A discrepancy to points with a Gaussian kernel, and noise."""
    target = mf.measures.Particles(p["target"])
    energy = mf.energies.MMD(mf.kernels.Gaussian(p["scale"]), target)
    if "temperature" in p:
        energy = energy + p["temperature"] * mf.energies.Entropy()
    flow = mf.flows.Wasserstein(energy, PLANE)
    return ending(flow, mf.measures.Particles(p["points"], p["masses"]), **options)


def particle_numbers(**more):
    numbers = {"scale": 0.8, "target": jr.normal(jr.key(2), (3, 2)), "points": jr.normal(jr.key(3), (4, 2))}
    return jax.tree.map(jnp.asarray, numbers | {"masses": jnp.array([0.1, 0.2, 0.3, 0.4])} | more)


def density(p, extra=0.0, **options):
    """Ultra-fast diffusion, or heat in a potential, on the circle."""
    teacher = mf.problems.CircleTeacher(p["gamma"], centers=p["centers"], masses=jnp.array([0.6, 0.4]))
    energy = mf.energies.PowerDivergence(teacher, scale=0.5)
    if "temperature" in p:
        hill = mf.energies.Potential(lambda x: jnp.log(teacher(x)))
        energy = hill + p["temperature"] * mf.energies.Entropy()
    grid = mf.measures.Grid(CIRCLE, 8, p["masses"] / jnp.sum(p["masses"]))
    return ending(mf.flows.Wasserstein(energy, CIRCLE), grid, **options)


def density_numbers(**more):
    numbers = {"gamma": 1.0, "centers": jnp.array([0.2, 2.0]), "masses": 1 + 0.5 * jnp.sin(jnp.arange(8.0))}
    return jax.tree.map(jnp.asarray, numbers | more)


def fixed(stepper):
    """A run of seven steps, saved three times; the step differentiated with all else."""
    return lambda system, p: system(p, stepper=stepper(p), steps=6, save_every=2, key=jr.key(5))


def through(stepper):
    """A run through times that are differentiated, and that its steps do not divide."""
    options = {"max_steps": 1000, "checkpoints": 10}
    return lambda system, p: system(
        p, stepper=stepper(p), save_at=p["end"] * jnp.array([0.31, 1.0]), **options
    )


dt, end = {"dt": 0.02}, {"end": 0.43}
euler, tight = lambda p: st.Euler(p["dt"]), lambda p: st.Adaptive(1e-9, 1e-11)
# Its updates do not depend on the flow time that a step counts for.
adam = lambda p: st.Optax(optax.adam, dt=0.02, learning_rate=p["rate"])
grid_dt, grid_end = {"dt": 0.01}, {"end": 0.1}
warm = {"temperature": 0.3}
CASES = {
    "network, Euler": (network, network_numbers(**dt), fixed(euler)),
    "discrepancy, Euler-Maruyama": (
        *(particles, particle_numbers(**dt, **warm), fixed(lambda p: st.EulerMaruyama(p["dt"]))),
    ),
    "discrepancy, adaptive": (particles, particle_numbers(**end), through(tight)),
}
LONG = {
    "network, Heun": (network, network_numbers(**dt), fixed(lambda p: st.Heun(p["dt"]))),
    "network, RK4": (network, network_numbers(**dt), fixed(lambda p: st.RK4(p["dt"]))),
    "network, Adam": (network, network_numbers(rate=0.02), fixed(adam)),
    "network, Euler through times": (network, network_numbers(end=0.1), through(lambda p: st.Euler(0.013))),
    "network, adaptive": (network, network_numbers(end=0.1), through(tight)),
    "network, multirate": (
        network,
        network_numbers(end=0.1),
        through(lambda p: st.Multirate(1e-8, 1e-10)),
    ),
    "two timescales, Euler": (network, network_numbers(**dt, gamma=2.0), fixed(euler)),
    "two timescales, adaptive": (network, network_numbers(end=0.1, gamma=2.0), through(tight)),
    "discrepancy, stochastic Heun": (
        *(particles, particle_numbers(**dt, **warm), fixed(lambda p: st.StochasticHeun(p["dt"]))),
    ),
    "diffusion, implicit Euler": (
        *(density, density_numbers(**grid_dt), fixed(lambda p: st.ImplicitEuler(p["dt"]))),
    ),
    "diffusion, Heun": (density, density_numbers(**grid_dt), fixed(lambda p: st.Heun(p["dt"]))),
    "diffusion, Rosenbrock": (
        density,
        density_numbers(**grid_end),
        through(lambda p: st.Rosenbrock(1e-9, 1e-12)),
    ),
    "diffusion, adaptive": (density, density_numbers(**grid_end), through(tight)),
    "heat, RosenbrockW": (
        *(density, density_numbers(**grid_end, **warm), through(lambda p: st.RosenbrockW(1e-9, 1e-12))),
    ),
}


def check_derivatives(name):
    """Reverse mode, and forward mode along one direction in all numbers, against differences."""
    system, numbers, run = (CASES | LONG)[name]
    function = lambda p: run(system, p)
    both = jax.jit(jax.value_and_grad(function, has_aux=True))
    (_, status), gradient = both(numbers)
    assert int(status) == codes.OK
    rng = np.random.default_rng(0)
    direction = {k: jnp.asarray(rng.normal(size=v.shape)) if v.ndim else v for k, v in numbers.items()}
    value = lambda p: float(both(p)[0][0])
    for key in [*numbers, "all"]:
        mask = {k: d * (key in (k, "all")) for k, d in direction.items()}
        at = lambda h, mask=mask: value({k: v + h * mask[k] for k, v in numbers.items()})
        h = 2e-4
        difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        slope = sum(float(jnp.sum(gradient[k] * mask[k])) for k in numbers)
        error = abs(slope - difference) / abs(difference)
        print(f"{name}, {key}: {slope:.8e}, relative error {error:.1e}")
        assert error < 1e-5, (name, key, slope, difference)
    forward = jax.jit(lambda p, t: jax.jvp(lambda p: function(p)[0], (p,), (t,))[1])
    assert float(forward(numbers, direction)) == pytest.approx(slope, rel=1e-9)


@pytest.mark.slow_cases("discrepancy, Euler-Maruyama", "discrepancy, adaptive")
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_differences(name):
    check_derivatives(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_derivatives_are_those_of_differences_for_every_stepper(name):
    check_derivatives(name)


def well(strength, points=((1.0,), (-0.4,), (0.3,)), dtype=None, **options):
    """Particles in a quartic well on the line: a run that compiles at once."""
    energy = mf.energies.Potential(lambda x: strength * jnp.sum(0.5 * x * x + 0.25 * x**4))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.asarray(points, dtype))
    return mf.simulate(flow, mu, **options).observables["energy"]


FORMS = {
    "steps": {"stepper": st.Heun(0.05), "steps": 12, "save_every": 2},
    "times": {"stepper": st.Heun(0.05), "save_at": [0.11, 0.6], "max_steps": 20},
    "adaptive": {"save_at": [0.11, 0.6], "max_steps": 60},
}


HEAVY = pytest.mark.slow
BY_FORM = pytest.mark.parametrize(
    "form", ["steps", *(pytest.param(form, marks=HEAVY) for form in ("times", "adaptive"))]
)


@pytest.mark.slow_cases("steps")
@BY_FORM
def test_checkpoints_change_memory_and_nothing_else(form):
    """Blocks of two (of steps, and of saved times), blocks that do not divide the run, one block."""
    total = lambda s, c: jnp.sum(well(s, checkpoints=c, **FORMS[form]))
    expected = jax.jit(jax.grad(total), static_argnums=1)(0.7, None)
    for checkpoints in (2,) if form == "steps" else (2, 5, 64):
        found = jax.jit(jax.grad(total), static_argnums=1)(0.7, checkpoints)
        assert float(found) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_commute_with_batches(form):
    """grad of vmap = vmap of grad = a loop, although adaptive runs take different steps."""
    strengths = jnp.array([0.3, 0.7, 5.0])
    total = lambda s: jnp.sum(well(s, **FORMS[form]))
    alone = jax.jit(jax.grad(total))
    loop = np.array([float(alone(s)) for s in strengths])
    batched = jax.vmap(jax.grad(total))
    summed = jax.grad(lambda s: jnp.sum(jax.vmap(total)(s)))
    for function in (batched, summed):
        np.testing.assert_allclose(jax.jit(function)(strengths), loop, rtol=1e-11)


@pytest.mark.slow
def test_gradients_of_batches_of_starts():
    # Leaves that have no batch, as the number of steps, beside those that have one.
    starts = jnp.array([[[1.0], [0.2]], [[0.5], [-2.0]]])
    total = lambda points: jnp.sum(well(0.7, points, **FORMS["steps"]))
    summed = jax.jit(jax.grad(lambda s: jnp.sum(jax.vmap(total)(s))))(starts)
    alone = jax.jit(jax.grad(total))
    np.testing.assert_allclose(summed, [alone(start) for start in starts], rtol=1e-12)


@pytest.mark.slow
def test_gradients_in_a_sweep():
    total = lambda strength: jnp.sum(well(strength, **FORMS["steps"]))
    table = mf.sweep(lambda strength: jax.grad(total)(strength), strength=[0.3, 0.7], progress=False)
    np.testing.assert_allclose(table["value"], [jax.jit(jax.grad(total))(s) for s in (0.3, 0.7)], rtol=1e-12)


@pytest.mark.slow
@BY_FORM
def test_single_precision(form):
    total = lambda s: jnp.sum(well(s, dtype="float32", **FORMS[form]))
    exact = jax.jit(jax.grad(lambda s: jnp.sum(well(s, **FORMS[form]))))(0.7)
    assert float(jax.jit(jax.grad(total))(0.7)) == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.slow
def test_second_derivatives():
    total = lambda s: well(s, **FORMS["adaptive"] | {"stepper": st.Adaptive(1e-8, 1e-10), "max_steps": 1000})[
        -1
    ]
    slope = jax.jit(jax.grad(total))
    h = 1e-3
    difference = (float(slope(0.7 + h)) - float(slope(0.7 - h))) / (2 * h)
    assert float(jax.jit(jax.hessian(total))(0.7)) == pytest.approx(difference, rel=1e-5)


@pytest.mark.slow
def test_the_derivative_in_the_end_is_the_rate():
    """x' = -x: dE/dt1 = -2 E, for steps that share an interval in fixed ratios."""
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: 0.5 * x @ x), mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.array([[1.0]]))

    def end(t1, stepper):
        run = mf.simulate(flow, mu, stepper=stepper, t1=t1, max_steps=1000)
        return run.observables["energy"][-1]

    for stepper in (st.Adaptive(1e-9, 1e-11), st.RK4(0.01)):
        slope = jax.jit(jax.grad(lambda t, s=stepper: end(t, s)))(0.8)
        assert float(slope) == pytest.approx(-np.exp(-1.6), rel=1e-7)


def test_a_step_between_saved_times_has_no_derivative():
    """It decides the number of steps, and that alone."""
    total = lambda h: jnp.sum(well(0.7, stepper=st.Heun(h), save_at=[0.11, 0.6], max_steps=20))
    assert float(jax.jit(jax.grad(total))(0.05)) == 0.0


def test_at_a_kink_the_derivative_is_that_of_one_side():
    """V = max(x, 0): x_1 = x_0 - dt [x_0 > 0] jumps at 0; its derivative is 1, and is blind to the jump."""
    flow = mf.flows.Wasserstein(
        mf.energies.Potential(lambda x: mf.features.ReLU()(jnp.ones(1), x)), mf.domains.Euclidean(1)
    )

    @jax.jit
    @functools.partial(jax.value_and_grad)
    def moved(x):
        run = mf.simulate(flow, mf.measures.Particles(x[None, None]), stepper=st.Euler(0.25), steps=1)
        return run.final.points[0, 0]

    found = [tuple(map(float, moved(x))) for x in (-1e-3, 0.0, 1e-3)]
    np.testing.assert_allclose(found, [(-1e-3, 1), (0, 1), (1e-3 - 0.25, 1)], rtol=1e-12)


def memory(points, **options):
    """Bytes that the compiled gradient of a run needs beside its arguments and results."""
    gradient = jax.jit(jax.grad(lambda s: well(s, points, save_measures=False, **options)[-1]))
    return gradient.lower(0.7).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@BY_FORM
def test_memory_grows_like_the_square_root_of_the_steps(form):
    points = jnp.linspace(-1, 1, 1024)[:, None]

    def used(length, **options):
        if form == "steps":
            return memory(points, stepper=st.Euler(1e-3), steps=length, save_every=length, **options)
        stepper = st.Euler(1e-3) if form == "times" else st.Adaptive()
        return memory(points, stepper=stepper, save_at=[0.01, 0.02], max_steps=length, **options)

    short, middle, long = (used(length) for length in (64, 256, 1024))
    # a + b sqrt(T) has the ratio 2, and a + b T the ratio 4.
    growth = (long - middle) / (middle - short)
    print(f"{form}: {short}, {middle}, {long} bytes for T, 4 T, 16 T; ratio of increments {growth:.2f}")
    assert growth < 2.3
    # A number of checkpoints of one's own: three levels of at most eleven instead of two of 32.
    assert used(1024, checkpoints=11) < long


WRONG = {
    "one checkpoint": ({"stepper": st.Heun(0.05), "steps": 2, "checkpoints": 1}, "at least 2, got 1"),
    "no number": ({"stepper": st.Heun(0.05), "steps": 2, "checkpoints": 0.5}, "checkpoints must be"),
    "too many steps": ({"stepper": st.Heun(0.05), "t1": 1.0, "max_steps": 19}, "raise max_steps"),
}


@pytest.mark.wrong_calls
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused(case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        jax.grad(lambda s: well(s, **options)[-1])(0.7)


def test_a_budget_that_is_too_small_for_traced_times_has_a_status():
    """Without a derivative the run needs no budget; with one it stops with a code."""
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: 0.5 * x @ x), mf.domains.Euclidean(1))

    def end(t):
        mu = mf.measures.Particles(jnp.array([[1.0]]))
        run = mf.simulate(flow, mu, stepper=st.Euler(0.05), t1=t, max_steps=19)
        return run.observables["energy"][-1], run.status

    assert int(jax.jit(end)(1.0)[1]) == codes.OK
    slope = jax.jit(jax.grad(end, has_aux=True))
    assert int(slope(0.9)[1]) == codes.OK and float(slope(0.9)[0]) < 0
    assert int(slope(1.0)[1]) == codes.STEP_BUDGET and np.isnan(float(slope(1.0)[0]))
