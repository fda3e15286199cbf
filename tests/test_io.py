"""Files: atomic writes, arrays back bit by bit, damaged and foreign files, identity, netCDF."""

import functools
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
from mfjax._engine import files
from mfjax._engine.datasets import write_dataset
from mfjax._engine.files import (
    Directory,
    ForeignRun,
    RunDirectoryError,
    read_arrays,
    write_arrays,
    write_atomically,
)
from mfjax._engine.identity import closed_over, described, numbers_of_run, step_program, text_of


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
    with pytest.raises(ForeignRun, match=r"holds a run of mfjax 0\.1\.0, which this version cannot continue"):
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
    opened(tmp_path, MANIFEST, False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.rglob("*.tmp"))


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
            "double": ("x", np.array([0.1, np.nan, -0.0])),
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
        for name in ("double", "single", "half", "wide", "narrow", "flag", "x"):
            np.testing.assert_array_equal(back[name].values, data[name].values)
        assert back["double"].dtype == np.float64 and back["single"].dtype == np.float32
        np.testing.assert_array_equal(back["wave_real"] + 1j * back["wave_imag"], data["wave"])


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
    from mfjax._engine.run import is_reserved

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
