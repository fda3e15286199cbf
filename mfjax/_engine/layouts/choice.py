"""The layout of a sweep that takes the least time, by timing the first chunk of each candidate."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax

from mfjax._engine.host import SOLO, Program
from mfjax._engine.layouts.layout import Layout, groups_of

# Measuring compiles a program for each candidate: worth it for loops that take this many compilations.
WORTH = 10.0
# The share of all the work that measuring one candidate may do.
MOST = 0.25


class Candidate(NamedTuple):
    """A layout, its program, and the arguments of its group `i` of cells; programs are compiled by `prepare`.

    `prepare` returns the layout and program to use, the group cut down to what fits into memory.
    """

    name: str
    prepare: Callable[[], tuple[Layout, Program]]
    arguments: Callable[[Layout, int], Any]


def choose(
    loops: Sequence[Layout],
    argument: Callable[[int], Any],
    candidates: Callable[[int], Sequence[Candidate]],
    count: int,
    chunks: list,
) -> tuple[Layout, Program]:
    """(layout, program) of least time for `count` cells of `chunks`; `argument(i)` is cell i on its own.

    `candidates` are those in as many threads as were best for loops.
    """
    started = time.perf_counter()
    _chunk(SOLO, argument(0), SOLO.begin(argument(0))[0], chunks[0])
    compilation = time.perf_counter() - started
    # Threads of one process share its pools, and may wait for each other longer than they work.
    seconds = {f"loop in {one.workers} threads": _whole(SOLO, argument, one, count, chunks) for one in loops}
    least = min(seconds.values())
    best, program = loops[list(seconds.values()).index(least)], SOLO
    if least < WORTH * compilation:
        return _because(best, f"{least:.2g} s of work: measuring others would take longer"), SOLO
    for candidate in candidates(best.workers):
        layout, made = candidate.prepare()
        groups = len(groups_of(count, layout.batch_size or 1))
        if min(layout.workers, groups) > MOST * groups * len(chunks):
            # Its first chunk is much of the work: runs that are saved once would be made once per candidate.
            continue
        arguments = lambda i, c=candidate, layout=layout: c.arguments(layout, i)
        seconds[candidate.name] = _whole(made, arguments, layout, count, chunks)
        if seconds[candidate.name] < least:
            best, program, least = layout, made, seconds[candidate.name]
    figures = ", ".join(f"{name} {s:.3g} s" for name, s in seconds.items())
    return _because(best, f"least of the times expected for {count} cells: {figures}"), program


def _because(layout: Layout, reason: str) -> Layout:
    return Layout(layout.method, layout.batch_size, layout.devices, layout.workers, reason)


def _chunk(program: Program, argument: Any, carry: Any, chunk: tuple[int, int]) -> Any:
    steps, length = chunk
    if not steps:
        return jax.block_until_ready(program.advance(argument, carry, length))
    carry = program.steps_only(argument, carry, steps)
    return jax.block_until_ready(program.close(argument, carry) if length else carry)


def _whole(program: Program, argument: Callable, layout: Layout, count: int, chunks: list) -> float:
    """Seconds for all cells, from those of the first chunk of as many programs as run at a time."""
    groups = len(groups_of(count, layout.batch_size or 1))
    together = min(layout.workers, groups)
    arguments = [argument(i) for i in range(together)]
    carries = [program.begin(a)[0] for a in arguments]
    jax.block_until_ready(carries)
    with ThreadPoolExecutor(together) as pool:
        started = time.perf_counter()
        list(pool.map(lambda a, c: _chunk(program, a, c, chunks[0]), arguments, carries))
        taken = time.perf_counter() - started
    return taken * len(chunks) * -(-groups // together)
