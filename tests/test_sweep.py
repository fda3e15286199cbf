"""Sweeps: one trace for each bucket, cells equal to solo runs, isolation of failures, padding, disk."""

import functools
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import xarray as xr

import mfjax as mf
from mfjax import status as codes
from mfjax._engine.cells import Cells
from mfjax._engine.identity import step_program
from mfjax._engine.programs import OfForm
from mfjax._numerics import compiled

LAMS, WIDTHS, SEEDS = [0.03, 0.1, 0.3, 1.0], [3, 5], range(3)
METHODS = ["loop", "vmap"]
ALL_METHODS = ["loop", "map", "vmap"]


class Counted:
    """A function of cells that counts its traces; its other calls see the numbers at the ends of the axes."""

    def __init__(self, function):
        self.function, self.calls, self.ends = function, 0, []

    def __call__(self, **cell):
        if any(isinstance(value, jax.core.Tracer) for value in cell.values()):
            self.calls += 1
        else:
            self.ends.append(cell)
        return self.function(**cell)


def reduced_risk(lam, width, seed, n=None, steps=16):
    """Variable projection on the circle; data depend on the seed. `n` of `width` slots are used."""
    domain = mf.domains.Sphere(1)
    x = jr.normal(jr.key(seed + 100), (12, 2))
    energy = mf.energies.ReducedRisk(mf.features.ReLU(0.5), x, jnp.sin(x[:, 0]), lam=lam)
    mu = mf.measures.Particles.sample(domain, jr.key(seed), width if n is None else n, capacity=width)
    flow = mf.flows.Wasserstein(energy, domain)
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(2**-6), steps=steps, save_every=4)


class Slope(eqx.Module):
    edge: jax.Array

    def __call__(self, x):
        return jnp.where(x[0] > self.edge, jnp.nan, -x[0])


def cliff(edge, seed, width=2):
    """Unit speed in steps of 1/8, NaN beyond `edge`."""
    flow = mf.flows.Wasserstein(mf.energies.Potential(Slope(jnp.asarray(edge))), mf.domains.Euclidean(1))
    mu = mf.measures.Particles(0.01 * jr.normal(jr.key(seed), (width, 1)))
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.125), steps=8)


def assert_tables_equal(a, b):
    assert a.values.keys() == b.values.keys()
    for name in a.values:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def solo():
    """Every lam at every width, with the seeds in turn."""
    runs = {}
    for j, width in enumerate(WIDTHS):
        for i, lam in enumerate(LAMS):
            seed = (i + j) % len(SEEDS)
            runs[i, j, seed] = mf.simulate(reduced_risk(lam, width, SEEDS[seed]))
    return runs


@pytest.mark.slow_cases("loop")
@pytest.mark.parametrize("method", METHODS)
def test_every_cell_equals_its_solo_run(solo, method):
    fn = Counted(reduced_risk)
    table = mf.sweep(fn, method=method, lam=LAMS, width=WIDTHS, seed=SEEDS)
    few = Counted(reduced_risk)
    mf.sweep(few, method=method, lam=LAMS[:2], width=WIDTHS, seed=[0])
    # Cells share their programs.
    assert fn.calls == few.calls and len(fn.ends) == 2 * len(WIDTHS)
    assert fn.ends[0] == {"lam": 0.03, "width": 3, "seed": 0}
    assert fn.ends[1] == {"lam": 1.0, "width": 3, "seed": 2}
    assert table["energy"].shape == (4, 2, 3, 5) and table["final_points"].shape == (4, 2, 3, 5, 2)
    worst = 0.0
    for (i, j, k), run in solo.items():
        for name in ("energy", "dissipation", "dissipated"):
            expected = np.asarray(run.observables[name])
            worst = max(worst, np.max(np.abs(table[name][i, j, k] - expected)) / np.max(np.abs(expected)))
        points = table["final_points"][i, j, k, : WIDTHS[j]]
        worst = max(worst, np.max(np.abs(points - run.final.points)))
        np.testing.assert_array_equal(table["times"][i, j, k], run.times)
        assert np.all(np.isnan(table["final_points"][i, j, k, WIDTHS[j] :]))
        assert np.all(table["final_weights"][i, j, k, WIDTHS[j] :] == 0)
    print(f"{method}: largest relative difference from the solo runs {worst:.1e}")
    assert worst <= 1e-12


@pytest.mark.slow_cases("loop")
@pytest.mark.parametrize("method", METHODS)
def test_identical_cells_give_identical_results(method):
    # `copy` enters no formula, and is traced like any other number.
    def fn(copy, lam):
        sim = reduced_risk(lam, 5, 0)
        return eqx.tree_at(lambda s: s.measure.points, sim, sim.measure.points + 0 * copy)

    table = mf.sweep(fn, method=method, copy=range(6), lam=[0.1])
    for name in table.values:
        np.testing.assert_array_equal(table[name], np.broadcast_to(table[name][:1], table[name].shape))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_diverging_cell_leaves_the_others_untouched(method):
    healthy = mf.sweep(cliff, method=method, edge=[10.0, 20.0, 30.0], seed=[0, 1])
    with pytest.warns(
        RuntimeWarning, match=r"2 of 6 cells stopped early; the first, edge = 0\.5, seed = 0: .*too large"
    ):
        mixed = mf.sweep(cliff, method=method, edge=[10.0, 0.5, 30.0], seed=[0, 1])
    assert [cell for cell, _ in mixed.failed] == [{"edge": 0.5, "seed": 0}, {"edge": 0.5, "seed": 1}]
    assert healthy.failed == []
    for name in healthy.values:
        np.testing.assert_array_equal(mixed[name][[0, 2]], healthy[name][[0, 2]])
    status = mixed["status"][1, 0]
    # The slope beyond the edge is finite.
    assert status[0] == codes.OK and status[-1] == codes.NO_VALUE
    assert np.array_equal(np.isnan(mixed["energy"][1, 0]), status != codes.OK)
    with pytest.raises(mf.SimulationError, match="2 of 6 cells") as caught:
        mf.sweep(cliff, method=method, edge=[10.0, 0.5, 30.0], seed=[0, 1], throw=True)
    assert_tables_equal(caught.value.run, mixed)


@pytest.mark.slow_cases("4")
@pytest.mark.parametrize("batch_size", [4, 100])
def test_groups_of_a_batch_agree(batch_size):
    axes = {"edge": [10.0, 20.0], "seed": SEEDS}
    whole = mf.sweep(cliff, method="vmap", **axes)
    table = mf.sweep(cliff, method="vmap", batch_size=batch_size, **axes)
    for name in ("energy", "final_points"):
        np.testing.assert_allclose(table[name], whole[name], rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_a_padded_width_is_a_traced_number():
    """n particles in five slots: one program for all n, and each equal to the run without padding."""
    table = mf.sweep(lambda n, seed: reduced_risk(0.1, 5, seed, n=n), n=[2, 3, 5], seed=[0, 1])
    assert list(table.attributes["layout"]) == ["all"]
    for i, n in enumerate([2, 3, 5]):
        for seed in (0, 1):
            run = mf.simulate(reduced_risk(0.1, n, seed))
            np.testing.assert_allclose(table["energy"][i, seed], run.observables["energy"], rtol=1e-12)
            np.testing.assert_allclose(table["final_points"][i, seed, :n], run.final.points, atol=1e-12)
            np.testing.assert_allclose(table["mass"][i, seed], 1, rtol=1e-14)


def test_what_no_parameter_reaches_is_shared():
    data = jnp.ones((50, 2))

    def fn(lam):
        energy = mf.energies.ReducedRisk(mf.features.ReLU(), data, jnp.ones(50), lam=lam)
        flow = mf.flows.Wasserstein(energy, mf.domains.Sphere(1))
        mu = mf.measures.Particles.sample(mf.domains.Sphere(1), jr.key(0), 4)
        return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=2)

    cells = Cells(fn, {}, {"lam": np.array([0.1, 0.2, 0.3])})
    batch, one = (cells.assembled(cells.inputs(chosen)) for chosen in (np.arange(3), 1))
    assert batch.flow.energy.lam.shape == (3,) and one.flow.energy.lam == 0.2
    assert batch.flow.energy.data.x is one.flow.energy.data.x
    assert batch.flow.energy.data.x.shape == (50, 2) and batch.measure.points.shape == (4, 2)
    assert sum(cells.form.varying) == 1


def test_parameters_promote_nothing():
    """A cell's number is weakly typed, as the Python number of a solo run: single precision stays single."""
    seen = []

    def fn(lam, shift):
        out = lam * jnp.ones(2, jnp.float32) + shift
        seen.append(out.dtype)
        return out

    assert mf.sweep(fn, lam=[0.1, 0.2], shift=[1, 2])["value"].dtype == np.float32
    assert set(seen) == {jnp.dtype(jnp.float32)}


def well(function, *, steps=8, save_every=4, **options):
    flow = mf.flows.Wasserstein(mf.energies.Potential(function), mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jnp.array([[1.0, 2.0], [-1.0, 0.5]]))
    options |= {"steps": steps, "save_every": save_every}
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), **options)


def nested(a):
    """A function that reaches a number by closures, defaults, jit, and a partial."""
    inner = lambda y: a * y

    def outer(shift, x, scale=(a, 2 * a), *, add=a):
        return shift * jax.jit(lambda y: inner(y))(x @ x) + scale[0] * x[0] + scale[1] * x[1] + add

    return functools.partial(outer, a)


CLOSURES = {
    "a lambda": lambda a: well(lambda x: a * x @ x),
    "nested": lambda a: well(nested(a)),
    "an observable": lambda a: well(jnp.linalg.norm, observables={"w": lambda mu, flow: a * mu.points}),
    "a gradient": lambda a: well(lambda x: jnp.sum(jax.grad(lambda y: a * jnp.sum(y**3))(x))),
    "a kernel": lambda a: well(functools.partial(lambda rate, x: jnp.exp(-rate * x @ x), 2 * a)),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CLOSURES)
def test_a_function_may_close_over_a_number(kind, method, tmp_path):
    values = [0.5, 0.25, 1.0]
    table = mf.sweep(CLOSURES[kind], method=method, a=values, path=tmp_path / "s")
    for i, a in enumerate(values):
        run = mf.simulate(CLOSURES[kind](a))
        for name in ("energy", *({"w"} & run.observables.keys())):
            np.testing.assert_allclose(table[name][i], run.observables[name], rtol=1e-12)
    assert_tables_equal(mf.sweep(CLOSURES[kind], a=values, path=tmp_path / "s", resume=True), table)
    with pytest.raises(ValueError, match="holds another run: its program differs"):
        mf.sweep(lambda a: CLOSURES[kind](2 * a), a=values, path=tmp_path / "s", resume=True)


class Hidden:
    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return self.a * x @ x


def static_field(a):
    """A number in a function that is a static field."""
    feature = mf.features.Function(lambda w, x: a * w @ x)
    energy = mf.energies.ReducedRisk(feature, jnp.ones((2, 2)), jnp.ones(2), lam=0.1)
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jnp.ones((1, 2)))
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=4)


def neuron(activation):
    """A run of which the activation is a static field."""
    energy = mf.energies.ReducedRisk(mf.features.Ridge(activation), jnp.ones((2, 2)), jnp.ones(2), lam=0.1)
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(2))
    mu = mf.measures.Particles(-jnp.ones((1, 2)))
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=4)


GLOBAL = 1.0
HIDDEN = {
    "an object": lambda a: well(Hidden(a)),
    "a static field": static_field,
    "a list": lambda a: well(lambda x, kept=[a]: kept[0] * x @ x),
    "a global": lambda a: well(lambda x: a * GLOBAL * x @ x),
    # Of libraries alone, which hold a number all the same.
    "a partial": lambda a: well(functools.partial(jnp.vdot, a * jnp.ones(2))),
    "a static module": lambda a: neuron(eqx.nn.PReLU(a)),
    "a static partial": lambda a: neuron(eqx.Partial(jnp.multiply, a)),
}


@pytest.mark.slow_cases(
    "an object-vmap",
    "a static module-loop",
    "a static field-vmap",
    "a partial-loop",
    *(f"{kind}-{method}" for kind in ("a static field", "an object") for method in ("loop", "map")),
    *(f"{kind}-{method}" for kind in ("a partial", "a static module") for method in ("map", "vmap")),
    *(f"a static partial-{method}" for method in ("loop", "map", "vmap")),
)
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.core
@pytest.mark.parametrize("method", ALL_METHODS)
@pytest.mark.parametrize("kind", HIDDEN)
def test_a_number_that_hides_is_that_of_its_cell(kind, method, tmp_path):
    fn, values = HIDDEN[kind], [1.0, 2.0]
    path = tmp_path / "s" if kind == "an object" else None
    table = mf.sweep(fn, method=method, a=values, path=path)
    for i, a in enumerate(values):
        run = mf.simulate(fn(a))
        np.testing.assert_allclose(table["energy"][i], run.observables["energy"], rtol=1e-12)
    if path is not None:
        assert_tables_equal(mf.sweep(fn, a=values, path=path, resume=True), table)


def tanh_by_a_rule(factor):
    """A function of a library, with a rule of differentiation that reads a number elsewhere."""
    tanh = jax.custom_jvp(jnp.tanh)

    @tanh.defjvp
    def rule(primals, tangents):
        value = tanh(*primals)
        return value, factor() * (1 - value**2) * tangents[0]

    return tanh


@pytest.mark.slow
def test_a_rule_of_differentiation_may_read_a_global(monkeypatch):
    activation = tanh_by_a_rule(lambda: GLOBAL)
    with_lam = lambda sim, lam: eqx.tree_at(lambda sim: sim.flow.energy.lam, sim, lam)
    for value in (1.0, 2.0, 1.0):
        monkeypatch.setitem(globals(), "GLOBAL", value)
        table = mf.sweep(lambda lam: with_lam(neuron(activation), lam), lam=[0.1, 0.2])
        run = mf.simulate(neuron(tanh_by_a_rule(lambda value=value: value)))
        np.testing.assert_allclose(table["energy"][0], run.observables["energy"], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_an_array_in_a_static_field_may_change():
    slope = np.array(1.0)
    activation = eqx.Partial(jnp.multiply, slope)
    fn = lambda lam: eqx.tree_at(lambda sim: sim.flow.energy.lam, neuron(activation), jnp.asarray(lam))
    for value in (1.0, 2.0, 1.0):
        slope[...] = value
        table, run = mf.sweep(fn, lam=[0.1, 0.2]), mf.simulate(neuron(lambda z, value=value: value * z))
        np.testing.assert_allclose(table["energy"][0], run.observables["energy"], rtol=1e-12)


@pytest.mark.slow_cases("loop")
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_the_loop_of_what_libraries_made_is_traced_once(method):
    """Another number, start, or number within a field of the same structure: the loop is the same."""

    def call(scale, exponent, seed):
        mu = mf.measures.Particles.sample(mf.domains.Euclidean(1), jr.key(seed), 4)
        energy = mf.energies.MMD(mf.kernels.Gaussian(0.5), mf.measures.Particles(mu.points + 1))

        def fn(lam):
            flow = mf.flows.Wasserstein(lam * scale * energy, mf.domains.Euclidean(1))
            return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1 * 2.0**exponent), steps=4)

        return mf.sweep(fn, method=method, lam=[0.1, 0.2]), [mf.simulate(fn(lam)) for lam in (0.1, 0.2)]

    loops = lambda: {key for key in compiled._by_structure if isinstance(key[0][0], OfForm)}
    compiled.clear()
    call(1.0, 0, 0)
    made = loops()
    assert made
    for numbers in [(2.0, 0, 0), (1.0, 1, 1), (3.0, -1, 2)]:
        table, runs = call(*numbers)
        for energy, run in zip(table["energy"], runs, strict=True):
            np.testing.assert_allclose(energy, run.observables["energy"], rtol=1e-12)
    assert loops() == made


@pytest.mark.slow_cases("vmap", "map")
@pytest.mark.parametrize("method", ["loop", "map", pytest.param("vmap", marks=pytest.mark.core)])
def test_a_global_that_changes_between_two_calls(method, monkeypatch):
    fn = HIDDEN["a global"]
    for value in (1.0, 2.0, 1.0):
        monkeypatch.setitem(globals(), "GLOBAL", value)
        table = mf.sweep(fn, method=method, a=[1.0, 0.5])
        solo = lambda a, value=value: mf.simulate(well(lambda x: a * value * x @ x))
        expected = [solo(a).observables["energy"] for a in (1.0, 0.5)]
        np.testing.assert_allclose(table["energy"], expected, rtol=1e-12)


def test_a_result_of_the_library_may_have_empty_fields():
    """The modes of a spectrum are a tangent, of which particles have the points alone."""

    def fn(scale):
        flow = mf.flows.Wasserstein(
            mf.energies.Potential(lambda x: scale * x[0] ** 2), mf.domains.Euclidean(1)
        )
        return mf.linearize(flow, mf.measures.Particles(jnp.zeros((2, 1))))

    table = mf.sweep(fn, scale=[0.5, 1.0])
    np.testing.assert_allclose(table["rates"], [[1.0, 1.0], [2.0, 2.0]])


@pytest.mark.slow_cases("map", "vmap")
@pytest.mark.parametrize("method", ALL_METHODS)
def test_large_arrays_of_closures_are_arguments(method):
    """A hundred megabytes, of which a program would print every number."""
    x = jnp.sin(jnp.arange(12_500_000))

    def fn(a):
        return well(lambda p: a * jnp.mean(x * p[0]) + p @ p / 2, steps=2, save_every=2)

    table = mf.sweep(fn, method=method, a=[1.0, 2.0], workers=1)
    cells = Cells(fn, {}, {"a": np.array([1.0, 2.0])})
    assert len(step_program(cells.simulation, cells.inputs_of_one).text) < 100_000
    for i, a in enumerate((1.0, 2.0)):
        np.testing.assert_allclose(table["energy"][i], mf.simulate(fn(a)).observables["energy"], rtol=1e-12)


def test_numbers_that_decide_structure():
    square = lambda x: x @ x
    with pytest.raises(ValueError, match="'steps' names both an axis and a result"):
        mf.sweep(lambda steps, a: well(square, steps=steps, save_every=1), steps=[2, 4], a=[1.0])
    # Whole numbers that are needed as such are structural by themselves, whatever they are called.
    table = mf.sweep(lambda n, a, m: a * jnp.sum(jnp.ones(n)) + m, n=[2, 4], a=[1.0], m=[0, 1])
    assert table["value"].tolist() == [[[2.0, 3.0]], [[4.0, 5.0]]]
    assert list(table.attributes["layout"]) == ["n-0", "n-1"]
    table = mf.sweep(lambda n: well(square, steps=n, save_every=n), n=[2, 4])
    assert table["steps"][:, -1].tolist() == [2, 4]
    with pytest.raises(ValueError, match=r"the numbers of an axis are traced.*static=\['b'\]$"):
        mf.sweep(lambda a, b: a if b > 1 else -a, a=[1.0], b=[0.5, 2.0])
    table = mf.sweep(lambda a, b: a if b > 1 else -a, static=["b"], a=[1.0], b=[0.5, 2.0])
    assert table["value"].tolist() == [[-1.0, 1.0]]
    with pytest.raises(ZeroDivisionError):
        mf.sweep(lambda n: 1 / 0, n=[2, 4])


def test_an_axis_called_width_may_be_continuous():
    mu = mf.measures.Particles(jnp.array([[0.1], [0.4]]))

    def fn(width):
        energy = mf.energies.Blob(mf.energies.PorousMedium(), width, mf.domains.Euclidean(1))
        return energy(mu)

    table = mf.sweep(fn, width=[0.1, 0.2, 0.4])
    assert list(table.attributes["layout"]) == ["all"]
    np.testing.assert_allclose(table["value"], [fn(w) for w in (0.1, 0.2, 0.4)], rtol=1e-12)


def test_axes_may_have_the_names_of_options():
    table = mf.sweep(lambda method, path: method + path, axes={"method": [1.0, 2.0], "path": [10.0]})
    assert table["value"].tolist() == [[11.0], [12.0]]
    with pytest.raises(ValueError, match="the axis a is given twice"):
        mf.sweep(lambda a: a, axes={"a": [1.0]}, a=[2.0])


def test_numbers_out_of_range_are_told_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match=r"lam must be at least 0, got -1 \(in the cell .*lam = -1\.0"):
        mf.sweep(reduced_risk, lam=[0.1, -1.0], width=[2], seed=[0], path=tmp_path / "s")
    assert not list((tmp_path / "s").glob("*/*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 2**40], "a has a value 1099511627776 beyond int32 here: enable jax_enable_x64"),
        ([1.0, 1e40], r"a has a value 1e\+40 beyond float32"),
        ([1.0, 1.0 + 1e-9], "values that are one number in float32"),
        ([1e-50, 1.0], "a has a value 1e-50 beyond float32"),
        ([0.5, 2**24 + 1], "a has a value 16777217 beyond float32"),
        ([0.5, 2**200], f"a has a value {2**200} beyond float32"),
        ([1.0, "s"], "a mixes texts with other values"),
    ],
)
def test_numbers_that_the_precision_cannot_hold_are_refused(values, message):
    with jax.enable_x64(False), pytest.raises(ValueError, match=message):
        mf.sweep(lambda a: a, a=values)
    if message.startswith("a mixes"):
        return
    np.testing.assert_array_equal(mf.sweep(lambda a: a, a=values)["value"], values)


def test_an_axis_may_be_infinite(tmp_path):
    values = [0.5, np.inf, -np.inf]
    table = mf.sweep(lambda a: jnp.arctan(a), a=values, path=tmp_path / "s")
    np.testing.assert_allclose(table["value"], np.arctan(values))
    again = mf.sweep(lambda a: jnp.arctan(a), a=values, path=tmp_path / "s", resume=True)
    assert_tables_equal(again, table)
    with xr.open_dataset(tmp_path / "s" / "results.nc") as data:
        assert data["value"].sel(a=np.inf) == table["value"][1]
    with pytest.raises(ValueError, match="must be finite"):
        mf.sweep(lambda a: a, a=[1.0, np.nan])


@pytest.mark.slow_cases("vmap")
@pytest.mark.parametrize("method", METHODS)
def test_measures_are_neither_kept_nor_computed(method, tmp_path):
    seen = mf.sweep(cliff, method=method, edge=[10.0, 20.0], seed=[0], path=tmp_path / "s")
    assert seen["final_points"].shape == (2, 1, 2, 1)
    part = next((tmp_path / "s").rglob("parts/*.npz"))
    with np.load(part) as arrays:
        # The saved times, and the observables alone.
        assert len(arrays.files) == 11


@pytest.mark.slow
def test_only_the_cells_of_a_group_are_in_memory():
    """The varying inputs of all cells would be 800 MB; of a group they are 4 MB."""
    rows = 50_000

    def fn(seed):
        x = jr.normal(jr.key(seed), (rows, 10))
        flow = mf.flows.Wasserstein(mf.energies.Potential(Slope(100 + x[0, 0])), mf.domains.Euclidean(1))
        watch = {"mean": Mean(x)}
        mu = mf.measures.Particles(jnp.zeros((1, 1)))
        return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=1, observables=watch)

    most = 0

    class Mean(eqx.Module):
        x: jax.Array

        def __call__(self, mu, flow):
            nonlocal most
            jax.debug.callback(watch)
            return jnp.mean(self.x)

    def watch():
        nonlocal most
        most = max(most, sum(a.nbytes for a in jax.live_arrays() if a.size >= rows))

    mf.sweep(fn, method="vmap", batch_size=2, workers=1, seed=range(20))
    assert 0 < most <= 4 * rows * 10 * 8


@pytest.mark.parametrize("method", METHODS)
def test_without_a_number_that_varies(method):
    table = mf.sweep(lambda kind, copy: well(jnp.linalg.norm), method=method, kind=["a", "b"], copy=[1, 2])
    assert table["energy"].shape == (2, 2, 3) and np.ptp(table["energy"][..., -1]) == 0


def test_an_axis_with_the_name_of_a_result_is_refused_at_once():
    for name in ("energy", "times", "final_points", "particle", "w"):
        watch = {"w": lambda mu, flow: mu.mass}
        with pytest.raises(ValueError, match=f"'{name}' names both an axis and a result"):
            mf.sweep(lambda watch=watch, **cell: well(jnp.linalg.norm, observables=watch), **{name: [1.0]})
    with pytest.raises(ValueError, match="'b' names both"):
        mf.sweep(lambda b: {"b": b}, b=[1.0])
    with pytest.raises(ValueError, match="two results of fn would be called 'a_b'"):
        mf.sweep(lambda s: {"a": {"b": s}, "a_b": s}, s=[1.0])


# Functions that return arrays


def test_results_may_begin_as_those_of_runs_do():
    table = mf.sweep(lambda a: {"final_loss": a, "final_x": jnp.ones(2)}, a=[1.0, 2.0])
    assert table["final_loss"].tolist() == [1.0, 2.0] and table["final_x"].shape == (2, 2)


def test_constants_inside_inner_programs_count(tmp_path):
    def fn(table):
        inner = jax.jit(lambda a: jnp.sum(a * table))
        return lambda a: inner(a)

    first = fn(np.arange(3.0))
    mf.sweep(first, a=[1.0, 2.0], path=tmp_path / "s")
    mf.sweep(fn(np.arange(3.0)), a=[1.0, 2.0], path=tmp_path / "s", resume=True)
    with pytest.raises(ValueError, match="holds another run: its program differs"):
        mf.sweep(fn(2 * np.arange(3.0)), a=[1.0, 2.0], path=tmp_path / "s", resume=True)


@pytest.mark.parametrize("method", METHODS)
def test_arrays(method):
    fn = Counted(lambda a, b: {"sum": a + b, "vector": a * jnp.arange(3.0), "constant": jnp.eye(2)})
    table = mf.sweep(fn, method=method, a=[1.0, 2.0], b=[10, 20, 30])
    alike = mf.sweep(lambda kind: jnp.zeros(()), method=method, kind=["x"]).attributes["layout"]
    reasons = {entry["reason"] for entry in alike.values()}
    assert reasons == {"asked for" if method == "loop" else "no number varies within a bucket"}
    layout = table.attributes["layout"]["all"]
    assert layout["method"] == ("loop" if method == "auto" else method)
    assert (layout["reason"] == "asked for") == (method != "auto")
    assert table["sum"].tolist() == [[11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]
    np.testing.assert_array_equal(
        table["vector"], np.array([1, 2])[:, None, None] * np.ones((1, 3, 1)) * np.arange(3)
    )
    assert table["constant"].shape == (2, 3, 2, 2)
    data = table.to_xarray()
    assert data["vector"].dims == ("a", "b", "vector_0") and data["b"].values.tolist() == [10, 20, 30]
    with pytest.raises(ValueError, match="no result 'som'; there are constant, sum, vector"):
        table["som"]


@pytest.mark.slow
def test_a_run_inside_the_function():
    """Observables of a pure core, without keeping the runs."""

    def fn(lam, seed):
        return mf.simulate(reduced_risk(lam, 3, seed)).observables["energy"][-1]

    table = mf.sweep(fn, lam=LAMS[:2], seed=[0, 1])
    for i in range(2):
        for j in range(2):
            np.testing.assert_allclose(table["value"][i, j], fn(LAMS[i], j), rtol=1e-12)


def test_structural_axes(tmp_path):
    seen = []

    def fn(kind, order, x, flag):
        seen.append((kind, order, flag))
        return getattr(jnp, kind)(x) ** order * (1 if flag else -1)

    table = mf.sweep(
        fn, static=["order"], kind=["sin", "cos"], order=[1, 2], x=[0.0, 0.5, 1.0], flag=[True, False]
    )
    assert set(seen) == {(k, o, f) for k in ("sin", "cos") for o in (1, 2) for f in (True, False)}
    np.testing.assert_allclose(table["value"][1, 1, :, 1], -(np.cos([0.0, 0.5, 1.0]) ** 2))
    with xr.open_dataset(table.save(tmp_path / "new" / "table.nc")) as data:
        assert data["kind"].values.tolist() == ["sin", "cos"]
        np.testing.assert_array_equal(data["value"], table["value"])
        np.testing.assert_allclose(data["value"].sel(kind="sin", order=2, x=0.5, flag=1), np.sin(0.5) ** 2)


def test_objects_as_an_axis(tmp_path):
    regularizers = [mf.regularizers.Quadratic(0.0), mf.regularizers.Quadratic(1.0)]
    table = mf.sweep(lambda f, t: f(t), f=regularizers, t=[1.0, 3.0])
    assert table["value"].tolist() == [[0.5, 4.5], [0.0, 2.0]]
    table.save(tmp_path / "table.nc")


def test_ragged_results_are_refused():
    with pytest.raises(ValueError, match=r"'value' has shape \(2,\) in cell .* and \(1,\) in the first"):
        mf.sweep(lambda width: jnp.zeros(width), width=[1, 2])
    with pytest.raises(ValueError, match="do not both have a result 'a'"):
        mf.sweep(lambda kind: {kind: jnp.zeros(1)}, kind=["a", "b"])


# Disk


@pytest.mark.slow_cases("loop")
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_a_sweep_on_disk_is_read_back(tmp_path, method):
    axes = {"edge": [10.0, 20.0], "width": [1, 2], "seed": [0]}
    fn = lambda edge, width, seed: cliff(edge, seed, width)
    table = mf.sweep(fn, method=method, path=tmp_path / "s", **axes)
    with xr.open_dataset(tmp_path / "s" / "results.nc") as data:
        np.testing.assert_array_equal(data["energy"], table["energy"])
        assert data["energy"].dims == ("edge", "width", "seed", "save")
    # The layout comes from the directory: "auto" is not asked again.
    again = mf.sweep(fn, path=tmp_path / "s", resume=True, **axes)
    assert_tables_equal(again, table)
    with pytest.raises(ValueError, match="already holds a run: pass resume=True"):
        mf.sweep(fn, path=tmp_path / "s", **axes)
    with pytest.raises(ValueError, match=r"layout method is .* there and"):
        mf.sweep(fn, path=tmp_path / "s", resume=True, method="loop" if method == "vmap" else "vmap", **axes)
    with pytest.raises(ValueError, match=r"axes edge is .*20\.0.* there and .*30\.0.* here"):
        mf.sweep(fn, path=tmp_path / "s", resume=True, **(axes | {"edge": [10.0, 30.0]}))
    other = lambda edge, width, seed: cliff(2 * edge, seed, width)
    with pytest.raises(ValueError, match="holds another run: its program differs"):
        mf.sweep(other, path=tmp_path / "s", resume=True, **axes)


@pytest.mark.parametrize("options", [{"method": "loop"}, {"method": "vmap", "batch_size": 2}], ids=METHODS)
def test_array_results_on_disk(tmp_path, options):
    fn = lambda a, b: {"x": jnp.sin(a + b), "y": jnp.arange(2) * a}
    axes = {"a": [1.0, 2.0, 3.0], "b": [0.5]}
    table = mf.sweep(fn, path=tmp_path / "s", **options, **axes)
    np.testing.assert_array_equal(table["y"][:, 0], np.outer(axes["a"], [0, 1]))
    parts = sorted((tmp_path / "s").rglob("parts/*.npz"))
    assert len(parts) == (3 if options["method"] == "loop" else 2)
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    again = mf.sweep(fn, path=tmp_path / "s", resume=True, **axes)
    assert_tables_equal(again, table)
    assert parts[0].stat().st_mtime_ns == kept and parts[1].exists()
    with pytest.raises(ValueError, match="holds another run: its program differs"):
        mf.sweep(
            lambda a, b: {"x": jnp.cos(a + b), "y": jnp.arange(2) * a},
            path=tmp_path / "s",
            resume=True,
            **axes,
        )


def test_one_bar_for_all_cells(capsys):
    mf.sweep(cliff, edge=[10.0, 20.0], seed=[0, 1], progress=True)
    err = capsys.readouterr().err
    shown = [float(n) for n in re.findall(r"([\d.]+) of 4 cells", err)]
    # One bar for all, in parts of cells.
    assert shown == sorted(shown) and shown[-1] == 4 and {n % 1 for n in shown} != {0.0}
    assert set(re.findall(r"of (\d+) cells", err)) == {"4"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.sweep(cliff, edge=[10.0], seed=[0])
    assert capsys.readouterr().err == ""


def test_one_bar_for_all_structures(capsys):
    """The widths of a sweep are programs of their own, and share the bar."""

    def cell(width, lam):
        energy = mf.energies.Potential(lambda x: 0.5 * lam * jnp.sum(x * x))
        flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
        return mf.Simulation(flow, mf.measures.Particles(jnp.ones((width, 1))), **EULER)

    mf.sweep(cell, width=[1, 2], lam=[0.5, 1.0], progress=True, method="vmap")
    shown = re.findall(r"([^\r:]*): +\d+%[^\r]*?([\d.]+) of 4 cells", capsys.readouterr().err)
    assert [name for name, _ in shown if "=" in name][-1] == "width = 2" and float(shown[-1][1]) == 4
    assert any(name.startswith("width = 1") for name, _ in shown)


EULER = {"stepper": mf.steppers.Euler(0.1), "steps": 4}


def stiff(rate):
    energy = mf.energies.Potential(lambda x: 0.5 * rate * jnp.sum(x * x))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    return mf.Simulation(flow, mf.measures.Particles(jnp.ones((1, 1))), **EULER)


def test_a_cell_whose_energy_rises_is_named():
    with pytest.warns(RuntimeWarning, match=r"in 1 of 2 cells .* rate = 25.0, its energy rose from 12.5 to"):
        table = mf.sweep(stiff, rate=[1.0, 25.0])
    # It has completed all the same: (1 - 2.5)^2 = 2.25 a step.
    assert table.failed == []
    increase = table.certificates["largest_increase"]
    assert increase.shape == (2,) and increase[0] == 0
    np.testing.assert_allclose(increase[1], 12.5 * (2.25**4 - 2.25**3), rtol=1e-12)
    with pytest.raises(ValueError, match="certificates are those of runs"):
        _ = mf.sweep(lambda a: a, a=[1.0, 2.0]).certificates


@pytest.mark.slow_cases("vmap")
@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_an_interrupt_says_how_to_go_on(tmp_path, method, monkeypatch):
    """The message of `KeyboardInterrupt`, with the share that was made."""
    from mfjax._engine import progress

    of = progress.Progress.of

    def interrupted(self, size):
        update = of(self, size)

        def once(share):
            update(share)
            if share:
                raise KeyboardInterrupt

        return once

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "of", interrupted)
        place = tmp_path / "sweep"
        with pytest.raises(KeyboardInterrupt, match=r"after 0.*of 2 cells; the same call with resume=True"):
            mf.sweep(stiff, rate=[1.0, 2.0], method=method, path=place, workers=1)
        with pytest.raises(KeyboardInterrupt, match="nothing was kept: pass path="):
            mf.sweep(stiff, rate=[1.0, 2.0], method=method, workers=1)
        with pytest.raises(KeyboardInterrupt, match=r"after 0.1 of 0.4 flow time; the same call with resume"):
            mf.simulate(stiff(1.0), path=tmp_path / "run")
    assert_tables_equal(
        mf.sweep(stiff, rate=[1.0, 2.0], method=method, path=place, resume=True),
        mf.sweep(stiff, rate=[1.0, 2.0], method=method),
    )
    mf.simulate(stiff(1.0), path=tmp_path / "run", resume=True)


class Shifted(mf.features.FeatureMap):
    frequency: jax.Array

    def __call__(self, omega, x):
        return jnp.cos(self.frequency * (omega @ x))


@pytest.mark.slow_cases("{'method': 'map'}")
@pytest.mark.parametrize("options", [{"method": "map"}, {"method": "vmap"}], ids=str)
def test_a_number_of_a_user_promotes_nothing(options):
    """Single precision stays single in a batch, where a cell alone has it so."""
    x = jnp.linspace(-1, 1, 5, dtype="float32")[:, None]

    def fn(frequency):
        energy = mf.energies.ReducedRisk(Shifted(jnp.asarray(frequency)), x, x[:, 0] ** 2, lam=0.1)
        mu = mf.measures.Particles(jnp.array([[0.5], [1.0], [2.0]], "float32"))
        return mf.Simulation(mf.flows.Wasserstein(energy, mf.domains.Euclidean(1)), mu, **EULER)

    alone = mf.sweep(fn, frequency=[1.0, 2.0], method="loop")
    table = mf.sweep(fn, frequency=[1.0, 2.0], **options)
    assert table["final_points"].dtype == alone["final_points"].dtype == np.float32
    np.testing.assert_allclose(table["final_points"], alone["final_points"], rtol=1e-5)


def test_arrays_are_traced_once_for_all_cells(monkeypatch):
    calls = []

    def fn(a):
        calls.append(a)
        return {"x": a**2}

    mf.sweep(fn, a=list(np.arange(1.0, 4.0)), method="loop", workers=1)
    few = len(calls)
    calls.clear()
    mf.sweep(fn, a=list(np.arange(1.0, 33.0)), method="loop", workers=1)
    assert len(calls) == few


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_may_read_a_number_of_its_cell(method):
    """What a table says of the domain is asked of a flow whose function holds a number of the trace."""
    torus = mf.domains.Torus(1)
    heat, wave = mf.energies.Entropy(), mf.energies.Potential(lambda x: jnp.cos(2 * jnp.pi * x[0]))

    def cooled(halving):
        flow = mf.flows.Scheduled(lambda t: mf.flows.Wasserstein(wave + 2 ** (-t / halving) * heat, torus))
        return mf.Simulation(flow, mf.measures.Grid.uniform(torus, 8), stepper=mf.steppers.RK4(1e-3), steps=4)

    table = mf.sweep(cooled, halving=[0.01, 0.1], method=method)
    for i, halving in enumerate((0.01, 0.1)):
        np.testing.assert_allclose(
            table["energy"][i], mf.simulate(cooled(halving)).observables["energy"], rtol=1e-12
        )
    assert table.to_xarray()["final_density"].dims == ("halving", "x")


def test_observables_that_are_not_defined_are_told_of():
    """By name, in a run and in a sweep; not where a run has failed, whose later records are NaN."""
    well = mf.flows.Wasserstein(mf.energies.Potential(lambda x: jnp.sum(x * x)), mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.ones((1, 1)))
    root = lambda floor: lambda mu, flow: jnp.sqrt(mu.points[0, 0] - floor)
    sim = lambda floor, **options: mf.Simulation(
        well, mu, stepper=mf.steppers.Euler(0.1), steps=4, observables={"root": root(floor)}, **options
    )
    with pytest.warns(RuntimeWarning, match=r"but 'root' is NaN at 3 of 5 saved times, first at t = 0.2"):
        mf.simulate(sim(0.7))
    with pytest.warns(RuntimeWarning, match=r"in 1 of 2 cells an observable is not .*floor = 0.7, 'root'"):
        mf.sweep(sim, floor=[0.1, 0.7])
    far = mf.Simulation(
        well,
        mu,
        stepper=mf.steppers.Euler(1e30),
        steps=9,
        observables={"x": lambda mu, flow: mu.points[0, 0]},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert int(mf.simulate(far, throw=False).status) > 0
