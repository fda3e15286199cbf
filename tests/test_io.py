"""Files: atomic writes, arrays back bit by bit, damaged and foreign files, identity, netCDF."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest
import xarray as xr

import mfjax as mf
from mfjax._engine import directory as files
from mfjax._engine.directory import (
    Directory,
    ForeignRun,
    RunDirectoryError,
    read_arrays,
    write_arrays,
)
from mfjax._engine.identity import closed_over, described, numbers_of_run, step_program, text_of
from mfjax._files import write_atomically
from mfjax._results.datasets import read_dataset, write_dataset

pytestmark = pytest.mark.core


def test_arrays_come_back_bit_by_bit(tmp_path):
    tree = {
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
        "half": jnp.arange(3, dtype=ml_dtypes.bfloat16),
        "key": jr.key(5, impl="rbg"),
        "keys": jr.split(jr.key(1), 3),
        "number": (jnp.float32(1.5), jnp.int32(-3), jnp.array(True)),
        "empty": jnp.zeros((0, 2)),
    }
    back = read_arrays(write_arrays(tmp_path / "a.npz", tree), tree)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            assert jr.key_impl(a) == jr.key_impl(b)
            a, b = jr.key_data(a), jr.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("like", [jnp.zeros(2), jnp.zeros(3, jnp.float32), (jnp.zeros(3), jnp.zeros(3))])
def test_other_shapes_are_foreign(tmp_path, like):
    path = write_arrays(tmp_path / "a.npz", jnp.zeros(3))
    with pytest.raises(ForeignRun, match=r"a\.npz holds"):
        read_arrays(path, like)


@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.9])
def test_a_damaged_file_is_named(tmp_path, position):
    path = write_arrays(tmp_path / "a.npz", jnp.arange(100.0))
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: int(position * len(content))])
    with pytest.raises(ValueError, match=r"a\.npz is damaged .* restore it"):
        read_arrays(path, jnp.arange(100.0))
    # A flipped bit in the numbers is found by the checksum.
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        read_arrays(path, jnp.arange(100.0))
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.npz is missing"):
        read_arrays(path, jnp.arange(100.0))


def test_a_parser_that_fails_beside_another_thread_is_asked_again(tmp_path, monkeypatch):
    """CPython 3.11 raises SystemError now and then: no reason to call a file damaged."""
    path, load, calls = write_arrays(tmp_path / "a.npz", jnp.arange(3.0)), np.load, []

    def failing(times):
        def flaky(path):
            calls.append(path)
            if len(calls) <= times:
                raise SystemError("AST constructor recursion depth mismatch (before=42, after=39)")
            return load(path)

        return flaky

    monkeypatch.setattr(np, "load", failing(2))
    np.testing.assert_array_equal(read_arrays(path, jnp.zeros(3)), jnp.arange(3.0))
    assert len(calls) == 3
    monkeypatch.setattr(np, "load", failing(10**9))
    with pytest.raises(RunDirectoryError, match="SystemError"):
        read_arrays(path, jnp.zeros(3))


def test_every_fault_of_a_directory_is_of_one_kind(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_arrays(tmp_path / "a.npz", jnp.zeros(1))
    assert issubclass(ForeignRun, RunDirectoryError) and issubclass(RunDirectoryError, ValueError)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "a", lambda file: file.write(b"old"))

    def broken(file):
        file.write(b"half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, broken)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


# What a run is known by

GLOBAL = 1.0


class Hidden:
    """An object that hides a number."""

    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return self.a * x @ x


def reads_a_global(x):
    return GLOBAL * x @ x


def potential_run(function, **options):
    flow = mf.flows.Wasserstein(mf.energies.Potential(function), mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jnp.array([[1.0, 2.0]]))
    options = {"stepper": mf.steppers.Euler(0.1), "steps": 4} | options
    return mf.Simulation(flow, mu, **options)


def known_by(sim):
    step = step_program(lambda sim: sim, sim)
    return text_of(step), numbers_of_run(sim) | closed_over(step)


DATA = np.arange(2000.0).reshape(1000, 2)
DIFFERENT = {
    "a constant": (lambda: lambda x: 2 * x @ x, lambda: lambda x: 3 * x @ x),
    "a closure": (lambda: Hidden(1.0).__call__, lambda: Hidden(2.0).__call__),
    "an object": (lambda: Hidden(1.0), lambda: Hidden(2.0)),
    "an operation": (lambda: jnp.linalg.norm, lambda: jnp.sum),
    "a partial": (
        lambda: functools.partial(lambda a, x: a * x @ x, 2.0),
        lambda: functools.partial(lambda a, x: a * x @ x, 3.0),
    ),
    "data": (
        lambda: lambda x: jnp.mean(jnp.asarray(DATA) @ x),
        lambda: lambda x: jnp.mean(jnp.asarray(DATA + 1) @ x),
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_run_is_known_by_its_program_and_its_numbers(kind):
    make, other = DIFFERENT[kind]
    same, different = known_by(potential_run(make())), known_by(potential_run(other()))
    assert known_by(potential_run(make())) == same != different


def test_a_global_is_what_it_is_now(monkeypatch):
    first = known_by(potential_run(reads_a_global))
    monkeypatch.setitem(globals(), "GLOBAL", 2.0)
    assert known_by(potential_run(reads_a_global)) != first


def test_names_and_numbers_of_steps_do_not_matter():
    def quadratic(x):
        return 2 * x @ x

    renamed = jax.jit(lambda point: 2 * point @ point)
    named = jax.jit(quadratic)
    base = known_by(potential_run(named))
    assert known_by(potential_run(renamed)) == base
    assert known_by(potential_run(named, steps=8)) == base
    assert known_by(potential_run(named, stepper=mf.steppers.Euler(0.2))) != base
    assert known_by(potential_run(named, observables={"m": lambda mu, flow: mu.mass})) != base


def test_the_identity_is_the_same_in_another_process():
    program = """
import sys, zlib; sys.path.insert(0, "tests")
import jax; jax.config.update("jax_enable_x64", True)
import test_io
print(zlib.crc32(repr(test_io.known_by(test_io.potential_run(test_io.reads_a_global))).encode()))
"""
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=pathlib.Path(mf.__file__).parent.parent,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (jnp.asarray(0.1), "0.1 (float64)"),
        (jnp.asarray([1, 2]), "[1, 2] (int64[2])"),
        (jnp.zeros((3, 3)), "float64[3, 3] with digest 4f24e0ba2ff3b1f1"),
    ],
)
def test_numbers_are_described(array, text):
    assert described(array).split(" with")[0] == text.split(" with")[0]
    assert described(array) != described(array + 1)
    assert described(jr.key(0)) != described(jr.key(1))


# Directories


MANIFEST = {"numbers": {"flow.energy.lam": "0.1 (float64)"}, "environment": {"jax": "1", "numpy": "2"}}


def opened(path, manifest, resume, text=None):
    """A directory, checked and claimed, and let go."""
    directory = Directory(path)
    stored = directory.check(manifest, resume)
    if text is not None:
        directory.check_program(text)
    with directory:
        directory.claim(manifest, text)
    return stored


def test_a_directory_is_claimed_once(tmp_path):
    path = tmp_path / "deep" / "run"
    assert opened(path, MANIFEST, False, "a\nb") is None
    with pytest.raises(ValueError, match=r"run already holds a run: pass resume=True"):
        opened(path, MANIFEST, False)
    assert opened(path, MANIFEST, True, "a\nb")["numbers"] == MANIFEST["numbers"]
    other = MANIFEST | {"environment": {"jax": "9", "numpy": "2"}}
    with pytest.raises(ForeignRun, match="environment jax is 1 there and 9 here"):
        opened(path, other, True)
    other = MANIFEST | {"numbers": {"flow.energy.lam": "0.2 (float64)"}}
    with pytest.raises(ForeignRun, match=r"flow\.energy\.lam is 0\.1 .*there and 0\.2 .*here"):
        opened(path, other, True)
    with pytest.raises(ForeignRun, match=r"program differs, in line 2 of program\.txt: b there and c here"):
        opened(path, MANIFEST, True, "a\nc")
    manifest = files.read_json(path / "manifest.json")
    files.write_json(path / "manifest.json", {k: v for k, v in manifest.items() if k != "format"})
    with pytest.raises(ForeignRun, match=r"holds a run in format 1 of another version"):
        opened(path, MANIFEST, True)


def test_a_second_process_is_kept_out(tmp_path):
    first = Directory(tmp_path)
    with first:
        first.claim(MANIFEST)
        with pytest.raises(RunDirectoryError, match=rf"is being written by process {os.getpid()} on "):
            Directory(tmp_path).claim(MANIFEST)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json"]
    opened(tmp_path, MANIFEST, True)


def test_a_directory_without_manifest(tmp_path):
    # What a kill between the first two operations leaves, and a user's own files, are no obstacle.
    (tmp_path / "parts").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".checkpoint.npz.17.tmp").write_bytes(b"half")
    (tmp_path / "parts" / ".000001.npz.17.tmp").write_bytes(b"half")
    (tmp_path / "cell-00002" / "parts").mkdir(parents=True)
    (tmp_path / "cell-00002" / "parts" / ".000008.npz.17.tmp").write_bytes(b"half")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".checkpoint.npz.18.tmp").write_bytes(b"of another run")
    (tmp_path / ".mine.tmp").write_text("mine")
    opened(tmp_path, MANIFEST, False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.rglob("*.tmp")) == [".checkpoint.npz.18.tmp", ".mine.tmp"]


@pytest.mark.parametrize("name", ["results.nc", "checkpoint.npz"])
@pytest.mark.parametrize("resume", [False, True])
def test_results_of_unknown_origin_are_kept(tmp_path, name, resume):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match=rf"holds {name} and no manifest\.json: pass another path"):
        opened(tmp_path, MANIFEST, resume)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(ValueError, match="file is a file: pass a directory"):
        opened(file, MANIFEST, True)
    with pytest.raises(ValueError, match=r"cannot write to .*Not a directory"):
        opened(file / "run", MANIFEST, False)
    with pytest.raises(ValueError, match="cannot write to /proc/mfjax"):
        opened("/proc/mfjax", MANIFEST, False)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        opened(tmp_path, MANIFEST, True)


# netCDF


def test_netcdf_holds_what_the_dataset_holds(tmp_path):
    data = xr.Dataset(
        {
            "exact": ("x", np.array([0.1, np.nan, -0.0])),
            "single": ("x", np.array([0.1, 2, 3], np.float32)),
            "half": ("x", np.array([0.5, 2, 3], np.float16)),
            "wide": ("x", np.array([1, 2, 2**40])),
            "narrow": ("x", np.array([1, 2, -3])),
            "flag": ("x", np.array([True, False, True])),
            "wave": ("x", np.exp(1j * np.arange(3))),
        },
        coords={"x": [10, 20, 2**33]},
    )
    path = write_dataset(data, tmp_path / "a.nc")
    with xr.open_dataset(path) as back:
        for name in ("exact", "single", "half", "wide", "narrow", "flag", "x"):
            np.testing.assert_array_equal(back[name].values, data[name].values)
        assert back["exact"].dtype == np.float64 and back["single"].dtype == np.float32
        np.testing.assert_array_equal(back["wave_real"] + 1j * back["wave_imag"], data["wave"])
    whole = read_dataset(path)
    assert set(whole.variables) >= set(data.variables)
    for name, array in data.variables.items():
        assert whole[name].dtype == array.dtype
        assert whole[name].values.tobytes() == array.values.tobytes()


def test_a_run_survives_netcdf(tmp_path):
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x / 2), mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jr.normal(jr.key(0), (3, 2)), marks={"u": jnp.arange(3.0)})
    watch = {
        "mean": lambda mu, flow: mu.integrate(mu.points),
        "pair": lambda mu, flow: {"a": mu.mass, "b": mu.mass},
    }
    run = mf.simulate(flow, mu, stepper=mf.steppers.Euler(0.1), steps=6, save_every=3, observables=watch)
    with xr.open_dataset(run.save(tmp_path / "new" / "run.nc")) as data:
        np.testing.assert_array_equal(data["time"], run.times)
        np.testing.assert_array_equal(data["points"], run.measures.points)
        np.testing.assert_array_equal(data["mark_u"], run.measures.marks["u"])
        np.testing.assert_array_equal(data["mean"], run.observables["mean"])
        np.testing.assert_array_equal(data["pair_b"], run.observables["pair"]["b"])
        np.testing.assert_array_equal(data["energy"], run.observables["energy"])
        assert data["points"].dims == ("time", "particle", "coordinate")
        assert data["energy"].attrs["long_name"].startswith("energy of the flow")
        assert data.attrs["status"] == 0


# Names of observables


TAKEN = ["energy", "time", "times", "points", "weights", "save", "particle", "final_points", "mark_u"]


def watched(**watch):
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x / 2), mf.domains.Euclidean(2))
    mu = mf.measures.Particles(jnp.ones((3, 2)), marks={"u": jnp.ones((3, 4)), "u_0": jnp.ones(3)})
    return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(0.1), steps=2, observables=watch)


@pytest.mark.parametrize("name", TAKEN)
def test_names_of_results_are_reserved(name, tmp_path):
    from mfjax._results.run import is_reserved

    assert is_reserved(name)
    with pytest.raises(ValueError, match=f"{name}.*choose another"):
        mf.simulate(watched(**{name: lambda mu, flow: mu.mass}), path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_of_observables_must_not_meet(tmp_path):
    mass = lambda mu, flow: mu.mass
    pair = lambda mu, flow: {"points": mu.mass, "b": mu.mass}
    for watch in ({"a_b": mass, "a": pair}, {"final": pair}):
        with pytest.raises(ValueError, match=r"would be stored as '(a_b|final_b|final_points)', a name that"):
            mf.simulate(watched(**watch), path=tmp_path / "run")
        with pytest.raises(ValueError, match="a name that is taken"):
            mf.sweep(lambda s, watch=watch: watched(**watch), s=[1.0])
    assert not (tmp_path / "run").exists()


def test_an_axis_never_has_the_name_of_an_array(tmp_path):
    """An array of the name of its own axis would be the scale of that axis."""
    run = mf.simulate(watched(x=lambda mu, flow: mu.points, x_0=lambda mu, flow: mu.mass))
    with xr.open_dataset(run.save(tmp_path / "run.nc")) as data:
        np.testing.assert_array_equal(data["x"], run.observables["x"])
        np.testing.assert_array_equal(data["x_0"], run.observables["x_0"])
        np.testing.assert_array_equal(data["mark_u"], run.measures.marks["u"])
        np.testing.assert_array_equal(data["mark_u_0"], run.measures.marks["u_0"])


# Files of results


class Ring(mf.domains.Domain):
    """A domain of a user: one circle of length two, without names."""

    dim: int = 1

    @property
    def axes(self):
        return (mf.domains.Axis(0.0, 2.0, closed=True),)

    def sample_point(self, key, dtype=float):
        return jr.uniform(key, (1,), dtype, 0.0, 2.0)

    def contains(self, x):
        return jnp.all((x >= 0) & (x < 2))

    def retract(self, x, v):
        return jnp.mod(x + v, 2.0)


LAYERS = mf.domains.Product(
    mf.domains.Frozen(mf.domains.Interval(0.0, 1.0)),
    mf.domains.Zonal(2),
    mf.domains.Noiseless(mf.domains.Torus(1)),
)
PLACES = {
    "circle": (mf.domains.Sphere(1), 5),
    "torus": (mf.domains.Torus(2, 3.0), (4, 5)),
    "box": (mf.domains.Box([0.0, -1.0, 2.0], [1.0, 1.0, 5.0]), (4, 5, 6)),
    "interval": (mf.domains.Interval(-1, np.float32(2.5)), 4),
    "signed": (mf.domains.Signed(mf.domains.Torus(1)), 4),
    "sphere": (mf.domains.Sphere(2), None),
    "sphere of cells": (mf.domains.Sphere(2), (6, 5)),
    "two spheres of cells": (mf.domains.Signed(mf.domains.Sphere(2)), 8),
    "zones": (mf.domains.Zonal(3), 6),
    "layers": (LAYERS, (4, 5, 6)),
    "space": (mf.domains.Euclidean(4), None),
}


def made(domain, n=None, **options):
    """A run of a measure with marks; on a grid where `n` says how fine."""
    energy = mf.energies.Potential(lambda x: jnp.sum(jnp.sin(x)))
    marks = {"u": jnp.arange(1.0, 3.0)[None, :]}
    if n is None:
        mu = mf.measures.Particles.sample(domain, jr.key(0), 3)
        stepper, energy = mf.steppers.Euler(0.1), 0.5 * energy
    else:
        mu = mf.measures.Grid(domain, n)
        mu, stepper = (
            mu.with_weights(mu.weights * (1 + jnp.arange(mu.size) / mu.size)),
            mf.steppers.Euler(1e-3),
        )
    mu = mu.with_marks(**{k: jnp.tile(v, (mu.size, 1)) for k, v in marks.items()})
    watch = {"λ": lambda mu, flow: mu.mass, "even": lambda mu, flow: jnp.arange(2) == 0}
    watch["wave"] = lambda mu, flow: jnp.exp(1j * mu.points[:2, 0])
    options = {"observables": watch, "steps": 2} | options
    return mf.simulate(mf.flows.Wasserstein(energy, domain), mu, stepper=stepper, **options)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.slow_cases(
    "True-two spheres of cells",
    "True-layers",
    "True-sphere of cells",
    "False-sphere of cells",
    "True-space",
    "False-circle",
    "True-zones",
    "False-interval",
    "False-layers",
    "False-two spheres of cells",
    "True-box",
    "True-signed",
    "True-interval",
    "True-circle",
    "False-torus",
    "False-box",
    "False-signed",
    "True-torus",
    "True-sphere",
)
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("kept", [True, False])
def test_a_run_is_loaded_bit_for_bit(name, kept, tmp_path):
    domain, n = PLACES[name]
    run = made(domain, n, save_measures=kept)
    back = mf.load(run.save(tmp_path / "new" / "run.nc"))
    assert_equal(back.times, jnp.asarray(run.times))
    assert_equal(back.observables, jax.tree.map(np.asarray, run.observables))
    assert_equal(back.final, run.final)
    assert back.final.mass.shape == ()
    if kept:
        for i in range(3):
            assert_equal(back.measure(i), run.measure(i))
    else:
        assert back.measures is None
    assert_equal(back.domain, domain)
    assert back.settings == run.settings and back.describe() == run.describe()
    # Written again it is the same file.
    assert back.save(tmp_path / "b.nc").read_bytes() == (tmp_path / "new" / "run.nc").read_bytes()


def test_a_failed_run_and_a_run_directory_are_loaded(tmp_path):
    energy = mf.energies.Potential(lambda x: jnp.where(x[0] < 0.75, jnp.nan, 1.0) * x[0])
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu, stepper = mf.measures.Particles(jnp.ones((1, 1))), mf.steppers.Euler(0.1)
    run = mf.simulate(flow, mu, stepper=stepper, steps=4, throw=False, path=tmp_path / "run")
    back = mf.load(tmp_path / "run")
    assert back.describe() == run.describe() and "stopped at step" in back.describe()
    assert_equal(back.measure(4), run.measure(4))
    assert back.settings["numbers"] == {"stepper.dt": 0.1}
    (tmp_path / "begun").mkdir()
    with pytest.raises(ValueError, match=r"results\.nc does not exist: a run there has not ended"):
        mf.load(tmp_path / "begun")


def test_a_grid_has_its_shape_its_places_and_its_units(tmp_path):
    run = made(*PLACES["box"])
    with xr.open_dataset(run.save(tmp_path / "run.nc")) as data:
        assert data["weights"].dims == data["density"].dims == ("time", "x_0", "x_1", "x_2")
        assert data["density"].attrs["units"] == "mass / length^3"
        np.testing.assert_allclose(data["x_2"], [2.25, 2.75, 3.25, 3.75, 4.25, 4.75])
        volume = 0.25 * 0.4 * 0.5
        np.testing.assert_allclose(data["density"] * volume, data["weights"], rtol=1e-14)
        np.testing.assert_allclose(data["density"][-1].values.ravel(), run.final.density, rtol=1e-15)
        assert data["points"].sel(x_0=0.625, x_1=0, x_2=4.75, method="nearest").values.tolist() == [
            0.625,
            pytest.approx(0.0, abs=1e-15),
            4.75,
        ]
        assert data["mark_u"].dims[:4] == ("time", "x_0", "x_1", "x_2")
        assert data["coordinate"].values.tolist() == ["x_0", "x_1", "x_2"]
        assert data.attrs["flow"] == "Wasserstein" and data.attrs["stepper"] == "Euler"
        assert json.loads(data.attrs["numbers"]) == {"stepper.dt": 0.001}
        assert json.loads(data.attrs["lengths"]) == [1.0, 2.0, 3.0]
    circle = made(*PLACES["circle"]).to_xarray()
    np.testing.assert_allclose(circle["angle"], 2 * np.pi * (np.arange(5) + 0.5) / 5)
    assert circle["density"].attrs["units"] == "mass / rad" and circle["angle"].attrs["units"] == "rad"
    signed = made(*PLACES["signed"]).to_xarray()
    assert signed["density"].dims == ("time", "species", "x")
    assert signed["species"].values.tolist() == [-1, 1] and signed["x"].values.tolist() == [
        0.125,
        0.375,
        0.625,
        0.875,
    ]


def test_names_of_axes_give_way_to_observables(tmp_path):
    watch = {"angle": lambda mu, flow: mu.mass, "density": lambda mu, flow: 2 * mu.mass}
    run = made(*PLACES["circle"], observables=watch)
    data = run.to_xarray()
    assert data["angle"].dims == data["density"].dims == ("time",)
    assert data["density_"].dims == ("time", "angle_")
    back = mf.load(run.save(tmp_path / "run.nc"))
    assert set(back.observables) == set(run.observables)
    assert_equal(back.final, run.final)


def test_what_went_through_a_transformation_has_no_origin(tmp_path):
    run = made(*PLACES["circle"])
    assert run.settings["energy"] == ["Potential"] and run.domain is not None
    other = jax.tree.map(lambda leaf: leaf, run)
    assert other.domain is None and other.settings == {}
    data = other.to_xarray()
    assert data["density"].dims == ("time", "axis") and "axis" not in data.coords
    assert_equal(mf.load(other.save(tmp_path / "run.nc")).final, run.final)
    jitted = jax.jit(lambda w: made_from(w))(run.measure(0).weights)
    assert jitted.domain is None


def made_from(weights):
    domain, n = PLACES["circle"]
    mu = mf.measures.Grid(domain, n).with_weights(weights)
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x[0]), domain)
    return mf.simulate(flow, mu, stepper=mf.steppers.Euler(1e-3), steps=1)


def test_a_domain_of_a_user_is_given(tmp_path):
    run = made(Ring())
    path = run.save(tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"run on a .*Ring, which is not a domain of mfjax: pass load\("):
        mf.load(path)
    back = mf.load(path, Ring())
    assert_equal(back.final, run.final)
    assert isinstance(back.domain, Ring)


@pytest.mark.slow_cases("grid")
@pytest.mark.parametrize("place", ["grid", "particles"])
def test_a_table_is_loaded_bit_for_bit(place, tmp_path):
    domain, n = PLACES["torus"]

    def cell(dt, kind):
        energy = mf.energies.Potential(lambda x: jnp.sum(getattr(jnp, kind)(x)))
        mu = mf.measures.Particles.sample(domain, jr.key(0), 3)
        mu = mf.measures.Grid(domain, n) if place == "grid" else mu
        flow = mf.flows.Wasserstein(energy, domain)
        return mf.Simulation(flow, mu, stepper=mf.steppers.Euler(dt), steps=2)

    table = mf.sweep(cell, dt=[1e-3, 2e-3], kind=["sin", "cos"], path=tmp_path / "sweep")
    back = mf.load(tmp_path / "sweep")
    assert back.axes == table.axes and back.result_axes == table.result_axes
    assert_equal(back.values, table.values)
    assert back.attributes["first_cell"]["numbers"]["stepper.dt"] == 1e-3
    assert back.labels == table.labels and back.coordinates == table.coordinates
    xr.testing.assert_identical(back.to_xarray(), table.to_xarray())
    if place == "grid":
        data = table.to_xarray()
        assert data["final_density"].dims == ("dt", "kind", "x_0", "x_1")
        np.testing.assert_allclose(data["final_density"].sum(["x_0", "x_1"]) * 9 / 20, 1, rtol=1e-12)


def test_a_table_of_different_grids_stays_flat():
    def cell(period):
        domain = mf.domains.Torus(1, period)
        flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: 0 * x[0]), domain)
        return mf.Simulation(
            flow, mf.measures.Grid.uniform(domain, 4), stepper=mf.steppers.Euler(0.1), steps=1
        )

    data = mf.sweep(cell, period=[1.0, 2.0]).to_xarray()
    assert data["final_weights"].dims == ("period", "cell") and "final_density" not in data


# Other formats


@pytest.mark.parametrize("ending", [".h5", ".vtk", ".pkl", ""])
def test_endings_without_a_format_are_refused(ending, tmp_path):
    run = made(*PLACES["space"], observables={})
    with pytest.raises(ValueError, match=rf"written as \.nc, \.mat, \.csv, \.pvd, got 'run{ending}'"):
        run.save(tmp_path / f"run{ending}")
    assert not list(tmp_path.iterdir())


def test_matlab_reads_a_run(tmp_path):
    from scipy.io import loadmat

    run = made(*PLACES["torus"])
    found = loadmat(run.save(tmp_path / "run.mat"))
    np.testing.assert_array_equal(found["weights"][-1].ravel(), run.final.weights)
    np.testing.assert_array_equal(found["wave"], run.observables["wave"])
    np.testing.assert_array_equal(found["u03bb"].ravel(), run.observables["λ"])
    assert found["attributes"]["flow"][0, 0].tolist() == ["Wasserstein"]
    same = made(
        *PLACES["space"], observables={"a b": lambda mu, flow: mu.mass, "a_b": lambda mu, flow: mu.mass}
    )
    with pytest.raises(ValueError, match="'a_b' in run2"):
        same.save(tmp_path / "run2.mat")


def test_observables_are_written_as_text(tmp_path):
    import pandas as pd

    run = made(*PLACES["torus"])
    frame = pd.read_csv(run.save(tmp_path / "run.csv"), index_col="time")
    np.testing.assert_allclose(frame["energy"], run.observables["energy"], rtol=1e-15)
    np.testing.assert_array_equal(frame["even_1"], run.observables["even"][:, 1])
    np.testing.assert_allclose(frame.index, run.times, rtol=1e-15)
    assert not [name for name in frame if name.startswith(("points", "weights", "density", "mark"))]
    table = mf.sweep(lambda a, b: {"sum": a + b, "two": jnp.stack([a, b])}, a=[0.5, 1.0], b=[2.0])
    frame = pd.read_csv(table.save(tmp_path / "table.csv"))
    assert list(frame) == ["a", "b", "sum", "two_0", "two_1"] and frame["sum"].tolist() == [2.5, 3.0]


def test_paraview_reads_a_grid_and_particles(tmp_path):
    from xml.etree import ElementTree

    def arrays(path):
        found = ElementTree.parse(path).iter("DataArray")
        return {a.get("Name"): np.asarray(a.text.split(), float) for a in found}

    run = made(*PLACES["torus"])
    collection = ElementTree.parse(run.save(tmp_path / "run.pvd")).getroot()
    entries = [(float(e.get("timestep")), e.get("file")) for e in collection.iter("DataSet")]
    assert [t for t, _ in entries] == run.times.tolist()
    image = ElementTree.parse(tmp_path / entries[-1][1]).find("ImageData")
    assert image.get("WholeExtent") == "0 4 0 5 0 1"
    assert image.get("Origin") == "0.0 0.0 0.0" and image.get("Spacing").split()[0] == "0.75"
    found = arrays(tmp_path / entries[-1][1])
    # The first axis runs fastest there.
    np.testing.assert_allclose(found["density"].reshape(5, 4).T.ravel(), run.final.density, rtol=1e-15)
    np.testing.assert_array_equal(found["mark_u"], run.final.marks["u"].ravel())
    run = made(*PLACES["sphere"])
    run.save(tmp_path / "points.pvd")
    found = arrays(tmp_path / "points_00002.vtp")
    np.testing.assert_array_equal(found["points"].reshape(3, 3), run.final.points)
    assert found["offsets"].tolist() == [1, 2, 3] and found["connectivity"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="up to three dimensions, and there are 4"):
        made(*PLACES["space"]).save(tmp_path / "space.pvd")
    with pytest.raises(ValueError, match="measures of a run, and there are none"):
        made(*PLACES["sphere"], save_measures=False).save(tmp_path / "none.pvd")


def test_foreign_files_are_not_loaded(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"a\.nc is no netCDF file of mfjax"):
        mf.load(tmp_path / "a.nc")
    write_dataset(xr.Dataset({"x": ("t", np.zeros(2))}), tmp_path / "b.nc")
    with pytest.raises(ValueError, match="not written by this version's save: read it by xarray"):
        mf.load(tmp_path / "b.nc")
    with pytest.raises(ValueError, match=r"c\.nc does not exist$"):
        mf.load(tmp_path / "c.nc")
    path = made(*PLACES["circle"], observables={}).save(tmp_path / "d.nc")
    older = xr.load_dataset(path)
    for name, value in older.attrs.items():
        if isinstance(value, str) and '"frozen": []' in value:
            older.attrs[name] = value.replace('"frozen": []', '"frozen": 0')
    write_dataset(older, tmp_path / "older.nc")
    with pytest.raises(ValueError, match=r"of an unreleased version.*make it anew"):
        mf.load(tmp_path / "older.nc")
    with jax.enable_x64(False), pytest.raises(ValueError, match="double precision: load it after"):
        mf.load(path)
