"""What runs is what is asked for: a global that changes between two calls is seen by the second."""

import functools
import gc
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax._numerics import compiled

SCALE = 1.0
E, F, K, S = mf.energies, mf.features, mf.kernels, mf.steppers
LINE, CIRCLE, TORUS = mf.domains.Euclidean(1), mf.domains.Sphere(1), mf.domains.Torus(1)
X, Y = jnp.array([[1.0], [-0.5]]), jnp.array([0.5, 1.0])
MU = mf.measures.Particles(jnp.array([[0.5], [-1.0], [0.25]]))
CELLS = mf.measures.Grid.uniform(TORUS, 8)


def well(x):
    return 0.5 * SCALE * jnp.sum(x * x)


def wave(x):
    return SCALE * jnp.cos(2 * jnp.pi * x[0])


def neuron(omega, x):
    return jnp.tanh(SCALE * omega[0] * x[0])


def attraction(x, y):
    return SCALE * jnp.sum((x - y) ** 2)


def bell(x, y):
    return jnp.exp(-SCALE * jnp.sum((x - y) ** 2))


def moment(mu, flow):
    return SCALE * mu.integrate(mu.points[:, 0] ** 2)


def annealed(t):
    return mf.flows.Wasserstein((1 + SCALE * t) * POTENTIAL, LINE)


def loss(prediction, target):
    return SCALE * 0.5 * (prediction - target) ** 2 + (prediction - target) ** 4


def penalty(u):
    return SCALE * u**2 + u**4


def learning_rate(count):
    return 0.1 * SCALE


def transformation():
    return optax.sgd(0.1 * SCALE)


def target_density(x):
    return 1 + 0.5 * jnp.sin(SCALE) * jnp.cos(2 * jnp.pi * x[0])


class OwnEnergy(mf.energies.Energy):
    def solve(self, mu, carry=None):
        potential = lambda point: well(point)
        return E.Solution(mu.integrate(jax.vmap(potential)(mu.points)), potential)


class OwnFeatures(mf.features.FeatureMap):
    def __call__(self, omega, x):
        return neuron(omega, x)


class OwnKernel(mf.kernels.Kernel):
    def __call__(self, x, y):
        return bell(x, y)


class OwnLoss(mf.losses.Loss):
    def __call__(self, prediction, target):
        return loss(prediction, target)


class OwnRegularizer(mf.regularizers.Regularizer):
    def __call__(self, t):
        return penalty(t)


class OwnStepper(mf.steppers.Stepper):
    order = 1
    dt: jax.Array

    def step(self, flow, state, evaluation, dt, key, memory):
        return S.settle(flow, flow.move(state, evaluation.tangent, SCALE * dt))


class OwnFlow(mf.flows.Wasserstein):
    def evaluate(self, state):
        now = super().evaluate(state)
        return eqx.tree_at(lambda e: e.tangent.points, now, SCALE * now.tangent.points)


class OwnDomain(mf.domains.Euclidean):
    def project(self, point, vector):
        return SCALE * vector


class OwnModule(eqx.Module):
    def __call__(self, x):
        return well(x)


POTENTIAL = E.Potential(lambda x: 0.5 * jnp.sum(x * x))
RISK = lambda features, **more: E.ReducedRisk(features, X, Y, lam=0.1, **more)


def end(energy, mu=MU, domain=LINE, **options):
    """The end of a run, and all that it recorded."""
    options = {"stepper": S.Euler(0.1), "steps": 2} | options
    flow = energy if isinstance(energy, mf.flows.Flow) else mf.flows.Wasserstein(energy, domain)
    run = mf.simulate(flow, mu, **options)
    return run.final, {k: v for k, v in run.observables.items() if k not in ("steps", "rejected", "status")}


PLACES = {
    "potential": lambda: end(E.Potential(well)),
    "module as potential": lambda: end(E.Potential(OwnModule())),
    "method as potential": lambda: end(E.Potential(OwnModule().__call__)),
    "jitted inside a potential": lambda: end(E.Potential(lambda x: jax.jit(lambda y: well(y))(x))),
    "adaptive": lambda: end(E.Potential(well), stepper=None, steps=None, t1=0.2),
    "through times": lambda: end(E.Potential(well), steps=None, t1=0.2),
    "grid": lambda: end(
        E.Potential(wave) + 0.1 * E.Entropy(), CELLS, TORUS, stepper=None, steps=None, t1=0.1
    ),
    "interaction": lambda: end(E.Interaction(attraction)),
    "kernel of an MMD": lambda: end(E.MMD(bell, mf.measures.Particles(X))),
    "own kernel": lambda: end(E.MMD(OwnKernel(), mf.measures.Particles(X))),
    "features": lambda: end(RISK(F.Function(neuron))),
    "features of a risk": lambda: end(E.Risk(F.Function(neuron), X, Y)),
    "own features": lambda: end(RISK(OwnFeatures())),
    "ridge": lambda: end(RISK(F.Ridge(lambda z: jnp.tanh(SCALE * z)))),
    "loss": lambda: end(E.Risk(F.Function(lambda w, x: w[0] * x[0]), X, Y, loss=loss)),
    "own loss": lambda: end(E.Risk(F.Function(lambda w, x: w[0] * x[0]), X, Y, loss=OwnLoss())),
    "regularizer": lambda: RISK(
        F.Ridge(jnp.tanh), regularizer=mf.regularizers.ConvexRegularizer(penalty)
    ).outer_weights(MU),
    "own regularizer": lambda: RISK(F.Ridge(jnp.tanh), regularizer=OwnRegularizer()).outer_weights(MU),
    "schedule": lambda: end(mf.flows.Scheduled(annealed)),
    "observable": lambda: end(POTENTIAL, observables={"m": moment}),
    "schedule of optax": lambda: end(POTENTIAL, stepper=S.Optax(optax.sgd(learning_rate), dt=0.1)),
    "function of optax": lambda: end(POTENTIAL, stepper=S.Optax(transformation, dt=0.1)),
    "target of a divergence": lambda: end(
        E.PowerDivergence(target_density), CELLS, TORUS, stepper=None, steps=None, t1=1e-3
    ),
    "own energy": lambda: end(OwnEnergy()),
    "own stepper": lambda: end(POTENTIAL, stepper=OwnStepper(jnp.asarray(0.1))),
    "own flow": lambda: end(OwnFlow(POTENTIAL, LINE)),
    "own domain": lambda: end(POTENTIAL, domain=OwnDomain(1)),
    "noise": lambda: end(E.Potential(well) + 0.5 * E.Entropy(), stepper=S.EulerMaruyama(0.1), key=jr.key(0)),
    "energy evaluated": lambda: E.Potential(well)(MU),
    "risk evaluated": lambda: RISK(F.Function(neuron))(MU),
    "outer weights": lambda: RISK(F.Function(neuron)).outer_weights(MU),
    "newton": lambda: RISK(F.Function(neuron), outer=mf.outer.Newton())(MU),
    "minimum norm": lambda: E.ReducedRisk(
        F.Function(neuron), X, Y, lam=0.0, outer=mf.outer.MinimumNorm()
    ).potential(MU)(X[0]),
    "derivative of a run": lambda: jax.grad(
        lambda x: jnp.sum(end(E.Potential(well), mf.measures.Particles(x))[0].points)
    )(MU.points),
    "jitted run": lambda: jax.jit(lambda x: end(E.Potential(well), mf.measures.Particles(x)))(MU.points),
    "batch of runs": lambda: jax.vmap(lambda x: end(E.Potential(well), mf.measures.Particles(x)))(
        MU.points[None]
    ),
    "gibbs": lambda: mf.gibbs(E.Potential(wave) + 0.1 * E.Entropy(), CELLS).measure,
    "linearize": lambda: (
        mf.linearize(
            mf.flows.Wasserstein(E.Potential(well), LINE), mf.measures.Particles(jnp.zeros((1, 1)))
        ).rates
    ),
    "least reduced risk": lambda: (
        mf.minimize_reduced_risk(
            E.ReducedRisk(
                F.Function(lambda w, x: jnp.tanh(SCALE * w @ x)), jnp.eye(2), jnp.array([1.0, 0.3]), lam=1.0
            ),
            mf.measures.Grid.uniform(CIRCLE, 16),
        ).value
    ),
    "density": lambda: mf.measures.Grid.from_density(TORUS, 8, target_density),
    "density as a target": lambda: mf.observables.EnergyDistance(target_density, domain=TORUS)(CELLS, None),
    **{
        f"sweep of arrays, {method}": lambda method=method: mf.sweep(
            lambda a: a * SCALE, a=[1.0, 2.0], method=method
        )["value"]
        for method in ("loop", "map", "vmap")
    },
    **{
        f"sweep of runs, {method}": lambda method=method: mf.sweep(
            lambda a: mf.Simulation(
                mf.flows.Wasserstein(a * E.Potential(well), LINE), MU, stepper=S.Euler(0.1), steps=2
            ),
            a=[1.0, 2.0],
            method=method,
        )["energy"]
        for method in ("loop", "map", "vmap")
    },
}


@pytest.mark.slow_cases(
    "sweep of runs, vmap",
    "jitted inside a potential",
    "density as a target",
    "interaction",
    "own stepper",
    "module as potential",
    "own flow",
    "through times",
    "target of a divergence",
    "adaptive",
    "grid",
    "kernel of an MMD",
    "features",
    "features of a risk",
    "own features",
    "ridge",
    "regularizer",
    "own regularizer",
    "schedule",
    "own domain",
    "noise",
    "sweep of runs, loop",
    "sweep of runs, map",
    "derivative of a run",
    "own kernel",
    "potential",
    "observable",
    "function of optax",
    "batch of runs",
    "gibbs",
    "loss",
    "own loss",
    "schedule of optax",
)
@pytest.mark.parametrize("place", PLACES)
def test_a_global_is_what_it_is_now(place, monkeypatch):
    found = []
    # The second is an array, which a program could hold as a constant.
    for scale in (1.0, jnp.asarray(2.0), 1.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        leaves = jax.tree.leaves(eqx.filter(PLACES[place](), eqx.is_array_like))
        found.append([np.asarray(leaf) for leaf in leaves])
    same = lambda a, b: all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))
    assert not same(found[0], found[1]), "the second call ran the first one"
    assert same(found[0], found[2])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_new_function_a_turn_compiles_nothing_and_keeps_nothing():
    compiled = []
    listen = lambda event, duration, **more: compiled.append(event) if "backend_compile" in event else None
    turn = lambda: end(E.Potential(lambda x: 0.5 * jnp.sum(x * x)))
    pages = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for _ in range(5):
        turn()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        before = pages()
        for _ in range(30):
            turn()
        gc.collect()
        kept = pages() - before
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    assert kept < 30 * 2**20, f"{kept / 30 / 2**20:.2f} MB a turn"


def ends(potential):
    run = mf.simulate(mf.flows.Wasserstein(E.Potential(potential), LINE), MU, stepper=S.Euler(0.1), steps=2)
    return np.asarray(run.final.points)


def test_an_array_that_changes_inside_a_partial_of_a_library():
    """Numpy's arrays may change, and a partial shows nothing of it."""
    slope = np.array([1.0])
    potential = functools.partial(jnp.vdot, slope)
    first = ends(potential)
    slope[:] = 2.0
    np.testing.assert_allclose(MU.points - ends(potential), 2 * (MU.points - first), rtol=1e-12)


@pytest.mark.core
@pytest.mark.parametrize("values", [(1, 1.0, True), (0.0, -0.0)])
def test_equal_static_fields_that_are_not_the_same(values):
    class Scaled(eqx.Module):
        factor: float = eqx.field(static=True)

    Scaled.__module__ = "mfjax.scaled"
    scale = lambda scaled, array: array * scaled.factor
    array = jnp.array([1, 0])
    for value in values:
        got = compiled.program(scale, Scaled(value), array)(Scaled(value), array)
        want = scale(Scaled(value), array)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


def test_a_function_that_wears_the_name_of_another(monkeypatch):
    """`functools.wraps` copies the module of what it wraps."""

    @functools.wraps(jnp.sum)
    def scaled(x):
        return SCALE * jnp.sum(x)

    first = ends(scaled)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    np.testing.assert_allclose(MU.points - ends(scaled), 2 * (MU.points - first), rtol=1e-12)


@pytest.mark.slow
def test_the_random_bits_of_a_run_are_those_of_the_setting():
    flow = mf.flows.Wasserstein(E.Entropy() + E.MMD(K.Gaussian(1.0), MU), LINE)
    found = []
    for partitionable in (True, False, True):
        with jax.threefry_partitionable(partitionable):
            run = mf.simulate(flow, MU, stepper=S.EulerMaruyama(0.1), steps=2, key=jr.key(0))
            found.append(np.asarray(run.final.points))
    np.testing.assert_array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def test_callbacks_are_told_apart():
    """Programs that call back differ by what they call, which their texts do not show."""

    def called(factor):
        shape = jax.ShapeDtypeStruct((), MU.dtype)
        on_host = lambda x: np.asarray(factor * x.sum(), x.dtype)

        @jax.custom_jvp
        def potential(x):
            return jax.pure_callback(on_host, shape, x, vmap_method="sequential")

        potential.defjvps(lambda t, value, x: jnp.sum(t) + 0 * value)
        return mf.simulate(
            mf.flows.Wasserstein(E.Potential(potential), LINE), MU, stepper=S.Euler(0.1), steps=2
        ).observables["energy"][0]

    np.testing.assert_allclose(called(3.0), 3 * called(1.0), rtol=1e-12)


def solved_by(scale):
    """The root of y^3 + y = scale x, by JAX's own rule for roots."""

    def root(x):
        equation = lambda y: y**3 + y - scale * x
        newton = lambda f, y: jax.lax.fori_loop(0, 20, lambda _, y: y - f(y) / (3 * y**2 + 1), y)
        return jax.lax.custom_root(equation, x, newton, lambda f, y: y / f(1.0))

    return lambda x: jnp.sum(jax.vmap(root)(x))


def test_roots_inside_a_function_compile_once():
    compiled = []
    listen = lambda event, duration, **more: compiled.append(event) if "backend_compile" in event else None
    run = lambda scale: end(E.Potential(solved_by(scale)))[1]["energy"]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = run(1.0)
        compiled.clear()
        again = run(1.0)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(run(2.0), first)


def test_rules_of_batches_are_told_apart():
    """A batch runs by the rule that its function has, though another rule was there for the same function."""

    def values(factor):
        @jax.custom_batching.custom_vmap
        def height(x):
            return jnp.sum(x * x)

        @height.def_vmap
        def _(size, batched, x):
            return factor * jnp.sum(x * x, axis=-1), True

        return mf.sweep(lambda a: height(a * jnp.ones(2)), a=[1.0, 2.0], method="vmap")["value"]

    for factor in (1.0, 2.0):
        np.testing.assert_allclose(values(factor), factor * 2 * np.array([1.0, 4.0]), rtol=1e-12)
