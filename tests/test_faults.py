"""What must never pass for a success: NaN in a solve, a distance or an error estimate, a failed start."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import status as codes
from mfjax._engine.loop import trajectory
from mfjax.flows.base import State
from mfjax.measures import Grid, Particles
from mfjax.steppers import Adaptive, Euler

CIRCLE = mf.domains.Sphere(1)
X = jr.normal(jr.key(0), (40, 2))
Y = jnp.maximum(X[:, 0], 0)


def risk(lam=1e-2, dtype="float64", **options):
    return mf.energies.ReducedRisk(mf.features.ReLU(), X.astype(dtype), Y.astype(dtype), lam, **options)


def circle_points(size, dtype="float64"):
    return Particles.sample(CIRCLE, jr.key(1), size, dtype=jnp.dtype(dtype))


def test_a_broken_solve_has_a_status_and_no_residual_of_zero():
    # Two equal particles: the Gram matrix is singular, and lam is below its rounding.
    twice = Particles(jnp.array([[1.0, 0.0], [1.0, 0.0]], jnp.float32))
    energy = risk(1e-9, "float32", outer=mf.outer.Cholesky("primal"))
    solution = energy.solve(twice)
    assert int(solution.status) == codes.OUTER_SOLVE and not float(solution.residual) < 1e-4
    with pytest.raises(RuntimeError, match="outer solve"):
        energy(twice)


@pytest.mark.slow
def test_a_traced_lam_of_zero_is_a_failed_solve():
    solve = jax.jit(lambda lam: risk(lam).solve(circle_points(8)).status)
    assert int(solve(0.0)) == codes.OUTER_SOLVE
    table = mf.sweep(
        lambda lam: mf.Simulation(
            mf.flows.Wasserstein(risk(lam), CIRCLE), circle_points(8), stepper=Euler(0.01), steps=2
        ),
        lam=[0.0, 1e-2],
    )
    assert table["status"][:, -1].tolist() == [codes.OUTER_SOLVE, codes.OK]


@pytest.mark.parametrize(
    ("observable", "dimension"),
    [
        (mf.observables.EnergyDistance(jnp.zeros((3, 1))), 1),
        (mf.observables.EnergyDistance(jnp.zeros((3, 3))), 3),
        (mf.observables.Wasserstein1D(jnp.zeros((3, 1))), 1),
        (mf.observables.Wasserstein1D(jnp.zeros((3, 1)), order=2), 1),
        (mf.observables.EnergyDistance(jnp.eye(2), CIRCLE), 2),
        (mf.observables.Wasserstein1D(jnp.eye(2), order=2, domain=CIRCLE), 2),
    ],
    ids=["energy line", "energy space", "w1", "w2", "energy circle", "w2 circle"],
)
def test_a_distance_of_nan_is_nan(observable, dimension):
    mu = Particles(jnp.ones((4, dimension)))
    broken = eqx.tree_at(lambda m: m.points, mu, mu.points.at[1].set(jnp.nan))
    assert np.isfinite(float(observable(mu))) and np.isnan(float(observable(broken)))


@pytest.mark.slow
def test_a_cell_that_fills_from_nothing_needs_an_absolute_tolerance():
    flow = mf.flows.Wasserstein(mf.energies.Entropy(), mf.domains.Torus(1))
    mu = Grid.uniform(mf.domains.Torus(1), 16).with_weights(jnp.eye(16)[3])
    ends = [mf.simulate(flow, mu, stepper=Adaptive(1e-6, atol), t1=0.02, throw=False) for atol in (0.0, 1e-6)]
    assert [int(run.status) for run in ends] == [codes.STEP_UNDERFLOW, codes.OK]
    # Cells that hold mass need none.
    full = mf.simulate(flow, ends[1].final, stepper=Adaptive(1e-6, 0.0), t1=0.02)
    assert int(full.status) == codes.OK


@pytest.mark.slow
def test_a_failed_initial_projection_stops_a_two_timescale_run():
    outer = mf.outer.Newton("primal", max_iterations=1)
    flow = mf.flows.TwoTimescale(risk(1e-3, regularizer=mf.regularizers.Power(3.0), outer=outer), CIRCLE, 1.0)
    run = mf.simulate(flow, circle_points(6), stepper=Euler(0.01), steps=2, throw=False)
    assert int(run.status) == codes.OUTER_SOLVE
    with pytest.raises(mf.SimulationError, match="outer solve"):
        mf.simulate(flow, circle_points(6), stepper=Euler(0.01), steps=2)


def test_a_declaration_solves_nothing(monkeypatch):
    flow = mf.flows.TwoTimescale(risk(), CIRCLE, 1.0)
    monkeypatch.setattr(mf.energies.ReducedRisk, "solve", None)
    mf.Simulation(flow, circle_points(6), stepper=Euler(0.01), steps=2)


@pytest.mark.slow
def test_mixed_precision_of_data_and_particles():
    for flow in (mf.flows.TwoTimescale(risk(), CIRCLE, 1.0), mf.flows.Wasserstein(risk(), CIRCLE)):
        mu = circle_points(6, "float32").with_marks(u=jnp.ones(6, jnp.float32))
        run = mf.simulate(flow, mu, stepper=Euler(0.01), steps=3)
        assert run.final.points.dtype == run.final.marks["u"].dtype == jnp.float32


class Constant(mf.energies.Energy):
    """An energy whose gradient field is not that of its potential, as on a layered measure."""

    def solve(self, mu, carry=None):
        return mf.energies.Solution(jnp.zeros((), mu.dtype), lambda p: jnp.zeros((), p.dtype))

    def gradient_field(self, mu, solution=None):
        return jnp.full_like(mu.points, 5.0)


def test_a_sum_asks_its_terms_for_their_fields():
    line, mu = mf.domains.Euclidean(1), Particles(jnp.array([[0.5], [1.5]]))
    square = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
    np.testing.assert_array_equal((2.0 * Constant()).gradient_field(mu), 10.0)
    np.testing.assert_allclose((Constant() + 0.1 * square).gradient_field(mu), 5 + 0.1 * mu.points)
    flow = mf.flows.Wasserstein(Constant() + 0.1 * mf.energies.Entropy(), line)
    np.testing.assert_array_equal(flow.rate(flow.init(mu)).points, -5.0)


@pytest.mark.slow
def test_terms_of_a_sum_are_solved_once(monkeypatch):
    calls = []
    solve = mf.energies.ReducedRisk.solve

    def counted(self, mu, carry=None):
        calls.append(mu)
        return solve(self, mu, carry)

    monkeypatch.setattr(mf.energies.ReducedRisk, "solve", counted)
    energy, mu = risk() + 0.5 * risk(1e-1), circle_points(5)
    solution = energy.solve(mu)
    energy.gradient_field(mu, solution), energy.first_variation(mu, solution)
    assert len(calls) == 2


@pytest.mark.slow_cases("adaptive")
@pytest.mark.parametrize("stepper", [Adaptive(), Euler(0.05)], ids=["adaptive", "fixed"])
def test_traced_saved_times_may_begin_with_zero(stepper):
    well = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
    flow, mu = mf.flows.Wasserstein(well, mf.domains.Euclidean(1)), Particles(jnp.array([[1.0]]))

    @jax.jit
    def traced(times):
        carry, (_, values) = trajectory(mf.Simulation(flow, mu, stepper=stepper, save_at=times))
        return carry.state.measure.points, carry.status, values["energy"]

    times = np.array([0.0, 0.2, 0.2, 1.0])
    points, status, energy = traced(jnp.asarray(times))
    run = mf.simulate(flow, mu, stepper=stepper, save_at=[0.0, 0.2, 1.0])
    assert int(status) == codes.OK
    np.testing.assert_allclose(points, run.final.points, rtol=1e-12)
    np.testing.assert_allclose(energy, np.asarray(run.observables["energy"])[[0, 0, 1, 1, 2]], rtol=1e-12)
    assert int(traced(jnp.asarray(times[::-1]))[1]) == codes.UNORDERED_TIMES
    assert int(traced(jnp.full(4, jnp.nan))[1]) == codes.UNORDERED_TIMES


@pytest.mark.slow
def test_reverse_mode_keeps_the_state_of_a_step_and_not_its_matrices():
    mu = circle_points(16)
    x = jr.normal(jr.key(2), (256, 2))

    def memory(steps):
        def final(lam):
            energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, x[:, 0], lam)
            flow = mf.flows.Wasserstein(energy, CIRCLE)
            sim = mf.Simulation(flow, mu, stepper=Euler(2**-8), steps=steps, save_every=steps)
            return trajectory(sim)[0].evaluation.energy

        return jax.jit(jax.grad(final)).lower(1e-2).compile().memory_analysis().temp_size_in_bytes

    per_step = (memory(200) - memory(100)) / 100
    print(f"bytes kept by reverse mode: {per_step:.0f} a step, matrix {256 * 16 * 8}")
    assert per_step < 256 * 16 * 8 / 16


def test_a_state_without_a_carry_is_evaluated():
    flow = mf.flows.TwoTimescale(risk(), CIRCLE, 1.0)
    mu = circle_points(4).with_marks(u=jnp.ones(4))
    evaluation = eqx.filter_jit(flow.evaluate)(State(mu))
    assert int(evaluation.status) == codes.OK
