"""Files: atomic writes, arrays back bit by bit, damaged and foreign files, digests, netCDF."""

import dataclasses
import enum
import functools
import os
import pathlib
import subprocess
import sys
import threading
import types
import weakref

import beartype
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import ml_dtypes
import numpy as np
import optax
import pytest
import xarray as xr

import mfjax as mf
from mfjax._engine.files import (
    ForeignRun,
    RunDirectory,
    RunDirectoryError,
    read_arrays,
    write_arrays,
    write_atomically,
    write_dataset,
)
from mfjax._engine.fingerprint import fingerprint


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


# Digests


SCALE = 1.0


def reads_a_global(x):
    return SCALE * x


def own_feature_map(name):
    namespace = {"jnp": jnp, "mf": mf, "__name__": "mine"}
    body = f"class Own(mf.features.FeatureMap):\n def __call__(self, w, x):\n  return jnp.{name}(w @ x)"
    exec(body, namespace)
    return namespace["Own"]()


def closes_over(number):
    return lambda x: number * x


def test_a_digest_sees_every_change(monkeypatch):
    x, y = jnp.ones((3, 2)), jnp.ones(3)
    risk = lambda **k: mf.energies.ReducedRisk(
        k.pop("features", mf.features.ReLU()), x, y, **({"lam": 0.1} | k)
    )
    function = mf.features.Function
    distinct = [
        risk(),
        risk(lam=0.2),
        risk(regularizer=mf.regularizers.Quadratic(1.0)),
        risk(features=mf.features.ReLU(0.5)),
        risk(features=mf.features.Ridge(jnp.tanh)),
        risk(features=mf.features.Ridge(jnp.sin)),
        risk(features=function(lambda w, x: jnp.sin(w @ x))),
        risk(features=function(lambda w, x: jnp.cos(w @ x))),
        risk(features=function(lambda w, x: jnp.sin(w @ x) + 1)),
        risk(features=function(closes_over(1.0))),
        risk(features=function(closes_over(2.0))),
        risk(features=function(functools.partial(jnp.multiply, 2))),
        risk(features=function(functools.partial(jnp.multiply, 3))),
        risk(data_weights=jnp.array([1.0, 0.0, 0.0])),
        mf.domains.Sphere(1),
        mf.domains.Sphere(2),
        mf.steppers.Euler(0.1),
        mf.steppers.Heun(0.1),
        mf.steppers.Optax(optax.sgd(0.1), dt=0.1),
        mf.steppers.Optax(optax.sgd(0.2), dt=0.1),
        mf.steppers.Optax(optax.adam(0.1, b1=0.8), dt=0.1),
        mf.steppers.Optax(optax.adam(0.1, b1=0.9), dt=0.1),
        jr.key(0),
        jr.key(1),
        jnp.zeros(2),
        jnp.zeros(2, jnp.float32),
        jnp.zeros((1, 2)),
        reads_a_global,
        lambda: {"a", "b"},
        lambda: {"a", "c"},
        own_feature_map("sin"),
        own_feature_map("cos"),
    ]
    digests = [fingerprint(value) for value in distinct]
    assert len(set(digests)) == len(digests)
    assert digests == [fingerprint(value) for value in distinct]
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert fingerprint(reads_a_global) not in digests


# How a function may come by a number V.
READERS = {
    "a dictionary": "T = {'a': [V, {'b': (V,)}]}\ndef f(x): return T['a'][0] * x",
    "an inner lambda": "v = V\ndef f(x): return (lambda y: [v * z for z in y])(x)",
    "a class inside": "v = V\ndef f(x):\n  class K:\n    a = v\n  return K.a * x",
    "a chain": "def c(x): return V\ndef b(x): return c(x)\ndef f(x): return b(x)",
    "a default": "def f(x, v=V): return v * x",
    "an attribute": "def f(x): return f.v * x\nf.v = V",
    "jit": "@jax.jit\ndef h(x): return V * x\ndef f(x): return h(x)",
    "filter_jit": "@eqx.filter_jit\ndef h(x): return V * x\ndef f(x): return h(x)",
    "vmap": "g = jax.vmap(lambda x: V * x)\ndef f(x): return g(x)",
    "grad of jit": "g = jax.grad(jax.jit(lambda x: V * x))\ndef f(x): return g(x)",
    "custom_vjp": "@jax.custom_vjp\ndef h(x): return x\nh.defvjp(lambda x: (x, x), lambda r, g: (V * g,))\n"
    "def f(x): return h(x)",
    "a cache": "@functools.cache\ndef h(x): return V * x\ndef f(x): return h(x)",
    "a decorator": "def d(h):\n  @functools.wraps(h)\n  def w(x): return h(x)\n  return w\n"
    "@d\ndef h(x): return V * x\ndef f(x): return h(x)",
    "a partial": "h = functools.partial(lambda v, x: v * x, V)\ndef f(x): return h(x)",
    "an equinox module": "class M(eqx.Module):\n  a: float\n  def __call__(self, x): return self.a * x\n"
    "m = M(V)\ndef f(x): return m(x)",
    "its method": "class M(eqx.Module):\n  @jax.jit\n  def g(self, x): return V * x\nm = M()\n"
    "def f(x): return m.g(x)",
    "a property": "class M:\n  @property\n  def p(self): return V\nm = M()\ndef f(x): return m.p * x",
    "a class": "class S:\n  a = V\ndef f(x): return S.a * x",
    "a parent": "class B:\n  def g(self, x): return V * x\nclass C(B): pass\nc = C()\n"
    "def f(x): return c.g(x)",
    "an object": "class S:\n  def __init__(self): self.a = V\ns = S()\ndef f(x): return s.a * x",
    "slots": "class S:\n  __slots__ = ('a',)\ns = S()\ns.a = V\ndef f(x): return s.a * x",
    "a namespace": "s = types.SimpleNamespace(a=V)\ndef f(x): return s.a * x",
    "a set": "s = {('a', V), frozenset([V])}\ndef f(x): return len(s)",
    "a module": "m = types.ModuleType('m')\nm.sub = types.ModuleType('m.sub')\nm.sub.m = m\n"
    "m.sub.sub = m.sub\nm.sub.a = V\nm.lock = threading.Lock()\ndef f(x): return m.sub.a * x",
    "an import": "m = types.ModuleType('own_settings')\nm.a = V\nsys.modules['own_settings'] = m\n"
    "def f(x):\n  import own_settings\n  return own_settings.a * x",
    "a generator of numbers": "r = np.random.default_rng(int(V))\ndef f(x): return r.normal() * x",
    "an array": "a = np.array([V, None])\ndef f(x): return a[0] * x",
    "a function of numpy": "g = np.sin if V > 2 else np.cos\ndef f(x): return g(x)",
    "a function of jax": "g = jax.nn.relu if V > 2 else jax.nn.silu\ndef f(x): return g(x)",
    "an enumeration": "class E(enum.Enum):\n  A = V\ndef f(x): return E.A.value * x",
    "a dataclass": "@dataclasses.dataclass\nclass E:\n  a: float = V\ndef f(x): return E().a * x",
    "checked types": "@jaxtyping.jaxtyped(typechecker=beartype.beartype)\n"
    "def h(x: int | None = None): return V * x\ng = beartype.beartype(h)\ndef f(x): return g(x) + h(x)",
    "a weak reference": "class K:\n  a = V\nr = weakref.ref(K)\ndef f(x): return r().a * x",
    "a callable": "class C:\n  def __call__(self, x): return V * x\nf = C()",
}
MODULES = (beartype, dataclasses, enum, functools, jax, jaxtyping, sys, threading, types, weakref)


def reader(text, number=0):
    """The function f of a module of one's own with this text, where V is a number."""
    namespace = {"__name__": "own", "eqx": eqx, "jnp": jnp, "np": np} | {m.__name__: m for m in MODULES}
    exec(text.replace("V", repr(number)), namespace)
    return namespace["f"]


@pytest.mark.parametrize("kind", READERS)
def test_a_digest_sees_what_a_function_reads(kind):
    first, second, again = (fingerprint(reader(READERS[kind], v)) for v in (1.5, 2.5, 1.5))
    assert first == again != second


def test_digests_are_those_of_another_process():
    """Order of sets, addresses and hashes of strings differ between processes."""
    program = (
        "import runpy; space = runpy.run_path('tests/test_io.py'); f = space['fingerprint']\n"
        "print([f(space['reader'](text, 1.5)) for text in space['READERS'].values()])"
    )
    root = pathlib.Path(__file__).parents[1]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("made", ["threading.Lock()", "(i for i in range(3))", "{'a': [threading.Lock()]}"])
def test_what_cannot_be_compared_is_refused(made, tmp_path):
    f = reader(f"b = {made}\ndef f(x): return (b, x @ x)[1]")
    with pytest.raises(ValueError, match="of which another process knows nothing"):
        fingerprint(f)
    flow = mf.flows.Wasserstein(mf.energies.Potential(f), mf.domains.Euclidean(1))
    mu, stepper = mf.measures.Particles(jnp.ones((1, 1))), mf.steppers.Euler(0.1)
    with pytest.raises(ValueError, match="leave out path="):
        mf.simulate(flow, mu, stepper=stepper, steps=1, path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_functions_read_other_numbers_is_another(tmp_path):
    text = "@jax.jit\ndef h(x): return T['a'] * x @ x\nT = {'a': V}\ndef f(x): return h(x)"

    def go(number):
        flow = mf.flows.Wasserstein(mf.energies.Potential(reader(text, number)), mf.domains.Euclidean(1))
        mu, stepper = mf.measures.Particles(jnp.ones((1, 1))), mf.steppers.Euler(0.1)
        return mf.simulate(flow, mu, stepper=stepper, steps=2, path=tmp_path / "run", resume=True)

    go(1.0)
    go(1.0)
    with pytest.raises(ForeignRun, match="configuration is"):
        go(2.0)


def test_a_digest_does_not_see_where_and_when_a_function_was_made():
    namespaces = [{}, {}]
    exec("def f(x, k=3):\n    return [i + k for i in x if i in {'p', 'q', 1}]", namespaces[0])
    exec("# moved\n\n\ndef f(x, k=3):\n    return [i + k for i in x if i in {'p', 'q', 1}]", namespaces[1])
    assert fingerprint(namespaces[0]["f"]) == fingerprint(namespaces[1]["f"])
    assert fingerprint(closes_over(1.0)) == fingerprint(closes_over(1.0))
    assert fingerprint(optax.adam(0.1)) == fingerprint(optax.adam(0.1))


def test_a_function_may_reach_itself():
    def countdown(n):
        return n and countdown(n - 1)

    assert fingerprint(countdown) == fingerprint(countdown)


# Directories


MANIFEST = {"configuration": "abc", "chunks": [1, 2], "environment": {"jax": "1", "numpy": "2"}}


def test_a_directory_is_claimed_once(tmp_path):
    path = tmp_path / "deep" / "run"
    assert RunDirectory(path).open(MANIFEST, False) is False
    with pytest.raises(ValueError, match=r"run already holds a run: pass resume=True"):
        RunDirectory(path).open(MANIFEST, False)
    assert RunDirectory(path).open(MANIFEST, True) is False
    other = MANIFEST | {"environment": {"jax": "9", "numpy": "2"}}
    with pytest.raises(ForeignRun, match=r"environment is \{'jax': '1'\} there and \{'jax': '9'\} here"):
        RunDirectory(path).open(other, True)
    with pytest.raises(ForeignRun, match="configuration is abc there and xyz here"):
        RunDirectory(path).open(MANIFEST | {"configuration": "xyz"}, True)


def test_a_directory_without_manifest(tmp_path):
    # What a kill between the first two operations leaves, and a user's own files, are no obstacle.
    (tmp_path / "parts").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".checkpoint.npz.17.tmp").write_bytes(b"half")
    (tmp_path / "parts" / ".000001.npz.17.tmp").write_bytes(b"half")
    RunDirectory(tmp_path).open(MANIFEST, False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["results.nc", "checkpoint.npz"])
@pytest.mark.parametrize("resume", [False, True])
def test_results_of_unknown_origin_are_kept(tmp_path, name, resume):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(ValueError, match=rf"holds {name} and no manifest\.json: pass another path"):
        RunDirectory(tmp_path).open(MANIFEST, resume)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(ValueError, match="file is a file: pass a directory"):
        RunDirectory(file).open(MANIFEST, True)
    with pytest.raises(ValueError, match=r"cannot write to .*Not a directory"):
        RunDirectory(file / "run").open(MANIFEST, False)
    with pytest.raises(ValueError, match="cannot write to /proc/mfjax"):
        RunDirectory("/proc/mfjax").open(MANIFEST, False)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        RunDirectory(tmp_path).open(MANIFEST, True)


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
    with xr.open_dataset(run.save(tmp_path / "run.nc")) as data:
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
