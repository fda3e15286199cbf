"""`mf.simulate`: the host around the pure core. Chunks, progress, disk, resume, and the one exception."""

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
from mfjax.flows.base import Flow
from mfjax.io import RunDirectory, environment, fingerprint, read_arrays, write_arrays
from mfjax.measures import Measure
from mfjax.run import Run, assemble
from mfjax.simulate import advance, begin, trajectory
from mfjax.simulation import Observable, Simulation
from mfjax.status import SimulationError
from mfjax.steppers import Stepper

CHUNKS = 16


class Program(NamedTuple):
    """A compiled loop: `begin(sim)` and `advance(sim, carry, saves)`; records have their saves on `axis`."""

    begin: Callable
    advance: Callable
    axis: int


SOLO = Program(eqx.filter_jit(begin), eqx.filter_jit(advance), 0)
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
    path: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    throw: bool = True,
) -> Run:
    """Run `flow` from `measure` and record it; or run a `Simulation` made before.

    Time, in one of two forms: `steps` of a fixed stepper, saving every `save_every` of them; or up to
    `t1`, or through the increasing times `save_at`, in flow time. t = 0 and the end are always saved.

    - `stepper`: an `mf.steppers` scheme; `None` is an adaptive one chosen for the measure.
    - `observables`: names to functions of (measure, flow), evaluated at the saved times.
    - `key`: `jax.random.key(seed)`, mandatory for a flow with noise.
    - `save_measures`: whether the measures are kept, or only the observables.
    - `max_steps`: budget of an adaptive scheme between two saved times.
    - `path`: a directory to which saved states are streamed, with a checkpoint; `resume=True` continues
      a run that was killed there, bit for bit on the same machine, versions and dtype, or starts it if there
      is none. A checkpoint is written about every sixteenth of the run, at a saved time.
    - `progress`: a bar with the time left; by default if stderr is a terminal.
    - `throw`: whether a failed run raises; otherwise look at `run.status`.

    Inside `jit`, `vmap` or `grad` (any input traced) only the pure core runs: no disk, no bar, no exception.
    Reverse-mode derivatives go through `steps=` of a fixed stepper; the other form, whose number of steps
    depends on values, has forward mode only.

    **Raises** `ValueError` for wrong arguments, `mf.SimulationError` (whose `run` holds all that was
    computed) naming step and likely cause if the run fails.

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
    }
    if isinstance(flow, Simulation):
        sim = flow
        given = {"measure": measure} | options
        extra = [name for name, value in given.items() if value is not _DEFAULTS.get(name)]
        if extra:
            raise ValueError(f"a Simulation already holds its {extra[0]}: pass it alone")
    elif measure is None:
        raise ValueError("simulate needs an initial measure")
    else:
        sim = Simulation(flow, measure, **options)
    if resume and path is None:
        raise ValueError("resume=True needs path=, the directory of the run to continue")
    started = None if is_traced(sim) else SOLO.begin(sim)
    # A function that closes over a tracer hides it from the leaves of `sim`, not from the first evaluation.
    if started is None or is_traced(started):
        if path is not None:
            raise ValueError("path= needs a concrete run: inside jit, vmap or grad nothing can be written")
        carry, records = CORE(sim)
        return assemble(sim.times, records, sim.measure, carry)
    saves = sim.save_times.shape[0]
    carry, records = drive(SOLO, sim, saves, path=path, resume=resume, progress=progress, started=started)
    run = assemble(sim.times, records, sim.measure, carry)
    if path is not None:
        run.save(Path(path) / "results.nc")
    if throw and int(run.status) != codes.OK:
        raise SimulationError(f"the run {run.describe()}", run)
    return run


_DEFAULTS = {"save_every": 1, "save_measures": True, "max_steps": 100_000}


def drive(
    program: Program,
    sim: Any,
    saves: int,
    *,
    path: str | Path | None = None,
    resume: bool = False,
    progress: Any = None,
    configuration: Any = None,
    started: Any = None,
) -> tuple[Any, Any]:
    """Advance a simulation (or a batch of them) chunk by chunk: (final carry, all records on the host).

    `configuration` is what identifies the run on disk, `sim` unless given. `progress` may be a bar that
    several runs share; `started` is `program.begin(sim)`, if it is known.

    The chunks depend on the number of saves alone, never on where a run was interrupted, so that a
    resumed run executes the same compiled programs as an uninterrupted one.
    """
    lengths = chunk_lengths(saves)
    directory = None if path is None else RunDirectory(path)
    if directory is not None:
        manifest = {
            "configuration": fingerprint(sim if configuration is None else configuration),
            "environment": environment(),
            "chunks": lengths,
        }
        directory.check(manifest, resume)
    carry, first = program.begin(sim) if started is None else started
    done = 0
    # Only now: a directory is not claimed by a run whose first evaluation raises.
    if directory is not None and directory.open(manifest, resume):
        done, carry = read_arrays(directory.checkpoint, (np.zeros((), np.int64), carry))
        done = int(done)
    expand = lambda leaf: np.expand_dims(np.asarray(leaf), program.axis)
    pieces = [jax.tree.map(expand, first)]
    with progress_bar(progress, saves) as bar:
        for index, length in enumerate(lengths):
            if index < done:
                piece = read_arrays(directory.part(index), _shapes(program, sim, carry, length))
                piece = jax.tree.map(np.asarray, piece)
            elif np.all(np.asarray(carry.status) != codes.OK):
                # Every run has stopped: later records repeat the last one.
                repeated = [-1] * length
                piece = jax.tree.map(partial(np.take, indices=repeated, axis=program.axis), pieces[-1])
            else:
                carry, piece = program.advance(sim, carry, length)
                piece = jax.tree.map(np.asarray, piece)
                if directory is not None:
                    write_arrays(directory.part(index), piece)
                    write_arrays(directory.checkpoint, (np.asarray(index + 1), carry))
            pieces.append(piece)
            bar.update(length)
    join = lambda *leaves: np.concatenate(leaves, axis=program.axis)
    return carry, jax.tree.map(join, *pieces)


def chunk_lengths(saves: int) -> list[int]:
    """About `CHUNKS` chunks of saves, of at most two different lengths (each is compiled once).

    >>> chunk_lengths(100)[:2], len(chunk_lengths(100)), sum(chunk_lengths(1009))
    ([5, 5], 20, 1009)
    """
    length = -(-saves // CHUNKS)
    for divisor in range(length, length // 2, -1):
        if saves % divisor == 0:
            length = divisor
            break
    full, rest = divmod(saves, length)
    return [length] * full + ([rest] if rest else [])


def _shapes(program: Program, sim: Any, carry: Any, length: int) -> Any:
    return eqx.filter_eval_shape(program.advance, sim, carry, length)[1]


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
