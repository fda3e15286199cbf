"""The host around the pure core: chunks, progress, disk and resume."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from mfjax import status as codes
from mfjax._engine.devices import as_placed, divisions, gathered, is_global, together
from mfjax._engine.files import RunDirectory, environment, fingerprint, read_arrays, write_arrays
from mfjax._engine.loop import advance, begin, close, steps_only
from mfjax._engine.run import named_arrays

CHUNKS = 16


class Program(NamedTuple):
    """A compiled loop, of one run or a batch: the functions of `mfjax._engine.loop`; saves are on `axis`."""

    begin: Callable
    advance: Callable
    steps_only: Callable
    close: Callable
    axis: int


SOLO = Program(*map(eqx.filter_jit, (begin, advance, steps_only, close)), 0)


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
