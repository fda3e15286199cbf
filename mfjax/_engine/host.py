"""The host around the pure loop: chunks, progress, disk and resume."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    saves, axis = times.shape[-1] - 1, programs.axis
    chunk, at = chunk_of(saves, every), _Position(0, 0)
    pieces = [jax.tree.map(partial(_one_record, axis), first)]
    if place is not None:
        if writes:
            place.open()
        if place.checkpoint.exists():
            at, carry, stored = _restored(place, carry, pieces[0], times, axis)
            pieces += stored
    shown = 0.0

    def report() -> None:
        nonlocal shown
        share = _share(times, at.reached + (at.taken / every if every else 0))
        if update is not None:
            update(share - shown)
        shown = share

    report()
    while at.reached < saves:
        if np.all(np.take(np.asarray(pieces[-1][1]["status"]), -1, axis=axis) != codes.OK):
            # Every run has stopped: later records repeat the last one.
            repeated = [-1] * (saves - at.reached)
            pieces.append(jax.tree.map(partial(np.take, indices=repeated, axis=axis), pieces[-1]))
            at = _Position(saves, 0)
            report()
            break
        begun = at.reached
        at, carry, piece = _advanced(programs, inputs, carry, at, chunk, every, saves)
        if piece is not None:
            pieces.append(jax.tree.map(np.asarray, piece))
        if place is not None:
            state = gathered(carry)
            if writes:
                if piece is not None:
                    part = times[..., begun + 1 : at.reached + 1], pieces[-1]
                    write_arrays(place.part(begun + 1), part)
                write_arrays(place.checkpoint, (np.int64(at.reached), np.int64(at.taken), state))
        report()
    join = lambda *leaves: np.concatenate(leaves, axis=axis)
    return gathered(carry), jax.tree.map(join, *pieces)


class _Position(NamedTuple):
    """How far a run has come: saved times that it has `reached`, and steps `taken` from there."""

    reached: int
    taken: int


def _restored(
    place: Place, carry: Any, first: Any, times: np.ndarray, axis: int
) -> tuple[_Position, Any, list[Any]]:
    """(position, carry, records of the parts) of the checkpoint of a run with these saved times.

    **Raises** `ForeignRun` where there are more saved times on disk, or others.
    """
    saves = times.shape[-1] - 1
    like = (np.zeros((), np.int64), np.zeros((), np.int64), carry)
    reached, taken, state = read_arrays(place.checkpoint, like)
    at = _Position(int(reached), int(taken))
    if at.reached > saves:
        raise ForeignRun(f"{place.path} holds {at.reached} saved times, more than the {saves} asked for")
    pieces, begin = [], 1
    for file, length in place.parts(at.reached):
        here = times[..., begin : begin + length]
        stored, records = read_arrays(file, (here, jax.tree.map(partial(_several, axis, length), first)))
        if not np.array_equal(stored, here):
            raise ForeignRun(f"{place.path} holds another run: its saved times differ; use another path")
        pieces.append(records)
        begin += length
    return at, as_placed(state, carry), pieces


def _advanced(
    programs: Programs,
    inputs: Any,
    carry: Any,
    at: _Position,
    chunk: Chunk,
    every: int | None,
    saves: int,
) -> tuple[_Position, Any, Any]:
    """(position, carry, records or `None`) after one chunk: of saved times, or of steps between two."""
    if not chunk.steps and not at.taken:
        number = min(chunk.saves, saves - at.reached)
        carry, records = programs.advance(inputs, carry, number, chunk.saves)
        return _Position(at.reached + number, 0), carry, gathered(records)
    whole = known(every)
    steps = min(chunk.steps or whole, whole - at.taken)
    carry = programs.advance_steps(inputs, carry, steps)
    if at.taken + steps < whole:
        return _Position(at.reached, at.taken + steps), carry, None
    carry, record = programs.close(inputs, carry)
    one = jax.tree.map(partial(_one_record, programs.axis), gathered(record))
    return _Position(at.reached + 1, 0), carry, one


def _one_record(axis: int, leaf: Any) -> np.ndarray:
    """One record along the axis of records."""
    return np.expand_dims(np.asarray(leaf), axis)


def _share(times: np.ndarray, position: int | float) -> float:
    """The share of the flow time between the first and the last of `times` that lies before a position."""
    first = times.reshape(-1, times.shape[-1])[0].astype(float)
    time, span = np.interp(position, np.arange(first.size), first), first[-1] - first[0]
    return float((time - first[0]) / span) if span > 0 else position / (first.size - 1)


def _several(axis: int, length: int, leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of `length` records like the one of `leaf`."""
    return jax.ShapeDtypeStruct((*leaf.shape[:axis], length, *leaf.shape[axis + 1 :]), leaf.dtype)
