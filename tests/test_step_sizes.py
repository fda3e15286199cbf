"""Steps whose sizes follow from their numbers."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax.measures import Particles


def falling(scale=0.5):
    return lambda n: scale / (n + 1)


WELL = mf.flows.Wasserstein(mf.energies.Potential(lambda x: jnp.sum(jnp.cosh(x))), mf.domains.Euclidean(1))
ONE_POINT = Particles(jnp.array([[1.5]]))


@pytest.mark.core
def test_steps_that_fall_with_their_number():
    """By NumPy; saved times are those reached, every third and after steps cut at given times."""
    run = mf.simulate(WELL, ONE_POINT, stepper=mf.steppers.Euler(falling()), steps=12, save_every=3)
    sizes, x = 0.5 / (np.arange(12) + 1), np.array([[1.5]])
    for h in sizes:
        x = x - h * np.sinh(x)
    np.testing.assert_allclose(run.final.points, x, rtol=1e-13)
    np.testing.assert_allclose(run.times, np.r_[0, np.cumsum(sizes)[2::3]], rtol=1e-14)
    half = mf.simulate(WELL, ONE_POINT, stepper=mf.steppers.Euler(falling()), steps=6, save_every=3)
    rest = mf.simulate(WELL, start=half, stepper=mf.steppers.Euler(falling()), steps=6, save_every=3)
    np.testing.assert_array_equal(rest.final.points, run.final.points)
    np.testing.assert_allclose(rest.times[1:], run.times[3:], rtol=1e-15)


@pytest.mark.slow
def test_steps_that_fall_through_given_times(tmp_path):
    """0.5, 0.25, then 0.125 to t = 0.875, cut from 1/6; a run on disk goes on bit for bit."""
    times = [0.875, 1.2, 1.3]
    go = lambda times, **more: mf.simulate(
        WELL, ONE_POINT, stepper=mf.steppers.Euler(falling()), save_at=times, **more
    )
    run = go(times)
    x = np.array([[1.5]])
    for h in (0.5, 0.25, 0.125):
        x = x - h * np.sinh(x)
    np.testing.assert_allclose(run.measures.points[1], x, rtol=1e-13)
    assert np.array_equal(run.times, [0, *times])
    go(times[:2], path=tmp_path / "run")
    np.testing.assert_array_equal(
        go(times, path=tmp_path / "run", resume=True).final.points, run.final.points
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["steps", "times"])
def test_derivatives_in_falling_steps(form):
    axis = {"steps": 8} if form == "steps" else {"t1": 0.9, "max_steps": 32}

    def end(scale, start):
        mu = Particles(start * jnp.ones((1, 1)))
        run = mf.simulate(WELL, mu, stepper=mf.steppers.Euler(falling(scale)), **axis)
        return run.final.points[0, 0]

    wanted = (0, 1) if form == "steps" else (1,)
    slopes = jax.grad(end, wanted)(0.5, 1.5)
    h = 1e-6
    shifted = lambda i, s: [0.5 + s * (i == 0), 1.5 + s * (i == 1)]
    found = [(end(*shifted(i, h)) - end(*shifted(i, -h))) / (2 * h) for i in wanted]
    np.testing.assert_allclose(slopes, found, rtol=1e-7)
    sweep = mf.sweep(lambda scale: end(scale, 1.5), scale=[0.25, 0.5])
    np.testing.assert_allclose(sweep["value"][1], end(0.5, 1.5), rtol=1e-12)


@pytest.mark.slow
def test_stochastic_gradient_descent_with_falling_steps_converges_to_the_minimum():
    """Steps 2 / (lam n): mean squared errors like 1/n, 64 runs of a strongly convex risk, fixed keys."""
    x = jr.normal(jr.key(0), (13, 2))
    y = jnp.sin(x @ jnp.array([1.0, 0.5])) + 0.5 * jnp.cos(7 * x[:, 0])
    linear, batches = mf.features.Function(lambda w, x: w @ x), mf.energies.Batches(1, replace=True)
    flow = mf.flows.Wasserstein(mf.energies.Risk(linear, x, y, 0.5, batches=batches), mf.domains.Euclidean(2))
    least = np.linalg.solve(x.T @ x / 13 + 0.5 * np.eye(2), x.T @ y / 13)
    stepper, mu = mf.steppers.Euler(lambda n: 2.0 / (n + 20)), Particles(jnp.zeros((1, 2)))
    numbers = np.array([250, 1000, 4000])

    def errors(seed):
        run = mf.simulate(flow, mu, stepper=stepper, steps=4000, save_every=250, key=jr.key(seed))
        return jnp.sum((run.measures.points[numbers // 250, 0] - least) ** 2, axis=-1)

    means = np.mean(jax.jit(jax.vmap(errors))(jnp.arange(64)), axis=0)
    slope = np.polyfit(np.log(numbers), np.log(means), 1)[0]
    print(f"mean squared errors {means}, slope {slope:.2f} in the number of steps")
    np.testing.assert_allclose(slope, -1, atol=0.15)
