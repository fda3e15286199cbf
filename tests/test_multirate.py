"""The multirate stepper: order, few solves, stiffness, and where it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory
from mfjax.features import RBF, ReLU, Ridge
from mfjax.flows import TwoTimescale, Wasserstein
from mfjax.measures import Grid, Particles
from mfjax.regularizers import Power, Quadratic
from mfjax.steppers import RK4, Adaptive, Multirate
from mfjax.steppers.multirate import Response
from mfjax.testing import finished

# Points and inputs stay closer than half a period, where the nearest image changes.
CIRCLE, TORUS, PLANE = mf.domains.Sphere(1), mf.domains.Torus(2, 8.0), mf.domains.Euclidean(2)


def flow_of(features, domain=CIRCLE, lam=1e-2, regularizer=None, dtype="float64"):
    x = jr.normal(jr.key(2), (12, 2), dtype)
    energy = mf.energies.ReducedRisk(features, x, jnp.sin(x[:, 0]) + 0.3, lam, regularizer)
    return Wasserstein(energy, domain)


def start(domain=CIRCLE, n=6, dtype="float64"):
    if domain is TORUS:
        near = 0.5 * jr.normal(jr.key(1), (n, 2), dtype)
        return Particles(jax.vmap(domain.retract)(near, jnp.zeros_like(near)))
    return Particles(domain.sample(jr.key(1), n, dtype))


FLOWS = {
    "tanh on the circle": (lambda: flow_of(Ridge(jnp.tanh)), CIRCLE),
    "radial on the torus": (lambda: flow_of(RBF(TORUS, scale=0.7, profile="gaussian"), TORUS), TORUS),
    "tanh in the plane, f = |t|^1.5": (
        lambda: flow_of(Ridge(jnp.tanh), PLANE, regularizer=Power(1.5)),
        PLANE,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if "|t|^1.5" in name else name for name in FLOWS],
)
def test_errors_follow_the_tolerance_and_steps_its_fourth_root(name):
    """Any features, domain and regularizer: errors as the tolerance, steps as its power -1/4."""
    make, domain = FLOWS[name]
    flow, mu = make(), start(domain)
    exact, _ = finished(flow, mu, RK4(1 / 1024), t1=1.0)
    errors, steps = [], []
    for rtol in (1e-5, 1e-7):
        end, values = finished(flow, mu, Multirate(rtol, 0.0), t1=1.0)
        gap = jax.vmap(domain.displacement)(end.points, exact.points)
        errors.append(float(jnp.max(jnp.abs(gap))))
        steps.append(int(values["steps"][-1]))
    print(f"{name}: errors {errors}, steps {steps}")
    assert errors[0] < 2e-4 and errors[1] < 2e-6
    # 100^(1/4) = 3.2
    assert 2.2 < steps[1] / steps[0] < 4.2


@pytest.mark.slow
def test_the_response_of_the_dual_variable_is_its_derivative():
    """alpha(x) against outer solves at displaced points: errors of second order, for any masses."""
    x = jr.normal(jr.key(2), (12, 2))
    weights = jnp.linspace(0, 1, 12) / 6
    energy = mf.energies.ReducedRisk(
        Ridge(jnp.tanh), x, jnp.sin(x[:, 0]), 1e-2, Quadratic(1.0), data_weights=weights
    )
    flow, mu = Wasserstein(energy, CIRCLE), Particles(start(n=4).points, [0.1, 0.2, 0.3, 0.4])
    alpha = lambda points: energy.outer.solve(energy.problem(Particles(points, mu.weights))).alpha
    response = Response.near(flow, flow.init(mu), alpha(mu.points))
    aside = jr.normal(jr.key(3), mu.points.shape)
    errors = []
    for h in (1e-3, 1e-4):
        points = mu.points + h * aside
        errors.append(float(jnp.max(jnp.abs(response.alpha(points) - alpha(points)))))
    assert errors[0] < 1e-2 and 80 < errors[0] / errors[1] < 125


def circle_run(stepper, lam, seed=0, size=512, width=16, t1=2.0):
    for_problem, for_start = jr.split(jr.key(seed))
    problem = mf.problems.circle(for_problem, inputs=size, width=size)
    flow = Wasserstein(problem.risk(lam, Quadratic(center=1.0)), problem.domain)
    distance = mf.observables.EnergyDistance(problem.neurons, problem.domain)
    mu = Particles.sample(problem.domain, for_start, width)
    _, values = finished(flow, mu, stepper, t1=t1, observables={"mmd": distance}, save_measures=False)
    return float(values["mmd"][-1]), int(values["evaluations"][-1])


@pytest.mark.slow
def test_kinks_and_stiffness_cost_few_solves():
    """ReLU on the circle: accurate with far fewer solves than an explicit scheme of the same accuracy."""
    reference, _ = circle_run(RK4(2**-9), 1e-3)
    found, solves = circle_run(Multirate(), 1e-3)
    other, explicit = circle_run(Adaptive(3e-4), 1e-3)
    print(f"{solves} solves: {found / reference - 1:.1e}; {explicit} explicit: {other / reference - 1:.1e}")
    assert abs(found / reference - 1) < 1e-2
    assert solves < 0.6 * explicit


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_published_circle_takes_few_solves(seed):
    """t = 10, 128 particles, 4096 inputs, lam = 1e-3, at the default tolerance."""
    size = {"seed": seed, "size": 4096, "width": 128, "t1": 10.0}
    reference, _ = circle_run(RK4(2**-8), 1e-3, **size)
    found, solves = circle_run(Multirate(), 1e-3, **size)
    print(f"seed {seed}: {solves} solves, relative error {found / reference - 1:.1e}")
    assert abs(found / reference - 1) < 1e-3 and solves <= 120


@pytest.mark.slow
def test_a_smaller_lam_costs_few_more_solves():
    counts = [circle_run(Multirate(), lam)[1] for lam in (1e-2, 1e-4)]
    # An explicit scheme at its limit of stability would take lam^(-1/2), ten times as many.
    assert np.log(counts[1] / counts[0]) / np.log(100) < 0.4, counts


@pytest.mark.slow
def test_evaluations_are_counted():
    """Every call of the outer solver, and every factorization: one before the first step, and one a try."""
    calls = []

    class Counting(mf.outer.Cholesky):
        def solve(self, problem, carry=None):
            jax.debug.callback(lambda: calls.append(1))
            return super().solve(problem, carry)

    x = jr.normal(jr.key(2), (12, 2))
    energy = mf.energies.ReducedRisk(Ridge(jnp.tanh), x, jnp.sin(x[:, 0]), 1e-2, outer=Counting())
    flow = Wasserstein(energy, CIRCLE)
    for stepper, factorized in ((Adaptive(1e-3), False), (Multirate(1e-3), True)):
        calls.clear()
        _, values = finished(flow, start(), stepper, t1=0.5, save_measures=False)
        jax.effects_barrier()
        tries = int(values["steps"][-1] + values["rejected"][-1])
        extra = tries + 1 if factorized else 0
        assert int(values["evaluations"][-1]) == len(calls) + extra


@pytest.mark.slow
def test_a_batch_is_its_runs(dtype):
    flow, lams = flow_of(Ridge(jnp.tanh), dtype=dtype), jnp.asarray([1e-2, 1e-1], dtype)
    mu = start(dtype=dtype)

    def end(lam):
        energy = eqx.tree_at(lambda e: e.lam, flow.energy, lam)
        sim = mf.Simulation(Wasserstein(energy, CIRCLE), mu, stepper=Multirate(1e-3), t1=0.5)
        carry, _ = trajectory(sim)
        return carry.state.measure.points, carry.status

    points, status = jax.jit(jax.vmap(end))(lams)
    assert points.dtype == dtype and not np.any(status)
    for row, lam in zip(points, lams, strict=True):
        np.testing.assert_allclose(row, jax.jit(end)(lam)[0], atol={"float32": 2e-4, "float64": 1e-9}[dtype])


@pytest.mark.slow
def test_a_resumed_run_is_a_straight_one(tmp_path, monkeypatch):
    """What a step remembers of the one before is part of the checkpoint."""
    flow, times = flow_of(Ridge(jnp.tanh)), [0.2, 0.4, 0.6]
    arguments = {"stepper": Multirate(1e-3), "save_at": times, "path": tmp_path / "run"}
    straight = mf.simulate(flow, start(), stepper=Multirate(1e-3), save_at=times)

    class Stopped(Exception):
        pass

    def stop(share):
        if share:
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr("mfjax._engine.progress.Progress.of", lambda *_: stop)
        mf.simulate(flow, start(), **arguments)
    resumed = mf.simulate(flow, start(), **arguments, resume=True)
    np.testing.assert_array_equal(resumed.final.points, straight.final.points)
    np.testing.assert_array_equal(resumed.observables["evaluations"], straight.observables["evaluations"])


@pytest.mark.wrong_calls
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Multirate(rtol=0.0), "rtol must be greater than 0"),
        (lambda: Multirate(substeps=0), "substeps must be at least 1"),
        (
            lambda: Multirate().validate(TwoTimescale(flow_of(ReLU()).energy, CIRCLE, 1.0), start()),
            "one ReducedRisk, got TwoTimescale of ReducedRisk: use steppers.Adaptive",
        ),
        (
            lambda: Multirate().validate(Wasserstein(2.0 * flow_of(ReLU()).energy, CIRCLE), start()),
            "use steppers.Adaptive",
        ),
        (lambda: Multirate().validate(flow_of(ReLU()), Grid.uniform(CIRCLE, 8)), "moves particles"),
        (lambda: Multirate().validate(flow_of(ReLU(), lam=0.0), start()), "needs lam > 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
