"""The published one-dimensional VarPro experiment, step by step, against two other programs.

tests/reference: M = 128, N = 4096, lam = 1e-3, gamma = 100, tau = 2^-10, Euclidean step then
normalization. Bars: 1e-10 relative in float64, 5e-5 in float32, over 1000 steps; the quick run of
the tests stops after the first 250, in float64.
"""

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine.loop import trajectory

pytestmark = pytest.mark.optimized
REFERENCE = Path(__file__).parent / "reference"
BARS = {"float64": 1e-10, "float32": 5e-5}


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE / "setup_1d.npz") as setup, np.load(REFERENCE / "varpro_fu.npz") as run:
        return dict(setup) | dict(run)


def circle_run(reference, dtype, steps):
    angle = reference["student_theta0"]
    points = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], -1), dtype)
    energy = mf.energies.ReducedRisk(
        mf.features.ReLU(),
        jnp.asarray(reference["x"], dtype),
        jnp.asarray(reference["y"], dtype),
        lam=1e-3,
        regularizer=mf.regularizers.Quadratic(center=1.0),
    )
    flow = mf.flows.Wasserstein(energy, mf.domains.Sphere(1))
    stepper = mf.steppers.NormalizedEuler(2**-10)
    sim = mf.Simulation(flow, mf.measures.Particles(points), stepper=stepper, steps=steps)
    return energy, eqx.filter_jit(trajectory)(sim)


@pytest.mark.slow_cases("float64-1000", "float32-1000")
@pytest.mark.parametrize(("dtype", "steps"), [("float64", 250), ("float64", 1000), ("float32", 1000)])
def test_risk_over_a_thousand_steps(reference, dtype, steps):
    energy, (carry, (measures, values)) = circle_run(reference, dtype, steps)
    assert int(carry.status) == 0
    assert measures.points.dtype == dtype
    error = np.max(np.abs(np.asarray(values["energy"], np.float64) / reference["loss"][: steps + 1] - 1))
    print(f"max relative error of the reduced risk, {dtype}: {error:.2e}")
    assert error <= BARS[dtype]
    seen = reference["snap"] <= steps
    snaps = reference["snap"][seen]
    np.testing.assert_allclose(
        measures.points[snaps], reference["W"][seen], atol={"float64": 1e-11, "float32": 1e-4}[dtype]
    )
    last = mf.measures.Particles(measures.points[snaps[-1]])
    np.testing.assert_allclose(
        energy.outer_weights(last), reference["u"][seen][-1], rtol={"float64": 1e-9, "float32": 5e-3}[dtype]
    )
