"""How the cells of a sweep are laid out: how many in a program, in what way, on which devices."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mfjax._engine.cells import Cells
from mfjax._engine.devices import spans_processes, whole_mesh
from mfjax._engine.programs import Chunk, Programs

METHODS = ("auto", "loop", "map", "vmap", "measure")

# Of the free memory, what a sweep may fill: other programs grow too, and compilers underestimate.
FRACTION = 0.5
# What one program on CPU may use before its batch, as an array axis, is slower than its cells one by one:
# each operation then passes the whole batch through the cache (measured with 32 MiB of it for two programs).
CACHE = 8 * 2**20


class Request(NamedTuple):
    """What a user asks for; `None` and "auto" leave it to the sweep."""

    method: str
    batch_size: int | None
    workers: int | None
    mesh: Mesh | None


@dataclass(frozen=True)
class Layout:
    """`batch_size` cells in one program, one after the other ("map") or as one array axis ("vmap").

    They are divided among `devices`; "loop" has one cell in a program. `workers` programs run at a time, each
    in a thread, which changes no number.
    """

    method: str
    batch_size: int | None = None
    devices: int = 1
    workers: int = 1
    reason: str = "asked for"

    def as_dict(self) -> dict[str, Any]:
        """What is kept on disk and reported."""
        return asdict(self)

    def because(self, reason: str) -> "Layout":
        """The same layout with its reason."""
        return replace(self, reason=reason)


def threads(workers: int | None, mesh: Mesh | None = None) -> int:
    """The number of programs at a time: on CPU one per core, at most 4; elsewhere, and on a mesh, one."""
    if workers is not None:
        return workers
    return min(os.cpu_count() or 1, 4) if mesh is None and jax.default_backend() == "cpu" else 1


def groups_of(count: int, size: int) -> list[np.ndarray]:
    """The cells of each group, all of one size; the last repeats its last cell.

    >>> [group.tolist() for group in groups_of(5, 3)]
    [[0, 1, 2], [3, 4, 4]]
    """
    return [np.minimum(np.arange(low, low + size), count - 1) for low in range(0, count, size)]


def even(count: int, size: int, devices: int = 1, workers: int = 1) -> int:
    """At most about `size` cells in a group, a multiple of `devices`, with groups as even as that allows.

    Their number is a multiple of `workers` where it can be, so that none waits for the last group.

    >>> even(9, 8), even(9, 8, 4), even(24, 11), even(24, 11, workers=2)
    (5, 8, 8, 6)
    """
    number = rounded_up(-(-count // min(size, count)), workers)
    return rounded_up(-(-count // number), devices)


def rounded_up(size: int, devices: int) -> int:
    """The least multiple of `devices` that is at least `size`."""
    return -(-size // devices) * devices


def ruled(request: Request, varies: bool) -> tuple[str, str, Mesh | None]:
    """(method, reason, mesh) by a rule that is the same at every call."""
    method, mesh = request.method, request.mesh
    if not varies:
        return "loop", "asked for" if method == "loop" else "no number varies within a bucket", None
    if method != "auto":
        return method, "asked for", mesh
    mesh = whole_mesh(mesh)
    if jax.default_backend() != "cpu":
        return "vmap", "an accelerator", mesh
    if mesh is not None:
        return "map", "a mesh of processors", mesh
    return "loop", "the rule on a processor", None


def plan(request: Request, cells: Cells, chunk: Chunk, kept: Layout | None) -> tuple[Layout, Programs]:
    """The layout of runs, as asked or as `kept` from an earlier call, and its programs.

    **Raises** `ValueError` if the devices of a kept layout are not there.
    """
    if kept is not None:
        mesh = whole_mesh(request.mesh) if kept.devices > 1 or request.mesh is not None else None
        here = 1 if mesh is None else mesh.devices.size
        if kept.method != "loop" and here != kept.devices:
            raise ValueError(
                f"the sweep was begun on {kept.devices} devices and there are {here} here: pass a mesh of as "
                "many, or another path"
            )
        return kept, cells.programs(kept.method, mesh)
    method, reason, mesh = ruled(request, bool(cells.names))
    layout, programs = prepared(request._replace(method=method, mesh=mesh), cells, chunk)
    return layout.because(reason), programs


def plan_arrays(request: Request, count: int, varies: bool) -> tuple[Layout, Mesh | None]:
    """The layout of a function that returns arrays, and the mesh of its devices."""
    method, reason, mesh = ruled(request, varies)
    if method == "measure":
        method, reason, mesh = "loop", "arrays are not worth measuring", None
    devices = 1 if mesh is None else mesh.devices.size
    # A group is kept on disk once it is known: as small as those of a loop, unless more are asked for.
    default = devices if request.method == "auto" and method == "map" else count
    size = 1 if method == "loop" else rounded_up(min(request.batch_size or default, count), devices)
    return Layout(method, size, devices, threads(request.workers, mesh), reason), mesh


def prepared(request: Request, cells: Cells, chunk: Chunk) -> tuple[Layout, Programs]:
    """The layout of a method, its groups as large as fit, and its programs."""
    method, size, workers, mesh = request
    workers = threads(workers, mesh)
    programs = cells.programs(method, mesh)
    if method == "loop":
        return Layout("loop", workers=workers), programs
    devices = 1 if mesh is None else mesh.devices.size
    count = cells.number
    if size is not None:
        # What a user asks for is taken as it is.
        return Layout(method, rounded_up(min(size, count), devices), devices, workers), programs
    size, programs = fit(cells, chunk, method, mesh, workers)
    return Layout(method, size, devices, workers), programs


def fit(cells: Cells, chunk: Chunk, method: str, mesh: Mesh | None, workers: int) -> tuple[int, Programs]:
    """The largest number of cells in a group whose programs fit into memory, and these.

    For an array axis on CPU, two cells or the number whose programs fit into `CACHE`, in a multiple of
    `workers` groups.
    """
    devices, count = 1 if mesh is None else mesh.devices.size, cells.number
    free = FRACTION * free_memory(mesh)
    if spans_processes(mesh):
        from jax.experimental.multihost_utils import process_allgather

        # All processes must come to the same size.
        free = float(np.min(process_allgather(np.float32(min(free, 1e30)))))
    if mesh is not None and mesh.devices.flat[0].platform == "cpu":
        free /= len(mesh.local_devices)
    cached = method == "vmap" and mesh is None and jax.default_backend() == "cpu"
    size = even(count, -(-count // workers), devices)
    programs = cells.programs(method, mesh)
    while True:
        each = needed_memory(programs, cells.inputs_like(size), chunk)
        if cached and size > 2 and CACHE < each <= free / workers:
            size, cached = even(count, max(2, int(size * CACHE / each)), workers=workers), False
        elif workers * each <= free or size <= devices:
            return size, programs
        else:
            fewer = min(int(size * free / (workers * each)), size - 1)
            size = max(devices, fewer // devices * devices)


def free_memory(mesh: Mesh | None = None) -> float:
    """Bytes free on the device that has the least; on CPU, in the machine; infinite if not known."""
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.local_devices)
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        return min(s.get("bytes_limit", float("inf")) - s.get("bytes_in_use", 0) for s in stats)
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return float("inf")


def needed_memory(programs: Programs, inputs: Any, chunk: Chunk) -> float:
    """Bytes on one device that the programs of a group need, arguments included; compiles all of them."""
    return max(map(_bytes, programs.memory(inputs, chunk)))


def _bytes(stats: Any) -> float:
    if stats is None:
        return 0.0
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return float(held + stats.temp_size_in_bytes)
