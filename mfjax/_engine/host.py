"""The host around the pure loop: chunks, progress, disk and resume."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from mfjax import status as codes
from mfjax._engine.devices import as_placed, gathered
from mfjax._engine.directory import ForeignRun, Place, read_arrays, write_arrays
from mfjax._engine.programs import Chunk, Programs
from mfjax._engine.progress import Update
from mfjax._numerics.arrays import known
from mfjax._results.run import named_arrays

CHUNKS = 16


def chunk_of(saves: int, every: int | None = None) -> Chunk:
    """What is done between two checkpoints: about `CHUNKS` of them in a run, at saved times or between.

    Chunks of steps where saved times are few and `every` fixed steps apart.

    >>> chunk_of(100), chunk_of(1, 1000), chunk_of(8, 6)
    (Chunk(steps=0, saves=7), Chunk(steps=63, saves=0), Chunk(steps=3, saves=0))
    """
    if every is None or every == 1 or saves >= CHUNKS:
        return Chunk(0, -(-saves // CHUNKS))
    return Chunk(-(-every // -(-CHUNKS // saves)), 0)


def drive(
    programs: Programs,
    inputs: Any,
    times: Any,
    every: int | None,
    *,
    place: Place | None = None,
    writes: bool = True,
    claim: Callable[[], None] | None = None,
    update: Update | None = None,
) -> tuple[Any, Any]:
    """Advance a run, or a batch of them, chunk by chunk: (final carry, all records on the host).

    `times` (..., S + 1) are the saved times, t = 0 first, `every` the number of steps between two, if it is
    fixed. `claim` is called before anything is written, once the first evaluation is made; `update` with the
    share of its flow time that a run has made. Of several processes that share a run, one `writes`.

    Where a run is cut changes no rounding: the lengths of chunks are numbers that its programs are given.

    **Raises** `ValueError` before anything is written if two results would have the same name.
    """
    carry, first = programs.begin(inputs)
    first = gathered(first)
    named_arrays(first[1])
    if claim is not None:
        claim()
    times = np.asarray(times)
    saves = times.shape[-1] - 1
    chunk, axis = chunk_of(saves, every), programs.axis
    expand = lambda leaf: np.expand_dims(np.asarray(leaf), axis)
    pieces = [jax.tree.map(expand, first)]
    reached = taken = 0
    if place is not None:
        if writes:
            place.open()
        if place.checkpoint.exists():
            like = (np.zeros((), np.int64), np.zeros((), np.int64), carry)
            counts = read_arrays(place.checkpoint, like)
            reached, taken, carry = int(counts[0]), int(counts[1]), as_placed(counts[2], carry)
            if reached > saves:
                raise ForeignRun(f"{place.path} holds {reached} saved times, more than the {saves} asked for")
            begin = 1
            for file, length in place.parts(reached):
                here = times[..., begin : begin + length]
                stored, records = read_arrays(
                    file, (here, jax.tree.map(partial(_several, axis, length), first))
                )
                if not np.array_equal(stored, here):
                    raise ForeignRun(
                        f"{place.path} holds another run: its saved times differ; use another path"
                    )
                pieces.append(records)
                begin += length
    shown = 0.0

    def report() -> None:
        nonlocal shown
        share = _share(times, reached + (taken / every if every else 0))
        if update is not None:
            update(share - shown)
        shown = share

    report()
    while reached < saves:
        if np.all(np.take(np.asarray(pieces[-1][1]["status"]), -1, axis=axis) != codes.OK):
            # Every run has stopped: later records repeat the last one.
            repeated = [-1] * (saves - reached)
            pieces.append(jax.tree.map(partial(np.take, indices=repeated, axis=axis), pieces[-1]))
            reached, taken = saves, 0
            report()
            break
        begun, piece = reached, None
        if chunk.steps or taken:
            whole = known(every)
            steps = min(chunk.steps or whole, whole - taken)
            carry = programs.advance_steps(inputs, carry, steps)
            taken += steps
            if taken == every:
                carry, record = programs.close(inputs, carry)
                piece = jax.tree.map(expand, gathered(record))
                reached, taken = reached + 1, 0
        else:
            number = min(chunk.saves, saves - reached)
            carry, records = programs.advance(inputs, carry, number, chunk.saves)
            piece = gathered(records)
            reached += number
        if piece is not None:
            pieces.append(jax.tree.map(np.asarray, piece))
        if place is not None:
            state = gathered(carry)
            if writes:
                if piece is not None:
                    write_arrays(place.part(begun + 1), (times[..., begun + 1 : reached + 1], pieces[-1]))
                write_arrays(place.checkpoint, (np.int64(reached), np.int64(taken), state))
        report()
    join = lambda *leaves: np.concatenate(leaves, axis=axis)
    return gathered(carry), jax.tree.map(join, *pieces)


def _share(times: np.ndarray, position: int | float) -> float:
    """The share of the flow time between the first and the last of `times` that lies before a position."""
    first = times.reshape(-1, times.shape[-1])[0].astype(float)
    time, span = np.interp(position, np.arange(first.size), first), first[-1] - first[0]
    return float((time - first[0]) / span) if span > 0 else position / (first.size - 1)


def _several(axis: int, length: int, leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of `length` records like one."""
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], length, *leaf.shape[axis:]), leaf.dtype)
