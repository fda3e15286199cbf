"""One clock: time from the start and the number of steps, in any thread, precision and stepper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mfjax as mf
from mfjax import status as codes

pytestmark = pytest.mark.core

LINE = mf.domains.Euclidean(1)
WELL = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
MU = mf.measures.Particles(jnp.array([[1.0]]))


class Alone(mf.steppers.Stepper):
    """Moves points, and the clock only if it is told to."""

    dt: jax.Array
    clock: bool = False
    order = 1

    def step(self, flow, state, evaluation, dt, key, memory):
        moved = mf.measures.Tangent(points=evaluation.tangent.points)
        if self.clock:
            state = mf.steppers.with_clock(flow, state, evaluation, dt)
        return mf.steppers.settle(flow, flow.move(state, moved, dt))


@pytest.mark.slow
def test_a_stepper_that_forgets_the_clock_is_told():
    flow = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * WELL, LINE))
    with pytest.raises(mf.SimulationError, match="left the clock of a flow") as caught:
        mf.simulate(flow, MU, stepper=Alone(jnp.asarray(0.1)), steps=3)
    assert int(caught.value.run.status) == codes.FROZEN_CLOCK
    told = mf.simulate(flow, MU, stepper=Alone(jnp.asarray(0.1), True), steps=3)
    euler = mf.simulate(flow, MU, stepper=mf.steppers.Euler(0.1), steps=3)
    np.testing.assert_allclose(told.final.points, euler.final.points, rtol=1e-12)


def test_a_schedule_in_float32_sees_the_time_of_the_run():
    mu = mf.measures.Particles(jnp.ones((1, 1), jnp.float32))
    seen = {"late": lambda mu, flow: flow.energy.parts()[0][0]}
    flow = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein((1 + t) * WELL, LINE))
    euler = mf.steppers.Euler(1e-3)
    run = mf.simulate(flow, mu, stepper=euler, steps=20000, save_every=10000, observables=seen)
    np.testing.assert_allclose(run.observables["late"], 1 + run.times, rtol=1e-6)


def test_steps_below_the_rounding_of_the_time_are_taken():
    """A particle runs to a stiff wall at t = 300, where a step of float32 time is thirty steps of the run."""
    wall = mf.energies.Potential(lambda x: jnp.sum(-x + 0.5e6 * jnp.maximum(x, 0) ** 2))
    mu = mf.measures.Particles(jnp.full((1, 1), -300.0, jnp.float32))
    run = mf.simulate(
        mf.flows.Wasserstein(wall, LINE), mu, stepper=mf.steppers.Adaptive(1e-3), t1=300.03, max_steps=200_000
    )
    assert 0.5e-6 < run.final.points[0, 0] < 2e-6


@pytest.mark.parametrize("times", [np.arange(1, 4) * 0.1, [0.1, 0.2, 0.3 - 1e-16]])
def test_lists_that_end_a_rounding_away_end_at_the_end(times):
    run = mf.Simulation(mf.flows.Wasserstein(WELL, LINE), MU, save_at=times, t1=0.3)
    assert run.times.tolist() == [0.0, *np.asarray(times)[:2], 0.3]


def test_threads_have_the_precision_of_their_caller():
    cell = lambda a: {"x": a * jnp.ones(2)}
    with jax.enable_x64(False):
        table = mf.sweep(cell, a=[0.1, 0.2], method="loop", workers=2)
    assert table["x"].dtype == np.float32


def test_double_precision_outside_of_its_context_is_named():
    flow = mf.flows.Wasserstein(WELL, LINE)
    run = mf.simulate(flow, MU, stepper=mf.steppers.Euler(0.1), steps=1)
    with jax.enable_x64(False):
        for begun in ({"measure": MU}, {"start": run}):
            with pytest.raises(ValueError, match="in double precision, which is off here"):
                mf.simulate(flow, stepper=mf.steppers.Euler(0.1), steps=1, **begun)
