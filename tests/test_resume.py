"""kill -9 at any moment, then resume: the same bits as a run that was never interrupted.

Every file operation of a run is interrupted in turn inside one process; and processes are killed at random
moments. Children are forked from a server that has imported the library, so that a kill costs no import.
"""

import io
import itertools
import multiprocessing
import os
import pathlib
import random
import sys
import time

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import _files as atomic
from mfjax._engine import directory as files
from mfjax._engine.programs import Programs

PROGRAM = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, jax.random as jr, mfjax as mf


def spin(x):
    # Work that takes time: a kill can then fall anywhere.
    return 0.5 * jnp.sum(x * x) + jax.lax.fori_loop(0, WORK, lambda i, a: jnp.sin(a), jnp.sum(x)) * 1e-3


def sine(w, x):
    return jnp.sin(w @ x)


def second(mu, flow):
    return mu.integrate(mu.points[:, 0] ** 2)


def simulation(scale, seed):
    energy = scale * mf.energies.Potential(spin) + 0.1 * mf.energies.Entropy()
    if BATCHES:
        # Epochs of 7 / 3 steps, which end between two saved times.
        x, neuron = jnp.linspace(-1.0, 1.0, 7)[:, None], mf.features.Function(sine)
        own, batches = BATCHES == "independent", mf.energies.Batches(3)
        energy = energy + mf.energies.Risk(neuron, x, x[:, 0], batches=batches, independent=own)
    flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    mu = mf.measures.Particles.sample(mf.domains.Euclidean(1), jr.key(seed), 16)
    stepper = mf.steppers.EulerMaruyama(0.01)
    return mf.Simulation(flow, mu, stepper=stepper, steps=STEPS, save_every=STEPS // SAVES,
                         observables={"second": second}, key=jr.key(seed + 1))


def go(kind, path, resume):
    if kind == "run":
        mf.simulate(simulation(1.0, 0), path=path, resume=resume)
    else:
        mf.sweep(simulation, scale=[1.0, 2.0], seed=[0, 1], method=kind, workers=1, path=path, resume=resume)
"""


def namespace(steps=32, work=1, saves=16, batches=""):
    space = {"__name__": "program", "STEPS": steps, "WORK": work, "SAVES": saves, "BATCHES": batches}
    exec(PROGRAM, space)
    return space


def contents(path):
    """Every file that a finished run leaves, byte by byte."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def same_results(path, reference):
    """Bit for bit: the netCDF files, and the arrays of every part and checkpoint, final state included."""
    here, there = contents(path), contents(reference)
    assert here.keys() == there.keys()
    for name in here:
        if name.endswith(".npz"):
            # The zip holds the time of writing.
            with np.load(io.BytesIO(here[name])) as a, np.load(io.BytesIO(there[name])) as b:
                assert a.files == b.files
                for key in a.files:
                    assert a[key].dtype == b[key].dtype and a[key].tobytes() == b[key].tobytes(), (name, key)
        else:
            assert here[name] == there[name], name


# Interruption at every file operation, in one process


class Killed(BaseException):
    pass


SWEEPS_ARE_SLOW = [
    "run",
    pytest.param("loop", marks=pytest.mark.slow),
    pytest.param("vmap", marks=pytest.mark.slow),
]


@pytest.mark.slow_cases("run")
@pytest.mark.parametrize("kind", SWEEPS_ARE_SLOW)
def test_a_kill_at_any_file_operation(kind, tmp_path, monkeypatch):
    """Before a file is filled, flushed, renamed, and before its directory is flushed."""
    go = namespace(steps=8 if kind == "run" else 32, saves=2)["go"]
    go(kind, tmp_path / "reference", False)
    moments = 0
    for moment in itertools.count(0, {"run": 5, "loop": 61, "vmap": 23}[kind]):
        path = tmp_path / f"kill-{moment}"
        with monkeypatch.context() as patch:
            counter = itertools.count()

            def interrupt(function, counter=counter, moment=moment):
                def wrapped(*args, **kwargs):
                    if next(counter) == moment:
                        raise Killed
                    return function(*args, **kwargs)

                return wrapped

            for owner, name in [(os, "fsync"), (os, "replace"), (np, "savez"), (atomic, "_flush_directory")]:
                patch.setattr(owner, name, interrupt(getattr(owner, name)))
            # A killed process tidies nothing up.
            patch.setattr(pathlib.Path, "unlink", lambda self, missing_ok=False: None)
            try:
                go(kind, path, False)
            except Killed:
                moments += 1
            else:
                break
        go(kind, path, True)
        same_results(path, tmp_path / "reference")
    print(f"{kind}: {moments} moments")
    # Three files of text, at four moments each, and ten of arrays, at five: every fifth of 62.
    assert moments == 13 if kind == "run" else moments > 2


@pytest.mark.slow_cases("0", "1", "2", "3", "4", "5", "6", "7")
@pytest.mark.parametrize("number", range(9))
def test_a_full_disk_leaves_what_was_written(number, tmp_path, monkeypatch):
    """Program, manifest, parts, checkpoints and the results: the disk is full for one of them."""
    go = namespace(steps=4, saves=2)["go"]
    go("run", tmp_path / "reference", False)
    opened = itertools.count()

    def full(path, mode):
        return open("/dev/full" if next(opened) == number else path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "open", full, raising=False)
        with pytest.raises((OSError, files.RunDirectoryError), match="No space left on device"):
            go("run", tmp_path / "run", False)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    go("run", tmp_path / "run", True)
    same_results(tmp_path / "run", tmp_path / "reference")


@pytest.mark.slow
def test_a_run_with_one_saved_time_has_checkpoints_on_the_way(tmp_path, monkeypatch):
    go = namespace(steps=1000, saves=1)["go"]
    go("run", tmp_path / "reference", False)
    written = itertools.count()

    def interrupted(path, tree, write=files.write_arrays):
        if next(written) == 7:
            raise Killed
        return write(path, tree)

    with monkeypatch.context() as patch:
        patch.setattr("mfjax._engine.host.write_arrays", interrupted)
        with pytest.raises(Killed):
            go("run", tmp_path / "run", False)
    assert progress(tmp_path / "run") == 0 and (tmp_path / "run" / "checkpoint.npz").exists()
    steps = []

    def counted(self, inputs, carry, number, take=Programs.advance_steps):
        steps.append(number)
        return take(self, inputs, carry, number)

    monkeypatch.setattr(Programs, "advance_steps", counted)
    go("run", tmp_path / "run", True)
    assert steps == [63] * 8 + [55]
    same_results(tmp_path / "run", tmp_path / "reference")


# Real processes, really killed


def start(kind, path, resume, steps, work, batches):
    """A child process of the server that runs the program."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mfjax", "optax", "scipy.io", "xarray", "tqdm"])
    settings = f"STEPS, WORK, SAVES, BATCHES = {steps}, {work}, 16, {batches!r}\n__name__ = 'program'\n"
    source = f"{settings}{PROGRAM}\ngo({kind!r}, {str(path)!r}, {resume})\n"
    child = context.Process(target=exec, args=(source, {}))
    child.start()
    return child


def finish(child):
    child.join(300)
    assert child.exitcode == 0


def progress(path):
    return sum(1 for _ in path.rglob("parts/0*.npz"))


def kill_and_resume(kind, count, seed, tmp_path, steps=160, work=4000, batches=""):
    reference = tmp_path / "reference"
    finish(start(kind, reference, False, steps, work, batches))
    total = progress(reference)
    # The time between the first part and the end, from the times of the files.
    stamps = [p.stat().st_mtime for p in reference.rglob("parts/0*.npz")]
    span = max(stamps) - min(stamps)
    rng, landed = random.Random(seed), []
    for trial in range(count):
        path = tmp_path / f"trial-{trial}"
        child = start(kind, path, False, steps, work, batches)
        # A part of the run at random, and a time at random until the next one.
        part = rng.randrange(1, total)
        while child.is_alive() and progress(path) < part:
            time.sleep(0.002)
        child.join(rng.uniform(0, span / total))
        child.kill()
        child.join()
        landed.append(progress(path))
        finish(start(kind, path, True, steps, work, batches))
        same_results(path, reference)
    print(f"{kind}: killed after {sorted(landed)} of {total} parts, none lost")
    assert any(0 < parts < total for parts in landed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loop", "vmap"])
def test_a_killed_process(kind, tmp_path):
    kill_and_resume(kind, 1, 7, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count", "batches"),
    [("run", 6, "all"), ("run", 2, "independent"), ("loop", 2, "all"), ("vmap", 2, "all")],
)
def test_a_process_killed_in_the_middle_of_an_epoch(kind, count, batches, tmp_path):
    kill_and_resume(kind, count, 17, tmp_path, batches=batches)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("run", 20), ("loop", 7), ("map", 7), ("vmap", 6)])
def test_twenty_random_kills(kind, count, tmp_path):
    """Twenty of a run, and twenty of a sweep."""
    kill_and_resume(kind, count, 2026, tmp_path)


# What a resume refuses, and what it makes of a finished or failed run


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run killed after its fourth part, and the call that continues it."""
    return halted(tmp_path, monkeypatch)


def halted(tmp_path, monkeypatch, **options):
    """The directory of a run killed after its fourth part, and the call that continues it."""
    go = namespace(**options)["go"]
    written = itertools.count()

    def interrupted(path, tree, write=files.write_arrays):
        if next(written) == 8:
            raise Killed
        return write(path, tree)

    with monkeypatch.context() as patch:
        patch.setattr("mfjax._engine.host.write_arrays", interrupted)
        with pytest.raises(Killed):
            go("run", tmp_path / "run", False)
    assert progress(tmp_path / "run") == 4
    return tmp_path / "run", go


def test_a_run_of_batches_killed_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    """Its quick form, in one process: after 8 of 32 steps, in the fourth epoch of 7 / 3."""
    path, go = halted(tmp_path, monkeypatch, batches="all")
    go("run", path, True)
    go("run", tmp_path / "reference", False)
    same_results(path, tmp_path / "reference")


@pytest.mark.slow_cases("cut-checkpoint.npz", "flip-checkpoint.npz", "flip-parts/000003.npz")
@pytest.mark.parametrize("name", ["checkpoint.npz", "parts/000003.npz"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_files_are_named(stopped, name, damage):
    path, go = stopped
    content = bytearray((path / name).read_bytes())
    if damage == "flip":
        # Inside the numbers of the largest array.
        with np.load(path / name) as file:
            largest = max((file[k] for k in file.files), key=lambda a: a.nbytes)
        content[content.index(largest.tobytes()) + 3] ^= 16
    (path / name).write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    before = contents(path)
    with pytest.raises(
        ValueError, match=rf"{name} is damaged .*: restore it, or start the run again elsewhere"
    ):
        go("run", path, True)
    assert contents(path) == before


@pytest.mark.slow
def test_a_missing_part_and_a_foreign_checkpoint(stopped, tmp_path):
    path, go = stopped
    (path / "parts" / "000001.npz").rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"000001\.npz is missing"):
        go("run", path, True)
    (tmp_path / "aside").rename(path / "parts" / "000001.npz")
    files.write_arrays(path / "checkpoint.npz", (np.int64(4), jnp.zeros(3)))
    with pytest.raises(files.ForeignRun, match=r"checkpoint\.npz holds 2 arrays, expected"):
        go("run", path, True)


@pytest.mark.slow
def test_another_run_is_refused_and_nothing_lost(stopped):
    path, _ = stopped
    before = contents(path)
    # The number of turns of a loop inside the energy.
    with pytest.raises(files.ForeignRun, match=r"program differs, in line .*dense<1>.* there and .*dense<2>"):
        namespace(work=2)["go"]("run", path, True)
    with pytest.raises(files.ForeignRun, match=r"save_every is 2 there and 4 here"):
        namespace(steps=64)["go"]("run", path, True)
    with pytest.raises(ValueError, match="already holds a run: pass resume=True"):
        namespace()["go"]("run", path, False)
    simulation = namespace()["simulation"](2.0, 0)
    with pytest.raises(files.ForeignRun, match=r"is 1\.0 \(float64\) there and 2\.0 \(float64\) here"):
        mf.simulate(simulation, path=path, resume=True)
    assert contents(path) == before


@pytest.mark.slow_cases("adaptive", "many saves")
@pytest.mark.parametrize("kind", ["few saves", "many saves", "adaptive"])
def test_a_run_goes_on_beyond_its_end(kind, tmp_path):
    """With more steps, or later times, bit for bit as a run that was longer from the beginning."""
    flow = mf.flows.Wasserstein(
        mf.energies.ReducedRisk(mf.features.ReLU(0.5), jr.normal(jr.key(2), (12, 2)), jnp.ones(12), lam=0.1),
        mf.domains.Sphere(1),
    )
    mu = mf.measures.Particles.sample(flow.domain, jr.key(0), 5)
    euler = {"stepper": mf.steppers.Euler(2**-6)}
    short, long = {
        "few saves": (euler | {"steps": 24, "save_every": 8}, euler | {"steps": 48, "save_every": 8}),
        "many saves": (euler | {"steps": 24}, euler | {"steps": 64}),
        "adaptive": ({"save_at": [0.25, 0.5]}, {"save_at": [0.25, 0.5, 0.75, 1.0]}),
    }[kind]
    straight = mf.simulate(flow, mu, path=tmp_path / "straight", **long)
    mf.simulate(flow, mu, path=tmp_path / "run", **short)
    longer = mf.simulate(flow, mu, path=tmp_path / "run", resume=True, **long)
    assert float(jnp.max(jnp.abs(straight.final.points - mu.points))) > 1e-3
    np.testing.assert_array_equal(longer.times, straight.times)
    np.testing.assert_array_equal(longer.final.points, straight.final.points)
    for name, value in straight.observables.items():
        np.testing.assert_array_equal(longer.observables[name], value, err_msg=name)
    with pytest.raises(files.ForeignRun, match=r"beyond t = |without saving it"):
        fewer = {"adaptive": {"save_at": [0.3, 2.0]}}.get(kind, short)
        mf.simulate(flow, mu, path=tmp_path / "run", resume=True, **fewer)


def test_a_later_end_keeps_the_saved_times_that_were_reached(tmp_path):
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x), mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jnp.ones((1, 1)))
    mf.simulate(flow, mu, t1=1.0, path=tmp_path / "run")
    run = mf.simulate(flow, mu, t1=2.0, path=tmp_path / "run", resume=True)
    assert run.times.tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(run.final.points, mf.simulate(flow, mu, save_at=[1.0, 2.0]).final.points)


def test_a_cosmetic_edit_goes_on(stopped):
    path, go = stopped
    space = namespace() | {"__name__": "program"}
    exec(
        "# a comment\n"
        + PROGRAM.replace("spin", "turn").replace("lambda i, a: jnp.sin(a)", "lambda k, b: jnp.sin(b)"),
        space,
    )
    space["go"]("run", path, True)
    go("run", path.parent / "straight", False)
    one, other = (mf.load(place).final.points for place in (path, path.parent / "straight"))
    np.testing.assert_array_equal(one, other)


def test_another_version_is_refused_by_name(stopped, monkeypatch):
    path, go = stopped
    monkeypatch.setattr(
        sys.modules["mfjax.simulate"], "environment", lambda: files.environment() | {"jax": "0.0.1"}
    )
    with pytest.raises(files.ForeignRun, match=r"environment jax is .* there and 0\.0\.1 here"):
        go("run", path, True)


def test_a_finished_run_is_read_back(tmp_path):
    simulation = namespace()["simulation"]
    sim = simulation(1.0, 0)
    straight = mf.simulate(sim)
    first = mf.simulate(sim, path=tmp_path / "run")
    again = mf.simulate(simulation(1.0, 0), path=tmp_path / "run", resume=True)
    for run in (first, again):
        np.testing.assert_array_equal(run.final.points, straight.final.points)
        np.testing.assert_array_equal(run.measures.points, straight.measures.points)
        for name, value in straight.observables.items():
            np.testing.assert_array_equal(run.observables[name], value)
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.slow_cases("32")
@pytest.mark.parametrize("save_every", [1, 32])
def test_a_failed_run_stays_failed(tmp_path, save_every):
    flow = mf.flows.Wasserstein(
        mf.energies.Potential(lambda x: jnp.where(x[0] > 0.7, jnp.nan, -x[0])), mf.domains.Euclidean(1)
    )
    sim = mf.Simulation(
        flow,
        mf.measures.Particles(jnp.zeros((1, 1))),
        stepper=mf.steppers.Euler(0.125),
        steps=64,
        save_every=save_every,
    )
    straight = mf.simulate(sim, throw=False)
    for resume in (False, True):
        with pytest.raises(mf.SimulationError, match="step 6") as caught:
            mf.simulate(sim, path=tmp_path / "run", resume=resume)
        for name, value in straight.observables.items():
            np.testing.assert_array_equal(caught.value.run.observables[name], value)
    # Nothing is computed, or written, for the saves after the end.
    assert progress(tmp_path / "run") == (2 if save_every == 1 else 1)


def test_a_call_that_cannot_start_claims_no_directory(tmp_path):
    flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x), mf.domains.Euclidean(1))
    mu = mf.measures.Particles(jr.normal(jr.key(0), (2, 1)))

    def wrong(mu, flow):
        return mu.no_such_attribute

    arguments = {"stepper": mf.steppers.Euler(0.1), "steps": 2, "path": tmp_path / "run"}
    with pytest.raises(AttributeError, match="no_such_attribute"):
        mf.simulate(flow, mu, observables={"wrong": wrong}, **arguments)
    assert not (tmp_path / "run").exists()
    assert mf.simulate(flow, mu, **arguments).describe() == "completed to t = 0.2"


@pytest.mark.skipif(sys.platform == "win32", reason="locks are those of Unix")
@pytest.mark.parametrize("kind", ["run", "loop"])
def test_a_directory_that_another_process_writes_is_left_to_it(kind, tmp_path):
    import fcntl

    path = tmp_path / "run"
    path.mkdir()
    with open(path / files.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 7 elsewhere")
        lock.flush()
        with pytest.raises(ValueError, match="is being written by process 7 elsewhere: wait for it"):
            namespace()["go"](kind, path, True)
        assert [entry.name for entry in path.iterdir()] == [files.LOCK]
    namespace()["go"](kind, path, True)
