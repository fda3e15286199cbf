"""The layout of a sweep that takes the least time, by timing the first chunk of each."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax

from mfjax._engine.batching import Layout, Request, groups_of, prepared
from mfjax._engine.cells import Cells, placed
from mfjax._engine.devices import as_here, whole_mesh
from mfjax._engine.programs import Chunk, Programs


def fastest(
    request: Request, cells: Cells, chunk: Chunk, kept: Layout | None = None
) -> tuple[Layout, Programs]:
    """(layout, programs) of least expected time; each candidate is compiled, and makes its first chunk."""
    mesh = whole_mesh(request.mesh)
    on_mesh = [request._replace(method=method, mesh=mesh) for method in ("map", "vmap")]
    # Threads of one process share its pools, and may wait for each other longer than they work.
    numbers = (request.workers,) if request.workers is not None else (None, 1)
    loops = [request._replace(method="loop", workers=number, mesh=None) for number in numbers]
    seconds, made = {}, {}
    for candidate in (loops if mesh is None else []) + on_mesh:
        layout, programs = prepared(candidate, cells, chunk)
        name = f"{layout.method} in {layout.workers} threads on {layout.devices} devices"
        made[name], seconds[name] = (
            (layout, programs),
            _expected(layout, programs, cells, chunk, candidate.mesh),
        )
    best = min(seconds, key=lambda name: seconds[name])
    figures = ", ".join(f"{name} {s:.3g} s" for name, s in seconds.items())
    layout, programs = made[best]
    return layout.because(f"least of the times expected for {cells.number} cells: {figures}"), programs


def _expected(layout: Layout, programs: Programs, cells: Cells, chunk: Chunk, mesh) -> float:
    """Seconds a chunk of all cells, from the first chunk of as many programs as run at a time."""
    loop = layout.method == "loop"
    groups = list(range(cells.number)) if loop else groups_of(cells.number, layout.batch_size or 1)
    together = min(layout.workers, len(groups))
    inputs = [placed(cells.inputs(group), mesh) for group in groups[:together]]
    carries = [programs.begin(one)[0] for one in inputs]

    def first_chunk(one, carry):
        if chunk.steps:
            return jax.block_until_ready(programs.advance_steps(one, carry, chunk.steps))
        return jax.block_until_ready(programs.advance(one, carry, chunk.saves, chunk.saves))

    first_chunk(inputs[0], carries[0])
    with ThreadPoolExecutor(together) as pool:
        started = time.perf_counter()
        list(pool.map(as_here(first_chunk), inputs, carries))
        taken = time.perf_counter() - started
    return taken * -(-len(groups) // together)
