"""Sweeps and runs on several devices, and in several processes, equal those on one; layouts are chosen once.

The number of devices is fixed when JAX starts: what needs several runs in a process of its own.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax._engine import batching as layouts
from mfjax._engine import timing
from mfjax._engine.cells import Cells
from mfjax._engine.programs import Chunk
from mfjax._numerics import compiled

PROGRAM = """
import json, sys
from pathlib import Path
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, jax.random as jr, numpy as np, mfjax as mf
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def flow(lam, seed=0, domain=mf.domains.Sphere(1)):
    x = jr.normal(jr.key(seed + 100), (12, 2))
    energy = mf.energies.ReducedRisk(mf.features.ReLU(0.5), x, jnp.sin(x[:, 0]), lam=lam)
    return mf.flows.Wasserstein(energy, domain)


def cell(lam, seed, width=3):
    mu = mf.measures.Particles.sample(mf.domains.Sphere(1), jr.key(seed), width)
    return mf.Simulation(flow(lam, seed), mu, stepper=mf.steppers.Euler(2**-6), steps=8, save_every=4)


def difference(a, b):
    assert a.values.keys() == b.values.keys()
    return max(float(np.max(np.abs(a[n] - b[n]))) for n in a.values)


AXES = {"lam": [0.1, 0.3, 1.0], "seed": [0, 1]}
"""

SEVERAL_DEVICES = """
figures = {"devices": jax.device_count()}
jax.config.update("jax_disable_most_optimizations", True)
mesh = jax.make_mesh((4,), ("cells",), axis_types=(AxisType.Auto,))
square = jax.make_mesh((2, 2), ("a", "b"))
one = mf.sweep(cell, method="loop", **AXES)

# Six cells on four devices: two are repeated. In two groups, the second of which is padded.
whole = mf.sweep(cell, method="map", mesh=mesh, path=OUT / "whole", **AXES)
figures["map"] = difference(whole, one)
figures["layout"] = whole.attributes["layout"]["all"]
figures["vmap"] = difference(mf.sweep(cell, method="vmap", batch_size=4, mesh=square, **AXES), one)

arrays = lambda lam, seed: {"x": lam * jnp.arange(3.0) + seed, "constant": jnp.ones(2)}
loop = mf.sweep(arrays, method="loop", **AXES)
figures["arrays"] = difference(mf.sweep(arrays, mesh=mesh, **AXES), loop)
# All devices of the process, unless another method is asked for.
own = mf.sweep(arrays, **AXES)
figures["arrays on all"] = difference(own, loop)
figures["layout of arrays"] = own.attributes["layout"]["all"]

# Stopped and continued, with its state on four devices again.
import mfjax._engine.host as driver
write = driver.write_arrays


def stopped(go):
    left = [4]

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("full")
        return write(*arguments)

    driver.write_arrays = full
    try:
        go()
    except OSError:
        return True
    finally:
        driver.write_arrays = write


figures["stopped"] = stopped(
    lambda: mf.sweep(cell, method="map", mesh=mesh, path=OUT / "stopped", **AXES)
)
again = mf.sweep(cell, method="map", mesh=mesh, path=OUT / "stopped", resume=True, **AXES)
figures["resumed"] = difference(again, whole)
try:
    mf.sweep(cell, path=OUT / "stopped", resume=True, mesh=jax.make_mesh((2,), ("c",)), **AXES)
except ValueError as error:
    figures["other mesh"] = str(error)

# The particle axis: the same call, with the measure divided among the devices.
auto = jax.make_mesh((4,), ("particles",), axis_types=(AxisType.Auto,))
particles = NamedSharding(auto, PartitionSpec("particles"))
explicit = NamedSharding(jax.make_mesh((4,), ("particles",)), PartitionSpec("particles"))
gauss = mf.measures.Particles.sample(mf.domains.Sphere(1), jr.key(9), 10)
mmd = mf.flows.Wasserstein(mf.energies.MMD(mf.kernels.Gaussian(0.5), gauss), mf.domains.Sphere(1))
for name, system, width in (("varpro", flow(0.1), 24), ("weak ridge", flow(1e-3), 512), ("mmd", mmd, 24)):
    mu = mf.measures.Particles.sample(mf.domains.Sphere(1), jr.key(0), width)
    options = {"stepper": mf.steppers.Euler(2**-6), "steps": 8, "save_every": 4}
    runs = [mf.simulate(system, m, **options) for m in (mu, jax.device_put(mu, particles))]
    figures[name] = max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in (
        [r.final.points for r in runs], *([r.observables[n] for r in runs] for n in ("energy", "dissipated"))
    ))
    figures[name + " moved"] = float(jnp.max(jnp.abs(runs[0].final.points - mu.points)))
    figures[name + " devices"] = len(runs[1].final.points.sharding.device_set)
    if name == "mmd":
        mu = jax.device_put(mu, particles)
        kept = mf.simulate(system, mu, path=OUT / "whole run", **options)
        run = lambda mu, resume: mf.simulate(system, mu, path=OUT / "run", resume=resume, **options)
        figures["stopped run"] = stopped(lambda: run(mu, False))
        again = run(mu, True)
        figures["same bits"] = bool(np.array_equal(again.final.points, kept.final.points))
        try:
            run(mf.measures.Particles(np.asarray(mu.points)), True)
        except ValueError as error:
            figures["other division"] = str(error)
try:
    mf.simulate(mmd, jax.device_put(mu, explicit), **options)
except ValueError as error:
    figures["explicit"] = str(error)
print(json.dumps(figures))
"""

SEVERAL_PROCESSES = """
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(coordinator_address=ADDRESS, num_processes=2, process_id=PROCESS)
import os
import mfjax._engine.directory as files

renamed, replace = [], os.replace
os.replace = lambda a, b: (renamed.append(str(b)), replace(a, b))
mesh = jax.make_mesh((jax.device_count(),), ("cells",), axis_types=(AxisType.Auto,))
table = mf.sweep(cell, mesh=mesh, path=OUT / "sweep", **AXES)
written = len(renamed)
again = mf.sweep(cell, mesh=mesh, path=OUT / "sweep", resume=True, **AXES)
alone = mf.sweep(cell, method="loop", **AXES)
arrays = lambda lam, seed: lam * jnp.arange(3.0) + seed
together = mf.sweep(arrays, mesh=mesh, **AXES)
figures = {
    "processes": jax.process_count(),
    "devices": jax.device_count(),
    "table": difference(table, alone),
    "read back": difference(again, table),
    "arrays": difference(together, mf.sweep(arrays, method="loop", **AXES)),
    "written": written,
}
print(json.dumps(figures))
"""


def started(source, tmp_path, devices, **names):
    """A process that runs the program on so many virtual devices."""
    settings = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    place = f"from pathlib import Path\nOUT = Path({str(tmp_path)!r})\n"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", place + settings + PROGRAM + source]
    root = Path(mf.__file__).parent.parent
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, cwd=root, **pipes)


def figures_of(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return figures_of(started(SEVERAL_DEVICES, tmp_path_factory.mktemp("devices"), 4))


def test_cells_divided_among_devices_equal_those_of_one(several):
    print(several)
    assert several["devices"] == 4
    for name in ("map", "vmap", "arrays", "arrays on all"):
        assert several[name] <= 1e-12, name
    layout = several["layout of arrays"]
    assert (layout["method"], layout["devices"], layout["workers"]) == ("map", 4, 1)
    assert layout["reason"] == "a mesh of processors"
    # What is killed loses one group: a cell a device.
    assert layout["batch_size"] == 4
    layout = several["layout"]
    assert (layout["method"], layout["batch_size"], layout["devices"]) == ("map", 8, 4)


def test_a_divided_sweep_is_continued_with_the_same_bits(several):
    assert several["stopped"] and several["resumed"] == 0
    assert "layout devices is 4 there and 2 here" in several["other mesh"]


@pytest.mark.parametrize("system", ["varpro", "weak ridge", "mmd"])
def test_particles_divided_among_devices_give_the_same_numbers(several, system):
    assert several[f"{system} devices"] == 4 and several[f"{system} moved"] > 1e-3
    assert several[system] <= 1e-12


def test_a_run_with_divided_particles_is_continued_where_it_was(several):
    assert several["stopped run"] and several["same bits"]
    assert "divisions is" in several["other division"]


def test_an_explicit_mesh_is_told(several):
    assert "AxisType.Auto" in several["explicit"]


@pytest.mark.slow
def test_two_processes_make_the_table_of_one_and_the_first_writes_it(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [started(SEVERAL_PROCESSES, tmp_path, 2, ADDRESS=address, PROCESS=i) for i in range(2)]
    first, second = map(figures_of, pair)
    print(first, second)
    for figures in (first, second):
        assert figures["processes"] == 2 and figures["devices"] == 4
        assert figures["table"] <= 1e-12 and figures["read back"] == 0 and figures["arrays"] <= 1e-12
    # Manifest, layout, manifest of the run, two parts with their checkpoints, and the table.
    assert first["written"] >= 8 and second["written"] == 0
    assert (tmp_path / "sweep" / "results.nc").exists()


# One device


TARGET = jnp.arange(6.0).reshape(3, 2)


def cell(lam, seed):
    energy = lam * mf.energies.MMD(mf.kernels.Gaussian(2.0), mf.measures.Particles(TARGET))
    mu = mf.measures.Particles(jr.normal(jr.key(seed), (4, 2)))
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(2))
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(2**-3), steps=4, save_every=2)


AXES = {"lam": [0.1, 0.3, 1.0], "seed": [0, 1]}


@pytest.fixture(scope="module")
def looped():
    return mf.sweep(cell, method="loop", **AXES)


def assert_close(a, b):
    assert a.values.keys() == b.values.keys()
    for name in a.values:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.slow_cases("threads")
@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "workers": 1}], ids=["threads", "groups"])
def test_a_compiled_map_equals_the_loop(options, looped):
    assert np.ptp(looped["energy"]) > 1e-3
    assert_close(mf.sweep(cell, method="map", **options, **AXES), looped)


def timed(monkeypatch, fastest):
    """Clocks by which one layout is the fastest."""
    real = timing._expected

    def expected(layout, *rest):
        assert real(layout, *rest) > 0
        return 1.0 if layout.method == fastest else 2.0

    monkeypatch.setattr(timing, "_expected", expected)


@pytest.mark.slow
@pytest.mark.parametrize("fastest", ["loop", "map", "vmap"])
def test_the_layout_is_measured_once_reported_and_kept(fastest, tmp_path, monkeypatch, looped):
    timed(monkeypatch, fastest)
    table = mf.sweep(cell, method="measure", path=tmp_path / "s", **AXES)
    layout = table.attributes["layout"]["all"]
    assert layout["method"] == fastest and f"{fastest} in " in layout["reason"]
    assert json.loads((tmp_path / "s" / "all" / "manifest.json").read_text())["layout"] == layout
    assert json.loads(table.to_xarray().attrs["layout"])["all"] == layout
    assert_close(table, looped)

    def again(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(sys.modules["mfjax.sweep"], "fastest", again)
    resumed = mf.sweep(cell, path=tmp_path / "s", resume=True, **AXES)
    assert resumed.attributes == table.attributes
    for name in table.values:
        np.testing.assert_array_equal(resumed[name], table[name])


def test_the_rule_is_the_same_at_every_call(looped):
    first, second = (mf.sweep(cell, **AXES) for _ in range(2))
    assert first.attributes == second.attributes
    layout = first.attributes["layout"]["all"]
    assert layout["method"] == "loop" and layout["reason"] == "the rule on a processor"
    for name in first.values:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_array_equal(first[name], looped[name])


@pytest.mark.slow
def test_groups_fit_into_the_free_memory(monkeypatch):
    whole = mf.sweep(cell, method="vmap", workers=1, **AXES)
    assert whole.attributes["layout"]["all"]["batch_size"] == 6
    needed = []
    real = layouts.needed_memory

    def watched(*arguments):
        needed.append(real(*arguments))
        return needed[-1]

    monkeypatch.setattr(layouts, "needed_memory", watched)
    mf.sweep(cell, method="vmap", workers=1, **AXES)
    # Half of it may be filled: room for less than all six cells.
    monkeypatch.setattr(layouts, "free_memory", lambda mesh: 1.4 * needed[0])
    table = mf.sweep(cell, method="vmap", workers=1, **AXES)
    size = table.attributes["layout"]["all"]["batch_size"]
    assert size < 6 and needed[-1] <= 0.7 * needed[0]
    assert_close(table, whole)


@pytest.mark.slow
def test_batches_on_cpu_fit_into_the_cache_unless_their_size_is_asked_for(monkeypatch):
    whole = mf.sweep(cell, method="loop", **AXES)
    monkeypatch.setattr(layouts, "CACHE", 1)
    for asked, taken in ((None, 2), (6, 6)):
        table = mf.sweep(cell, method="vmap", workers=1, batch_size=asked, **AXES)
        assert table.attributes["layout"]["all"]["batch_size"] == taken
        assert_close(table, whole)


def test_data_are_shared_in_every_layout():
    """Forty cells need the memory of their own states, not forty copies of the data."""
    x = jnp.ones((20_000, 2))

    def fn(lam, seed):
        flow = mf.flows.Wasserstein(
            mf.energies.Potential(lambda p: lam * jnp.mean(jnp.tanh(x @ p))), mf.domains.Euclidean(2)
        )
        mu = mf.measures.Particles(jr.normal(jr.key(seed), (1, 2)))
        return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=1)

    cells = Cells(fn, {}, {"lam": np.ones(40), "seed": np.arange(40)})
    for method in ("map", "vmap"):
        needed = cells.programs(method).memory(cells.inputs_like(40), Chunk(0, 1))
        assert needed[1].argument_size_in_bytes < 1.2 * x.nbytes


@pytest.mark.slow
def test_a_sweep_of_the_same_structure_finds_its_programs():
    longer = lambda lam, seed: mf.Simulation(
        cell(lam, seed).flow, cell(lam, seed).measure, stepper=mf.steppers.Euler(2**-3), steps=4
    )

    def made(fn=cell, **options):
        before = set(compiled._by_trace)
        mf.sweep(fn, workers=1, **options, **AXES)
        return set(compiled._by_trace) - before

    # Whatever other tests have left.
    compiled._by_trace.clear()
    made()
    assert not made() and not made(lambda lam, seed: cell(lam, seed))
    assert made(longer) and made(method="map", batch_size=3)


@pytest.mark.slow
def test_wrong_meshes_are_told(looped):
    mesh = jax.make_mesh((1,), ("cells",))
    with pytest.raises(ValueError, match="a loop has one cell in a program"):
        mf.sweep(cell, method="loop", mesh=mesh, **AXES)
    assert_close(mf.sweep(cell, mesh=mesh, **AXES), looped)


@pytest.mark.wrong_calls
def test_what_is_no_mesh_is_told():
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh .*got int"):
        mf.sweep(cell, mesh=4, **AXES)
