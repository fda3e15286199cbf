"""Runs that go on from where another ended, and runs that end early."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import mfjax as mf
from mfjax import status as codes

S = mf.steppers
LINE = mf.domains.Euclidean(1)
WELL = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
OTHER = mf.energies.Potential(lambda x: jnp.sum(x * x))
MU = mf.measures.Particles(jnp.array([[1.0], [-0.5], [0.25]]))
RISK = mf.energies.ReducedRisk(
    mf.features.Ridge(jnp.tanh),
    jnp.array([[1.0], [2.0]]),
    jnp.array([0.5, -0.5]),
    lam=0.1,
    outer=mf.outer.ConjugateGradient(),
)
LANGEVIN = mf.flows.Wasserstein(WELL + 0.5 * mf.energies.Entropy(), LINE)
KINDS = {
    "noise": (LANGEVIN, {"stepper": S.EulerMaruyama(0.1), "key": jr.key(3)}),
    "memory of an optimizer": (mf.flows.Wasserstein(WELL, LINE), {"stepper": S.Optax(optax.adam(0.1), 0.1)}),
    "clock": (
        mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * WELL, LINE)),
        {"stepper": S.RK4(0.1)},
    ),
    "warm starts": (mf.flows.Wasserstein(RISK, LINE), {"stepper": S.Euler(0.1)}),
    "adaptive": (mf.flows.Wasserstein(WELL, LINE), {}),
}


@pytest.mark.slow
def test_saved_times_may_begin_a_rounding_beside_the_end_of_the_run_before():
    flow = mf.flows.Wasserstein(WELL, LINE)
    half = mf.simulate(flow, MU, save_at=[0.1, 0.3])
    exact = mf.simulate(flow, start=half, save_at=[0.3, 0.5])
    for begin in (0.1 + 0.2, np.nextafter(np.float64(half.times[-1]), 0)):
        more = mf.simulate(flow, start=half, save_at=[begin, 0.5])
        np.testing.assert_array_equal(more.times, exact.times)
        np.testing.assert_array_equal(more.final.points, exact.final.points)


@pytest.mark.slow_cases("warm starts", "noise", "clock", "adaptive")
@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_one_bit_for_bit(kind):
    flow, options = KINDS[kind]
    first, rest, all_of_it = [
        {"save_at": times} if kind == "adaptive" else {"steps": steps, "save_every": 2}
        for steps, times in ((4, [0.2, 0.4]), (6, [0.7, 1.0]), (10, [0.2, 0.4, 0.7, 1.0]))
    ]
    straight = mf.simulate(flow, MU, **options, **all_of_it)
    half = mf.simulate(flow, MU, **options, **first)
    more = mf.simulate(flow, start=half, **options, **rest)
    np.testing.assert_array_equal(more.final.points, straight.final.points)
    np.testing.assert_array_equal(more.times, straight.times[2:])
    for name, value in straight.observables.items():
        np.testing.assert_array_equal(more.observables[name], value[2:], err_msg=name)
    for a, b in zip(jax.tree.leaves(more.end), jax.tree.leaves(straight.end), strict=True):
        if a.ndim or a.dtype.kind == "f":
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_it_goes_on_inside_a_trace_and_on_disk(tmp_path):
    flow, options = KINDS["noise"]
    half = mf.simulate(flow, MU, steps=4, **options)
    more = lambda start: mf.simulate(flow, start=start, steps=4, **options).final.points
    stored = mf.simulate(flow, start=half, steps=4, path=tmp_path / "run", **options)
    np.testing.assert_array_equal(stored.final.points, more(half))
    np.testing.assert_allclose(jax.jit(more)(half), more(half), rtol=1e-12)
    again = mf.simulate(flow, start=half, steps=4, path=tmp_path / "run", resume=True, **options)
    np.testing.assert_array_equal(stored.final.points, again.final.points)


def test_another_flow_or_stepper_does_not_go_on():
    flow, _ = KINDS["adaptive"]
    half = mf.simulate(flow, MU, t1=0.5)
    with pytest.raises(mf.SimulationError, match=r"another energy .*start another flow from start.final"):
        mf.simulate(mf.flows.Wasserstein(OTHER, LINE), start=half, t1=1.0)
    with pytest.raises(ValueError, match=r"another structure: start .* from start.final"):
        mf.simulate(flow, start=half, stepper=S.Optax(optax.adam(0.1), 0.1), steps=2)
    for wrong, message in {
        "t1": (lambda: mf.simulate(flow, start=half, t1=0.5), "t1 = 0.5 is not after t = 0.5"),
        "save_at": (
            lambda: mf.simulate(flow, start=half, save_at=[0.2, 1.0]),
            "after t = 0.5 and increasing",
        ),
        "both": (lambda: mf.simulate(flow, MU, start=half, t1=1.0), "not both"),
        "measure": (lambda: mf.simulate(flow, start=MU, t1=1.0), "start must be a Run, got Particles"),
    }.values():
        with pytest.raises(ValueError, match=message):
            wrong()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"stepper": S.Euler(0.1), "steps": 20}, {"save_at": np.linspace(0.1, 2, 20)}]
)
def test_a_condition_ends_a_run(options, tmp_path):
    flow = mf.flows.Wasserstein(WELL, LINE)
    below = lambda mu, flow: flow.energy(mu) < 0.08
    run = mf.simulate(flow, MU, stop=below, **options)
    last = int(np.argmax(np.asarray(run.observables["status"]) == codes.STOPPED))
    energy = np.asarray(run.observables["energy"])
    assert int(run.status) == codes.STOPPED < codes.OK
    assert energy[last] < 0.08 <= energy[last - 1] and np.all(energy[last:] == energy[last])
    assert run.describe() == f"ended at t = {run.times[last]:g}, before t = 2: the condition of stop= holds"
    stored = mf.simulate(flow, MU, stop=below, path=tmp_path / "run", **options)
    np.testing.assert_array_equal(stored.observables["energy"], energy)
    # Without the condition it goes on from there, on its own clock.
    rest = {"steps": 20 - last} if "steps" in options else {"save_at": options["save_at"][last:]}
    more = mf.simulate(flow, start=run, **(options | rest))
    straight = mf.simulate(flow, MU, **options)
    np.testing.assert_array_equal(more.final.points, straight.final.points)
    np.testing.assert_array_equal(more.times, straight.times[last:])


@pytest.mark.slow
def test_a_condition_ends_cells_of_a_sweep_and_derivatives_pass():
    flow = lambda a: mf.flows.Wasserstein(a * WELL, LINE)
    below = lambda mu, flow: mu.integrate(mu.points[:, 0] ** 2) < 0.1
    cell = lambda a: mf.Simulation(flow(a), MU, stepper=S.Euler(0.1), steps=10, stop=below)
    table = mf.sweep(cell, a=[0.5, 2.0])
    assert table.failed == [] and [int(s[-1]) for s in table["status"]] == [codes.OK, codes.STOPPED]
    slope = jax.grad(lambda a: mf.simulate(cell(a)).final.points[0, 0])(2.0)
    taken = int(np.argmax(table["status"][1] == codes.STOPPED))
    np.testing.assert_allclose(slope, -taken * 0.1 * (1 - 0.2) ** (taken - 1), rtol=1e-6)


def test_a_condition_must_be_a_function_of_measure_and_flow():
    with pytest.raises(ValueError, match="stop must be a function of two arguments"):
        mf.simulate(LANGEVIN, MU, stepper=S.EulerMaruyama(0.1), key=jr.key(0), steps=1, stop=lambda mu: True)
