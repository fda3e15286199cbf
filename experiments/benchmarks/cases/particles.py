"""What the cases with particles share: problems, simulations through the public interface, rows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import mfjax as mf
from benchmarks.harness import Contender
from mfjax import problems
from mfjax._engine.loop import trajectory

LAM, STEP, INPUTS = 1e-3, 2.0**-10, 4096
CENTER = mf.regularizers.Quadratic(center=1.0)
compiled = eqx.filter_jit(trajectory)


def circle(width, dtype, inputs=INPUTS, seed=0):
    """(problem, initial measure) of the two-bump teacher of gamma = 100."""
    problem = problems.circle(jr.key(seed), gamma=100.0, inputs=inputs, dtype=dtype)
    return problem, start(problem, width, dtype, seed)


def torus(width, dtype, inputs=INPUTS, seed=0):
    """(problem, initial measure) of the Laplace features on the 2-torus."""
    problem = problems.torus(jr.key(seed), gamma=100.0, inputs=inputs, dtype=dtype)
    return problem, start(problem, width, dtype, seed)


def start(problem, width, dtype, seed=0):
    """Uniform particles."""
    return mf.measures.Particles.sample(problem.domain, jr.key(seed + 1), width, dtype=dtype)


def varpro(problem, mu, steps, lam=LAM):
    """The run of `steps` steps of variable projection that keeps its end only."""
    flow = mf.flows.Wasserstein(problem.risk(lam, CENTER), problem.domain)
    return simulation(flow, mu, steps)


def simulation(flow, mu, steps):
    """`steps` steps of the published size, saved at the end."""
    return mf.Simulation(
        flow, mu, stepper=mf.steppers.Euler(STEP), steps=steps, save_every=steps, save_measures=False
    )


def ours(sim, steps, name="mfjax"):
    """The contender that runs `sim`; a run that fails is an error, not a time."""

    def call():
        carry, _ = jax.block_until_ready(compiled(sim))
        if int(carry.status):
            raise RuntimeError(f"mfjax: {mf.status.describe(int(carry.status))}")

    return Contender(name, call, steps)


def risk_after(sim):
    """The recorded energy at the end."""
    return float(compiled(sim)[1][1]["energy"][-1])


def arrays(problem, mu, dtype=None):
    """x, y and points for NumPy, in `dtype`."""
    return tuple(np.array(value, dtype or value.dtype) for value in (problem.x, problem.y, mu.points))


def is_double():
    """Whether this process computes in double precision."""
    return jnp.zeros(()).dtype == jnp.float64
