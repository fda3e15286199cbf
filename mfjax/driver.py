"""`mf.simulate`: the host around the pure core. Chunks, progress, disk, resume, and the one exception."""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key, ScalarLike

from mfjax import status as codes
from mfjax._arrays import is_traced
from mfjax._closures import hides_tracer
from mfjax.flows.base import Flow
from mfjax.io import RunDirectory, environment, fingerprint, read_arrays, write_arrays
from mfjax.measures import Measure
from mfjax.placement import as_placed, divisions, gathered, is_global, together
from mfjax.run import Run, assemble, named_arrays
from mfjax.simulate import advance, begin, close, steps_only, trajectory
from mfjax.simulation import Observable, Simulation
from mfjax.status import SimulationError
from mfjax.steppers import Stepper

CHUNKS = 16


class Program(NamedTuple):
    """A compiled loop, of one run or a batch: the functions of `mfjax.simulate`; saves are on `axis`."""

    begin: Callable
    advance: Callable
    steps_only: Callable
    close: Callable
    axis: int


SOLO = Program(*map(eqx.filter_jit, (begin, advance, steps_only, close)), 0)
CORE = eqx.filter_jit(trajectory)


def simulate(
    flow: Flow | Simulation,
    measure: Measure | None = None,
    *,
    stepper: Stepper | None = None,
    steps: int | None = None,
    save_every: int = 1,
    t1: ScalarLike | None = None,
    save_at: Any = None,
    observables: Mapping[str, Observable] | None = None,
    key: Key[Array, ""] | None = None,
    save_measures: bool = True,
    max_steps: int = 100_000,
    checkpoints: int | None = None,
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = True,
) -> Run:
    """Run `flow` from `measure` and record it; or run a `Simulation` made before.

    Time, in one of two forms: `steps` of a fixed stepper, saving every `save_every` of them; or up to
    `t1`, or through the increasing times `save_at`, in flow time. t = 0 and the end are always saved.

    - `stepper`: an `mf.steppers` scheme; `None` is an adaptive one chosen for the measure.
    - `observables`: names to functions of (measure, flow), evaluated at the saved times; `mfjax.run` lists
      the names that are taken.
    - `key`: `jax.random.key(seed)`, mandatory for a flow with noise.
    - `save_measures`: whether the measures are kept, or only the observables.
    - `max_steps`: budget of an adaptive scheme between two saved times, and of derivatives there.
    - `checkpoints`: how many states reverse mode keeps on one level, at least 2; see below.
    - `path`: a directory to which saved states are streamed, with a checkpoint; `resume=True` continues
      a run that was killed there, bit for bit on the same machine, versions and dtype, or starts it if there
      is none. There are about 10 to 30 checkpoints in a run that has so many steps. One to `t1` or through
      `save_at` has them at its saved times only: let `save_at` list some, since a lone `t1` has none before
      the end.
    - `progress`: a bar with the time left; by default if stderr is a terminal.
    - `throw`: whether a failed run raises; otherwise look at `run.status`.

    Inside `jit`, `vmap` or `grad` (any input traced) only the pure core runs: no disk, no bar, no exception.
    Runs are differentiable in both modes, in every number that defines them: energy and data, initial
    measure, step, saved times, temperature (at a fixed key). Reverse mode keeps at most c states on each of
    its levels, c = `checkpoints`, and repeats the run once a level: two levels for the default, the square
    root of the number of steps (of `steps`, else of `max_steps`), and one more for several saved times.

    - Through `t1` or `save_at`, the steps between two saved times are constants times the interval, those of
      an adaptive scheme as it chose them, its accepted steps alone: what chooses a size has no derivative,
      and the derivative is exact for the steps taken. `max_steps` bounds the loop: a lower one saves memory.
    - At a kink (ReLU) a derivative is that of one side, zero slope at the kink itself. With finitely many
      data the velocity jumps where a particle crosses the kink of a datum, and a run jumps by O(dt / N);
      derivatives do not see jumps. Smooth features have none.
    - Where a differentiated run fails, value and derivative are NaN, and `status` says why.

    **Raises** `ValueError` for wrong arguments and for the derivative of a run through times that takes more
    than `max_steps` steps of a fixed size between two of them; `mf.SimulationError` (whose `run` holds all
    that was computed), naming step and likely cause, if the run fails.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> energy = mf.energies.Potential(lambda x: 0.5 * jnp.sum(x * x))
    >>> flow = mf.flows.Wasserstein(energy, mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.ones((1, 1)))
    >>> run = mf.simulate(flow, mu, stepper=mf.steppers.RK4(0.1), steps=10)
    >>> round(float(run.final.points[0, 0]), 4), round(float(run.observables["energy"][0]), 4)
    (0.3679, 0.5)
    """
    options = {
        "stepper": stepper,
        "steps": steps,
        "save_every": save_every,
        "t1": t1,
        "save_at": save_at,
        "observables": observables,
        "key": key,
        "save_measures": save_measures,
        "max_steps": max_steps,
        "checkpoints": checkpoints,
    }
    if isinstance(flow, Simulation):
        sim = flow
        given = {"measure": measure} | options
        extra = [name for name, value in given.items() if not _is_default(name, value)]
        if extra:
            raise ValueError(f"a Simulation already holds its {extra[0]}: pass it alone")
    elif measure is None:
        raise ValueError("simulate needs an initial measure")
    else:
        sim = Simulation(flow, measure, **options)
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the run to continue")
    started = None if is_traced(sim) or hides_tracer(sim) else SOLO.begin(sim)
    # Whatever else hides a tracer from the leaves of `sim` shows it in the first evaluation.
    if started is None or is_traced(started):
        if path is not None:
            raise ValueError("path= needs a concrete run: inside jit, vmap or grad nothing can be written")
        carry, records = CORE(sim)
        return assemble(sim.times, records, sim.measure, carry)
    saves, every = sim.save_times.shape[0], sim.save_every
    carry, records = drive(
        SOLO, sim, saves, every, path=path, resume=resume, progress=progress, started=started
    )
    run = assemble(sim.times, records, sim.measure, carry)
    if path is not None and not (is_global(sim) and jax.process_index()):
        run.save(Path(path) / "results.nc")
    if throw and int(run.status) != codes.OK:
        raise SimulationError(f"the run {run.describe()}", run)
    return run


def _is_default(name: str, value: Any) -> bool:
    default = inspect.signature(simulate).parameters[name].default
    return value is default or (isinstance(value, (bool, int)) and value == default)


def drive(
    program: Program,
    sim: Any,
    saves: int,
    every: int | None,
    *,
    path: str | Path | None = None,
    resume: bool = False,
    progress: Any = None,
    configuration: Any = None,
    started: Any = None,
) -> tuple[Any, Any]:
    """Advance a simulation (or a batch of them) chunk by chunk: (final carry, all records on the host).

    `saves` and `every` are the number of saved times and the steps between them, if it is fixed.
    `configuration` is what identifies the run on disk, `sim` unless given. `progress` may be a bar that
    several runs share; `started` is `program.begin(sim)`, if it is known.

    The chunks depend on `saves` and `every` alone, never on where a run was interrupted, so that a
    resumed run executes the same compiled programs as an uninterrupted one.

    **Raises** `ValueError` before anything is written if two results would have the same name, and as
    `RunDirectory` does.
    """
    chunks = schedule(saves, every)
    directory = None if path is None else RunDirectory(path)
    # Of several processes that share a run the first writes, and all read.
    shared = is_global(sim)
    writes = directory is not None and (not shared or jax.process_index() == 0)
    if directory is not None and configuration is None:
        configuration = gathered(sim)
    if writes:
        manifest = {
            "configuration": fingerprint(configuration),
            "environment": environment(),
            "chunks": chunks,
        }
        if divisions(sim):
            manifest["divisions"] = divisions(sim)
        directory.check(manifest, resume)
    carry, first = program.begin(sim) if started is None else started
    first = gathered(first)
    named_arrays(first[1])
    done = 0
    # Only now: a directory is not claimed by a run whose first evaluation raises.
    if writes:
        directory.open(manifest, resume)
    if shared and directory is not None:
        together("a run directory is open")
    if directory is not None and directory.checkpoint.exists():
        done, read = read_arrays(directory.checkpoint, (np.zeros((), np.int64), carry))
        done, carry = int(done), as_placed(read, carry)
    expand = lambda leaf: np.expand_dims(np.asarray(leaf), program.axis)
    pieces = [jax.tree.map(expand, first)]
    with progress_bar(progress, saves) as bar:
        for index, (steps, length) in enumerate(chunks):
            piece = None
            if index < done:
                if length:
                    like = partial(_several, axis=program.axis, length=length)
                    piece = read_arrays(directory.part(index), jax.tree.map(like, first))
            elif np.all(np.take(pieces[-1][1]["status"], -1, axis=program.axis) != codes.OK):
                # Every run has stopped: later records repeat the last one.
                repeated = [-1] * length
                piece = jax.tree.map(partial(np.take, indices=repeated, axis=program.axis), pieces[-1])
            else:
                if not steps:
                    carry, piece = program.advance(sim, carry, length)
                else:
                    carry = program.steps_only(sim, carry, steps)
                    if length:
                        carry, reached = program.close(sim, carry)
                        piece = jax.tree.map(expand, gathered(reached))
                piece = gathered(piece)
                if directory is not None:
                    state = gathered(carry)
                if writes:
                    if length:
                        write_arrays(directory.part(index), jax.tree.map(np.asarray, piece))
                    write_arrays(directory.checkpoint, (np.asarray(index + 1), state))
            if length:
                pieces.append(jax.tree.map(np.asarray, piece))
                bar.update(length)
    join = lambda *leaves: np.concatenate(leaves, axis=program.axis)
    return gathered(carry), jax.tree.map(join, *pieces)


def _several(leaf: Any, axis: int, length: int) -> jax.ShapeDtypeStruct:
    """The shape of `length` records like one."""
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], length, *leaf.shape[axis:]), leaf.dtype)


def schedule(saves: int, every: int | None = None) -> list[tuple[int, int]]:
    """(steps, saves) between two checkpoints, of which few are different: each of those is compiled once.

    (0, n) advances over n saved times. Where these are few and `every` fixed steps apart, (n, 0) takes n
    steps, and (n, 1) reaches a saved time by them.

    >>> schedule(100)[:2], schedule(1, 1000)[-2:], schedule(8, 6)[:2]
    ([(0, 5), (0, 5)], [(50, 0), (50, 1)], [(3, 0), (3, 1)])
    """
    if every is None or every == 1 or saves >= CHUNKS:
        return [(0, length) for length in chunk_lengths(saves)]
    *parts, last = chunk_lengths(every, -(-CHUNKS // saves))
    return [*((part, 0) for part in parts), (last, 1)] * saves


def chunk_lengths(total: int, chunks: int = CHUNKS) -> list[int]:
    """About `chunks` chunks of a number of saves or steps, of at most two different lengths.

    >>> chunk_lengths(100)[:2], len(chunk_lengths(100)), sum(chunk_lengths(1009))
    ([5, 5], 20, 1009)
    """
    length = -(-total // chunks)
    for divisor in range(length, length // 2, -1):
        if total % divisor == 0:
            length = divisor
            break
    full, rest = divmod(total, length)
    return [length] * full + ([rest] if rest else [])


class _Silent:
    def update(self, n: int) -> None:
        """Nothing to show."""


def progress_bar(progress: Any, total: int) -> Any:
    """A context that holds a bar of `total` saves: shown or not, by default on a terminal; or one given."""
    if hasattr(progress, "update"):
        return nullcontext(progress)
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown:
        return nullcontext(_Silent())
    from tqdm import tqdm

    return tqdm(total=total, desc="mfjax", unit="save", leave=False)
