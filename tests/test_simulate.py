"""The time loop: time axes, exact solutions, transformations, failures, and what a run holds."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import status as codes
from mfjax._numerics import compiled

pytestmark = pytest.mark.core


class Well(eqx.Module):
    """V(x) = rate |x|^2 / 2: every particle decays as exp(-rate t)."""

    rate: jax.Array

    def __call__(self, x):
        return 0.5 * self.rate * jnp.sum(x * x)


class Cliff(eqx.Module):
    """V(x) = -x_0 with velocity one, and NaN beyond `edge`."""

    edge: jax.Array

    def __call__(self, x):
        return jnp.where(x[0] > self.edge, jnp.nan, -x[0])


def wasserstein(function, dim=1):
    return mf.flows.Wasserstein(mf.energies.Potential(function), mf.domains.Euclidean(dim))


def well(rate=1.0, dim=1):
    return wasserstein(Well(jnp.asarray(rate)), dim)


def particles(dtype="float64"):
    return mf.measures.Particles(jnp.asarray([[1.0], [-2.0], [0.5]], dtype))


def second_moment(mu, flow):
    return mu.integrate(jnp.sum(mu.points**2, axis=-1))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# The time axis


def test_steps_form_saves_zero_and_the_end(dtype):
    run = mf.simulate(well(), particles(dtype), stepper=mf.steppers.Euler(0.25), steps=12, save_every=4)
    assert run.times.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert run.times.dtype == run.measures.points.dtype == run.final.points.dtype == dtype
    assert run.observables["energy"].dtype == run.observables["dissipated"].dtype == dtype
    assert np.asarray(run.observables["steps"]).tolist() == [0, 4, 8, 12]
    # Euler on a linear flow is a power: the saved states are known exactly.
    expected = 0.75 ** np.array([0, 4, 8, 12])[:, None, None] * np.asarray(particles(dtype).points)
    np.testing.assert_allclose(run.measures.points, expected, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_times_are_rounded_once_and_do_not_drift():
    run = mf.simulate(
        well(), particles("float32"), stepper=mf.steppers.Euler(1e-3), steps=3000, save_every=1000
    )
    assert run.times.tolist() == (np.float32(1e-3) * np.array([0, 1000, 2000, 3000], np.float32)).tolist()


TIGHT = mf.steppers.Adaptive(1e-6, 1e-9)
STEPPERS = {"default": (None, 2e-4), "adaptive": (TIGHT, 2e-6), "fixed": (mf.steppers.RK4(0.013), 2e-6)}


@pytest.mark.parametrize("t1", [1.0, 0.7, 2.0 / 3.0])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_t1_is_reached_exactly(stepper, t1, dtype):
    stepper, exactness = STEPPERS[stepper]
    run = mf.simulate(well(), particles(dtype), stepper=stepper, t1=t1)
    assert run.times.tolist() == [0.0, float(np.dtype(dtype).type(t1))]
    tolerance = max(exactness, 2e-5 if dtype == "float32" else 0)
    np.testing.assert_allclose(run.final.points, np.exp(-t1) * particles().points, rtol=tolerance)


def test_save_at_with_a_fixed_stepper_cuts_each_interval_into_equal_steps():
    """Steps are the longest that divide the interval and do not exceed dt: Euler then is a known product."""
    dt, times = 0.1, [0.1, 0.25, 0.26, 1.26]
    run = mf.simulate(well(), particles(), stepper=mf.steppers.Euler(dt), save_at=times)
    gaps = np.diff([0.0, *times])
    numbers = np.ceil(gaps / dt - 1e-9).astype(int)
    assert numbers.tolist() == [1, 2, 1, 10]
    assert np.diff(np.asarray(run.observables["steps"])).tolist() == numbers.tolist()
    factor = np.cumprod((1 - gaps / numbers) ** numbers)
    np.testing.assert_allclose(run.measures.points[1:, 0, 0], factor, rtol=1e-13)


def test_rounding_of_the_saved_times_adds_no_step():
    """In float32 the gaps between multiples of 0.1 are a few roundings off: still a hundred steps each."""
    times = np.arange(1, 301) * 0.1
    run = mf.simulate(
        well(),
        particles("float32"),
        stepper=mf.steppers.Euler(1e-3),
        save_at=times,
        save_measures=False,
    )
    assert set(np.diff(np.asarray(run.observables["steps"])).tolist()) == {100}


def test_t1_and_save_at_together(dtype):
    flow, mu = well(), particles(dtype)
    run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), save_at=[0.0, 0.5], t1=np.float64(0.7))
    np.testing.assert_allclose(run.times, [0, 0.5, 0.7], rtol=1e-7)
    # The end that save_at already holds is not doubled, whatever type t1 has.
    run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), save_at=[0.5, 0.7], t1=np.float64(0.7))
    assert len(run.times) == 3


def test_the_two_forms_agree():
    flow, mu = well(), particles()
    a = mf.simulate(flow, mu, stepper=mf.steppers.Heun(1 / 64), steps=64, save_every=16)
    b = mf.simulate(flow, mu, stepper=mf.steppers.Heun(1 / 64), save_at=[0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(a.measures.points, b.measures.points, rtol=1e-14)
    np.testing.assert_array_equal(a.times, b.times)


def test_adaptive_saves_do_not_depend_on_how_many_there_are():
    flow, mu = well(3.0), particles()
    few = mf.simulate(flow, mu, stepper=TIGHT, t1=2.0)
    many = mf.simulate(flow, mu, stepper=TIGHT, save_at=np.linspace(0.05, 2.0, 40))
    np.testing.assert_allclose(many.final.points, few.final.points, rtol=1e-5)
    exact = np.exp(-3 * np.asarray(many.times))
    np.testing.assert_allclose(many.measures.points[:, 0, 0], exact, rtol=2e-5)


# What a run holds


def test_observables_lead_with_the_saved_times():
    watch = {
        "second": second_moment,
        "tree": lambda mu, flow: {"points": mu.points, "pair": (mu.mass, jnp.arange(3))},
        "fourier": lambda mu, flow: mu.integrate(jnp.exp(1j * mu.points[:, 0])),
    }
    run = mf.simulate(
        well(), particles(), stepper=mf.steppers.RK4(0.1), steps=6, save_every=2, observables=watch
    )
    assert run.observables["second"].shape == (4,)
    assert run.observables["tree"]["points"].shape == (4, 3, 1)
    assert run.observables["tree"]["pair"][1].shape == (4, 3)
    assert run.observables["fourier"].dtype == np.complex128
    np.testing.assert_allclose(
        run.observables["second"], 2 * np.asarray(run.observables["energy"]), rtol=1e-14
    )
    for i in range(4):
        np.testing.assert_array_equal(run.measure(i).points, run.observables["tree"]["points"][i])
    np.testing.assert_array_equal(run.measure(-1).points, run.final.points)


def test_dissipation_balances_the_energy():
    run = mf.simulate(well(), particles(), stepper=mf.steppers.RK4(1e-3), steps=1000, save_every=100)
    energy, dissipated = (np.asarray(run.observables[n]) for n in ("energy", "dissipated"))
    # The trapezoidal rule: second order in dt.
    np.testing.assert_allclose(energy[0] - energy, dissipated, atol=1e-6)


def test_measures_may_be_left_out():
    run = mf.simulate(
        well(), particles(), stepper=mf.steppers.Euler(0.1), steps=4, save_every=2, save_measures=False
    )
    assert run.measures is None and run.final.points.shape == (3, 1)
    with pytest.raises(ValueError, match="save_measures=True"):
        run.measure(0)


def test_a_grid_run():
    domain = mf.domains.Torus(1)
    density = lambda x: 1 + 0.5 * jnp.cos(2 * jnp.pi * x[0])
    flow = mf.flows.Wasserstein(mf.energies.PowerDivergence(density, order=2, scale=0.5), domain)
    mu = mf.measures.Grid.uniform(domain, 32)
    run = mf.simulate(flow, mu, save_at=[0.01, 0.1])
    assert run.measures.weights.shape == (3, 32) and run.measures.points.shape == (32, 1)
    assert isinstance(run.measure(1), mf.measures.Grid)
    np.testing.assert_allclose(run.observables["mass"], 1, rtol=1e-13)
    assert np.all(np.diff(np.asarray(run.observables["energy"])) < 0)
    data = run.to_xarray()
    assert data["weights"].dims == ("time", "x") and data["points"].dims == ("x", "coordinate")


def test_a_simulation_is_a_run_unevaluated():
    arguments = {"stepper": mf.steppers.RK4(0.1), "steps": 10, "save_every": 5}
    direct = mf.simulate(well(), particles(), **arguments)
    later = mf.simulate(mf.Simulation(well(), particles(), **arguments))
    same(direct, later)
    with pytest.raises(ValueError, match="already holds its steps"):
        mf.simulate(mf.Simulation(well(), particles(), **arguments), steps=3)


def test_progress_without_a_terminal(capsys):
    mf.simulate(well(), particles(), stepper=mf.steppers.Euler(0.1), steps=32, progress=True)
    err = capsys.readouterr().err
    assert "compiling" in err and re.search(r"100%.*3\.2 of 3\.2 flow time", err)
    mf.simulate(well(), particles(), stepper=mf.steppers.Euler(0.1), steps=32)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("saves", [1, 2, 15, 16, 17, 97, 100, 1009])
def test_chunks_cover_all_saves_in_few_programs(saves):
    from mfjax._engine.host import chunk_of

    chunk = chunk_of(saves, None)
    assert chunk.steps == 0 and saves / 16 <= chunk.saves < saves / 16 + 1
    if saves <= 100:
        run = mf.simulate(well(), particles(), stepper=mf.steppers.Euler(0.01), steps=saves)
        np.testing.assert_allclose(run.final.points, 0.99**saves * particles().points, rtol=1e-12)


# Transformations: the pure core


def final_energy(rate, mu=None, **arguments):
    arguments = arguments or {"stepper": mf.steppers.RK4(0.05), "steps": 20, "save_every": 10}
    mu = particles() if mu is None else mu
    return mf.simulate(well(rate), mu, **arguments).observables["energy"][-1]


def exact_energy(rate, t=1.0):
    return 0.5 * rate * 5.25 / 3 * np.exp(-2 * rate * t)


FORMS = {
    "steps": {"stepper": mf.steppers.RK4(0.05), "steps": 20, "save_every": 10},
    "save_at": {"stepper": mf.steppers.RK4(0.05), "save_at": [0.3, 1.0]},
    "adaptive": {"stepper": TIGHT, "t1": 1.0},
}


@pytest.mark.slow_cases("save_at", "steps")
@pytest.mark.parametrize("form", FORMS)
def test_jit_vmap_and_forward_mode_run_the_core(form):
    function = lambda rate: final_energy(rate, **FORMS[form])
    rates = jnp.array([0.5, 1.0, 2.0])
    eager = np.array([float(function(r)) for r in rates])
    np.testing.assert_allclose(eager, exact_energy(np.asarray(rates)), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(function)(rates[2]), eager[2], rtol=1e-13)
    np.testing.assert_allclose(jax.vmap(function)(rates), eager, rtol=1e-13)
    slope = (exact_energy(1 + 1e-6) - exact_energy(1 - 1e-6)) / 2e-6
    tangent = jax.jvp(function, (1.0,), (1.0,))[1]
    np.testing.assert_allclose(tangent, slope, rtol=1e-4)


@pytest.mark.slow
def test_reverse_mode_through_steps():
    slope = jax.grad(final_energy)(1.0)
    np.testing.assert_allclose(slope, jax.jacfwd(final_energy)(1.0), rtol=1e-13)
    step = 1e-5
    difference = (final_energy(1 + step) - final_energy(1 - step)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-8)
    starts = jax.grad(lambda p: final_energy(1.0, mf.measures.Particles(p)))(particles().points)
    np.testing.assert_allclose(starts, particles().points / 3 * np.exp(-2), rtol=1e-5)


def test_the_step_and_the_end_are_differentiable():
    by_end = jax.jvp(
        lambda t: mf.simulate(well(), particles(), stepper=mf.steppers.RK4(0.05), t1=t).final.points[0, 0],
        (1.0,),
        (1.0,),
    )[1]
    np.testing.assert_allclose(by_end, -np.exp(-1), rtol=1e-5)
    by_step = jax.grad(
        lambda dt: mf.simulate(well(), particles(), stepper=mf.steppers.Euler(dt), steps=10).final.points[
            0, 0
        ]
    )(0.1)
    np.testing.assert_allclose(by_step, -10 * 0.9**9, rtol=1e-12)


def test_a_function_may_close_over_a_tracer():
    """The tracer is then no leaf of the simulation, and the core still has to run alone."""

    def hidden(rate, **options):
        flow = wasserstein(lambda x: 0.5 * rate * jnp.sum(x * x))
        stepper = mf.steppers.RK4(0.05)
        return mf.simulate(flow, particles(), stepper=stepper, steps=20, **options).observables["energy"][-1]

    np.testing.assert_allclose(jax.grad(hidden)(1.0), jax.grad(final_energy)(1.0), rtol=1e-13)
    np.testing.assert_allclose(jax.jit(hidden)(1.0), final_energy(1.0), rtol=1e-13)
    with pytest.raises(ValueError, match="path= needs a concrete run"):
        jax.grad(lambda r: hidden(r, path="never"))(1.0)


def test_constants_inside_jit():
    """Nothing of the run is traced, and yet nothing has a value while jit traces around it."""
    inside = jax.jit(lambda s: s * final_energy(1.0))(2.0)
    np.testing.assert_allclose(inside, 2 * final_energy(1.0), rtol=1e-13)
    with pytest.raises(ValueError, match="save_every"):
        jax.jit(
            lambda s: (
                s * mf.simulate(well(), particles(), stepper=mf.steppers.Euler(0.1), steps=3, save_every=2)
            )
        )(1.0)
    with pytest.raises(ValueError, match="rate must be greater than 0"):
        x, y = jnp.ones((1, 1)), jnp.ones(1)
        energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, y, lam=0.1)
        jax.jit(lambda s: s * mf.flows.TwoTimescale(energy, mf.domains.Euclidean(1), rate=-1.0).gamma)(1.0)


def test_path_inside_a_transformation_raises(tmp_path):
    with pytest.raises(ValueError, match="path= needs a concrete run"):
        jax.jit(lambda r: mf.simulate(well(r), particles(), path=tmp_path / "run", **FORMS["steps"]).times)(
            1.0
        )
    assert not list(tmp_path.iterdir())


def test_many_parameter_values_share_one_program():
    """A function of a user is traced at every call, and compiled once; a library's is not traced again."""
    traces = []

    def watch(mu, flow):
        traces.append(1)
        return mu.mass

    def go(rate, dt, seed, **observables):
        mu = mf.measures.Particles.sample(mf.domains.Euclidean(1), jr.key(seed), 3)
        energy = mf.energies.MMD(mf.kernels.Gaussian(rate), particles())
        flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
        stepper = mf.steppers.Euler(dt)
        return mf.simulate(flow, mu, stepper=stepper, steps=8, save_every=4, observables=observables)

    values = [(2.0, 0.05, 1), (0.5, 0.2, 2), (1.5, 0.01, 3)]
    for observables in ({}, {"m": watch}):
        go(1.0, 0.1, 0, **observables)
        programs, structures = set(compiled._by_trace), set(compiled._by_structure)
        for numbers in values:
            go(*numbers, **observables)
        assert set(compiled._by_trace) == programs and set(compiled._by_structure) == structures
        assert bool(structures)
    assert len(traces) == 2 * (1 + len(values))


# Failures


@pytest.mark.parametrize("save_every", [1, 2, 5])
def test_a_nan_at_a_known_step(save_every, dtype):
    """Unit speed from 0 in steps of 1/8 crosses the edge 0.7 in step 6."""
    mu = mf.measures.Particles(jnp.zeros((2, 1), dtype))
    flow = wasserstein(Cliff(jnp.asarray(0.7)))
    with pytest.raises(mf.SimulationError) as caught:
        mf.simulate(
            flow,
            mu,
            stepper=mf.steppers.Euler(0.125),
            steps=10,
            save_every=save_every,
            observables={"second": second_moment, "count": lambda mu, flow: jnp.int32(7)},
        )
    run = caught.value.run
    last = 5 // save_every * save_every
    assert int(run.failed_at) == 6 and int(run.status) == codes.NO_VALUE
    assert f"step 6, after the saved time t = {last * 0.125:g}" in str(caught.value)
    assert "too large" in str(caught.value)
    good = np.asarray(run.observables["steps"]) * 0.125 == np.asarray(run.times)
    assert good.sum() == last // save_every + 1
    for name in ("energy", "second", "dissipation", "mass"):
        assert np.array_equal(np.isfinite(run.observables[name]), good)
    # The measure stays at the last good step, also between two saved times.
    np.testing.assert_array_equal(
        run.measures.points[~good], np.full((10 // save_every + 1 - good.sum(), 2, 1), 0.625)
    )
    np.testing.assert_array_equal(run.final.points, 0.625)
    assert np.array_equal(np.asarray(run.observables["status"]) == codes.OK, good)
    assert run.observables["count"].tolist() == [7] * (10 // save_every + 1)


def test_failure_without_throw_inside_jit_and_at_the_start():
    stiff = {"stepper": mf.steppers.Euler(1.0), "steps": 400, "throw": False}
    run = mf.simulate(well(1e8), particles("float32"), **stiff)
    assert int(run.status) == codes.NON_FINITE and np.all(np.isfinite(run.final.points))
    # |1 - 1e8|^k overflows float32 when k passes 38.5 / 8, and V = rate x^2 / 2 before that.
    assert 2 <= int(run.failed_at) <= 5
    inside = jax.jit(lambda r: mf.simulate(well(r), particles("float32"), **stiff))(1e8)
    assert int(inside.failed_at) == int(run.failed_at)
    with pytest.raises(mf.SimulationError, match="could not start"):
        mf.simulate(
            wasserstein(Cliff(jnp.asarray(-1.0))), particles(), stepper=mf.steppers.Euler(0.1), steps=2
        )


def test_a_failed_solve_is_named_before_its_nan():
    x = jnp.array([[1.0], [1.0]])
    energy = mf.energies.ReducedRisk(mf.features.ReLU(), x, jnp.array([0.0, 1.0]), lam=0.0)
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    with pytest.raises(mf.SimulationError, match="interpolant"):
        mf.simulate(flow, particles(), stepper=mf.steppers.Euler(0.1), steps=2)


def test_budget_and_underflow_of_adaptive_steps():
    with pytest.raises(mf.SimulationError, match="max_steps"):
        mf.simulate(well(1e4), particles(), t1=1.0, max_steps=10)
    # x' = 1 up to a cliff: no step size crosses it.
    run = mf.simulate(
        wasserstein(Cliff(jnp.asarray(0.5))), mf.measures.Particles(jnp.zeros((1, 1))), t1=1.0, throw=False
    )
    assert int(run.status) in (codes.STEP_UNDERFLOW, codes.NO_VALUE)
    assert 0.49 < float(run.final.points[0, 0]) <= 0.5


def test_a_failing_cell_leaves_the_others_untouched_bit_for_bit():
    def go(edge):
        flow = wasserstein(Cliff(edge))
        mu = mf.measures.Particles(jnp.zeros((2, 1)))
        return mf.simulate(flow, mu, stepper=mf.steppers.Heun(0.125), steps=10, throw=False)

    batch = jax.jit(jax.vmap(go))
    healthy = batch(jnp.array([10.0, 20.0, 30.0]))
    mixed = batch(jnp.array([10.0, 0.7, 30.0]))
    assert mixed.status.tolist() == [0, codes.NO_VALUE, 0]
    keep = lambda run: jax.tree.map(lambda a: np.asarray(a)[[0, 2]], eqx.filter(run, eqx.is_array))
    same(keep(healthy), keep(mixed))


# Noise


def test_noise_depends_on_seed_step_and_particle_only():
    energy = mf.energies.Potential(Well(jnp.asarray(1.0))) + 0.5 * mf.energies.Entropy()
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    go = lambda mu, seed, every: mf.simulate(
        flow, mu, stepper=mf.steppers.EulerMaruyama(0.01), steps=20, save_every=every, key=jr.key(seed)
    )
    points = particles().points
    base = go(particles(), 0, 10)
    np.testing.assert_allclose(go(particles(), 0, 1).final.points, base.final.points, rtol=1e-13)
    assert not np.allclose(go(particles(), 1, 10).final.points, base.final.points)
    padded = mf.measures.Particles(jnp.concatenate([points, points]), jnp.array([1 / 3] * 3 + [0.0] * 3))
    np.testing.assert_allclose(go(padded, 0, 10).final.points[:3], base.final.points, rtol=1e-13)


def test_ornstein_uhlenbeck_reaches_its_stationary_variance():
    energy = mf.energies.Potential(Well(jnp.asarray(1.0))) + 0.5 * mf.energies.Entropy()
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.zeros((4000, 1)))
    run = mf.simulate(
        flow, mu, stepper=mf.steppers.EulerMaruyama(0.05), save_at=[5.0], key=jr.key(3), save_measures=False
    )
    # Euler-Maruyama of x' = -x + sqrt(2 T) dW is stationary at T / (1 - dt / 2); four standard errors.
    variance = 0.5 / (1 - 0.025)
    assert abs(float(np.var(run.final.points)) - variance) < 4 * variance * np.sqrt(2 / 4000)
