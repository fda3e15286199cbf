"""From what a user asks of a sweep to the layout and the compiled program of one bucket of cells."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mfjax._engine.host import SOLO, Program
from mfjax._engine.layouts.choice import Candidate, choose
from mfjax._engine.layouts.layout import Layout, divided, groups_of, threads, whole_mesh
from mfjax._engine.layouts.memory import fit
from mfjax._engine.layouts.program import batched
from mfjax._engine.table import Traced

# Why cells of which no number differs are not made one program.
ALIKE = "no number varies within a bucket"


class Request(NamedTuple):
    """What a user asks for; `None` and "auto" leave it to the sweep."""

    method: str
    batch_size: int | None
    workers: int | None
    mesh: Mesh | None


class Bucket(NamedTuple):
    """Cells that share a program: cell i on its own, a batch of cells on a mesh, and the chunks of runs."""

    traced: Traced
    count: int
    chunks: list[tuple[int, int]]
    alone: Callable[[int], Any]
    batch: Callable[[np.ndarray, Mesh | None], list[Any]]


def plan(request: Request, bucket: Bucket, kept: Layout | None) -> tuple[Layout, Program]:
    """The layout, as asked, as `kept` from an earlier call, or as measured; and its program.

    **Raises** `ValueError` if the devices of a kept layout are not there.
    """
    method, batch_size, workers, mesh = request
    if kept is not None:
        return _again(request, bucket, kept)
    loop = lambda reason: Layout("loop", workers=threads(workers), reason=reason)
    if method == "loop":
        return loop("asked for"), SOLO
    if not any(bucket.traced.varying):
        return loop(ALIKE), SOLO
    if method != "auto":
        number = threads(workers) if mesh is None else workers or 1
        return _prepared(bucket, method, batch_size, number, mesh)
    everything = whole_mesh(mesh)
    if jax.default_backend() != "cpu":
        return _prepared(bucket, "vmap", batch_size, 1, everything, "an accelerator")
    if mesh is not None:
        return _prepared(bucket, "map", batch_size, 1, mesh, "a mesh of processors")
    if bucket.count == 1:
        return loop("one cell"), SOLO
    # Threads change no number: whether they pay is measured too, unless their number is asked for.
    numbers = dict.fromkeys((threads(None), 1)) if workers is None else (workers,)
    loops = [Layout("loop", workers=number) for number in numbers]
    candidates = lambda number: _candidates(request.batch_size, bucket, number, everything)
    return choose(loops, bucket.alone, candidates, bucket.count, bucket.chunks)


def plan_arrays(request: Request, count: int, varies: bool) -> tuple[Layout, Mesh | None]:
    """The layout of a function that returns arrays, and the mesh of its devices: too short to be measured."""
    method, reason, mesh = request.method, "asked for", request.mesh
    if not varies:
        method, mesh, reason = "loop", None, "asked for" if method == "loop" else ALIKE
    elif method == "auto":
        mesh, on_cpu = whole_mesh(mesh), jax.default_backend() == "cpu"
        if not on_cpu:
            method, reason = "vmap", "an accelerator"
        elif mesh is not None:
            method, reason = "map", "a mesh of processors"
        else:
            method, reason = "loop", "arrays are not worth measuring"
    devices = 1 if mesh is None else mesh.devices.size
    # A group is kept on disk once it is known: as small as those of a loop, unless more are asked for.
    default = devices if request.method == "auto" and method == "map" else count
    size = 1 if method == "loop" else divided(min(request.batch_size or default, count), devices)
    workers = threads(request.workers) if mesh is None else 1
    return Layout(method, size, devices, workers, reason), mesh


def _candidates(size: int | None, bucket: Bucket, number: int, mesh: Mesh | None) -> list[Candidate]:
    def candidate(method, workers, mesh):
        prepare = lambda: _prepared(bucket, method, size, workers, mesh)
        group = lambda layout, i: bucket.batch(groups_of(bucket.count, layout.batch_size)[i], mesh)
        where = f"{workers} threads" if mesh is None else f"{mesh.devices.size} devices"
        return Candidate(f"{method} in {where}", prepare, group)

    kinds = [(number, None)] if mesh is None else [(1, mesh)]
    return [candidate(method, *kind) for method in ("map", "vmap") for kind in kinds]


def _prepared(
    bucket: Bucket, method: str, batch_size: int | None, workers: int, mesh: Mesh | None, reason: str = ""
) -> tuple[Layout, Program]:
    """A layout whose batches fit into memory, and its program, compiled."""
    size = batch_size or -(-bucket.count // workers)
    make = lambda: batched(bucket.traced, method, mesh)
    # What a user asks for is taken as it is.
    free = None if batch_size is None else float("inf")
    cached = batch_size is None and method == "vmap" and mesh is None and jax.default_backend() == "cpu"
    options = {"mesh": mesh, "workers": workers, "free": free, "cached": cached}
    program, size = fit(make, bucket.traced, bucket.chunks, bucket.count, size, **options)
    devices = 1 if mesh is None else mesh.devices.size
    layout = Layout(method, size, devices, workers)
    return (layout if not reason else Layout(method, size, devices, workers, reason)), program


def _again(request: Request, bucket: Bucket, kept: Layout) -> tuple[Layout, Program]:
    if kept.method == "loop":
        return kept, SOLO
    mesh = None
    if kept.devices > 1 or request.mesh is not None:
        mesh = whole_mesh(request.mesh)
        here = 1 if mesh is None else mesh.devices.size
        if here != kept.devices:
            raise ValueError(
                f"the sweep was begun on {kept.devices} devices and there are {here} here: pass a mesh of as "
                "many, or another path"
            )
    _, program = _prepared(bucket, kept.method, kept.batch_size, kept.workers, mesh)
    return kept, program
