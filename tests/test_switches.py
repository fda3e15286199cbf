"""Runs under the switches of JAX that look for faults, none of which mfjax commits."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf

E, S = mf.energies, mf.steppers
LINE, TORUS = mf.domains.Euclidean(1), mf.domains.Torus(1)
SWITCHES = {
    "jax_debug_nans": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_check_tracer_leaks": True,
}


def langevin(scale=1.0):
    flow = mf.flows.Wasserstein(E.Potential(lambda x: x[0] ** 2) + 0.5 * E.Entropy(), LINE)
    mu = mf.measures.Particles(jnp.array([[1.0], [-0.5]]))
    return mf.Simulation(flow, mu, stepper=S.EulerMaruyama(0.1), steps=2, key=jr.key(0))


def density():
    wave = E.Potential(lambda x: jnp.cos(2 * jnp.pi * x[0]))
    flow = mf.flows.Wasserstein(wave + 0.1 * E.Entropy(), TORUS)
    return mf.Simulation(flow, mf.measures.Grid.uniform(TORUS, 8), t1=0.01)


def variable_projection(lam=0.1, stepper=None):
    x, y = jnp.array([[1.0], [2.0], [-1.0]]), jnp.array([0.5, -0.5, 0.2])
    flow = mf.flows.Wasserstein(E.ReducedRisk(mf.features.Ridge(jnp.tanh), x, y, lam=lam), LINE)
    mu = mf.measures.Particles(jnp.array([[1.0], [-0.5]]))
    if stepper is not None:
        return mf.Simulation(flow, mu, stepper=stepper, t1=0.2)
    return mf.Simulation(flow, mu, stepper=S.Euler(0.1), steps=2)


RUNS = {
    "Langevin": lambda: mf.simulate(langevin()).final.points,
    "density": lambda: mf.simulate(density()).final.weights,
    "variable projection": lambda: mf.simulate(variable_projection()).final.points,
    "multirate": lambda: mf.simulate(variable_projection(stepper=S.Multirate())).final.points,
    "sweep": lambda: mf.sweep(variable_projection, lam=[0.1, 0.2], method="vmap")["final_points"],
}


@pytest.mark.slow_cases(
    "multirate-jax_numpy_dtype_promotion",
    "density-jax_check_tracer_leaks",
    "density-jax_debug_nans",
    "sweep-jax_check_tracer_leaks",
    "multirate-jax_debug_nans",
    "multirate-jax_numpy_rank_promotion",
    "multirate-jax_check_tracer_leaks",
    "density-jax_numpy_dtype_promotion",
    "density-jax_numpy_rank_promotion",
    "sweep-jax_numpy_rank_promotion",
)
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("kind", RUNS)
def test_a_switch_finds_nothing(kind, switch):
    before = getattr(jax.config, switch)
    jax.config.update(switch, SWITCHES[switch])
    try:
        found = RUNS[kind]()
    finally:
        jax.config.update(switch, before)
    assert np.all(np.isfinite(found))
