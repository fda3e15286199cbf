"""Derivatives of a whole run with respect to everything that defines it, against central differences.

50 Euler steps of variable projection, M = 8 tanh features, N = 12 data, float64. The derivative of the
final energy is right to 1e-6 relative in reverse and, for the quadratic, in forward mode: no gradient is
stopped on the way, and the derivative of the outer solve is that of the implicit function.
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory

X = jr.normal(jr.key(1), (12, 2))
Y = jnp.sin(2 * X[:, 0]) + 0.5 * X[:, 1]
REGULARIZERS = {
    "quadratic": (mf.regularizers.Quadratic, 0.7),
    "power": (mf.regularizers.Power, 3.0),
    "power-below-two": (mf.regularizers.Power, 1.5),
}


def final_energy(kind, params):
    energy = mf.energies.ReducedRisk(
        mf.features.Ridge(jnp.tanh), X, Y, lam=params["lam"], regularizer=kind(params["shape"])
    )
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(2))
    sim = mf.Simulation(
        flow,
        mf.measures.Particles(params["points"], params["weights"]),
        stepper=mf.steppers.Euler(params["dt"]),
        steps=50,
        save_every=50,
    )
    carry, (_, values) = trajectory(sim)
    return values["energy"][-1], carry.status


@functools.cache
def compiled(kind):
    """((energy, status), reverse-mode gradient) of the run: the one program of all tests below."""
    return jax.jit(jax.value_and_grad(lambda p: final_energy(kind, p), has_aux=True))


def parameters(shape):
    return {
        "lam": jnp.asarray(0.05),
        "shape": jnp.asarray(shape),
        "dt": jnp.asarray(0.02),
        "points": jr.normal(jr.key(0), (8, 2)),
        "weights": jnp.full(8, 1 / 7).at[3].set(0.0),
    }


# Forward and reverse programs of its own, half a minute each for Newton in the outer solve.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["quadratic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("power", "power-below-two"))],
)
def test_a_run_is_differentiable_in_all_that_defines_it(name):
    kind, shape = REGULARIZERS[name]
    run, params = compiled(kind), parameters(shape)
    (end, status), gradient = run(params)
    assert int(status) == 0
    forward = jax.jit(lambda p, t: jax.jvp(lambda p: final_energy(kind, p)[0], (p,), (t,))[1])
    rng = np.random.default_rng(0)
    zero = jax.tree.map(jnp.zeros_like, params)
    for key, leaf in params.items():
        direction = jnp.asarray(rng.normal(size=leaf.shape)) if leaf.ndim else jnp.ones(())
        if key == "weights":
            # Masses are perturbed where they are positive: a difference needs room on both sides.
            direction = direction * (leaf > 0)
        tangent = zero | {key: direction}
        step = 1e-5 * (float(leaf) if leaf.ndim == 0 else 1.0)
        moved = lambda h, t=tangent: jax.tree.map(lambda a, b: a + h * b, params, t)
        there, back = (run(moved(h))[0][0] for h in (step, -step))
        difference = float(there - back) / (2 * step)
        slope = float(jnp.sum(gradient[key] * direction))
        print(f"{name} {key}: {slope:.9e}, relative error {abs(slope / difference - 1):.1e}")
        assert abs(difference) > 1e-3 * abs(float(end))
        assert slope == pytest.approx(difference, rel=1e-6)
        if name == "quadratic":
            # The other outer solve, Newton, has its forward mode in tests/test_outer.py.
            assert float(forward(params, tangent)) == pytest.approx(slope, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_particle_of_zero_mass_has_the_derivative_of_a_small_one(name):
    # The energy is smooth up to the boundary of the masses: a one-sided difference of second order.
    kind, shape = REGULARIZERS[name]
    run, params = compiled(kind), parameters(shape)
    gradient = run(params)[1]
    h = 1e-5
    at = lambda mass: float(run(params | {"weights": params["weights"].at[3].set(mass)})[0][0])
    assert float(gradient["weights"][3]) == pytest.approx(
        (4 * at(h) - 3 * at(0.0) - at(2 * h)) / (2 * h), rel=1e-6
    )
    # It moves with the flow and changes nothing.
    assert np.all(np.asarray(gradient["points"][3]) == 0)
    assert np.all(np.isfinite(np.asarray(gradient["points"])))
