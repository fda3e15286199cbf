"""How many cells fit: what compiled programs say they need, against what the machine or device has free."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mfjax._engine.host import Program
from mfjax._engine.layouts.layout import even, spans_processes
from mfjax._engine.table import Traced

# Of the free memory, what a sweep may fill: other programs grow too, and compilers underestimate.
FRACTION = 0.5
# What one program on CPU may use before its batch, as an array axis, is slower than its cells one by one:
# each operation then passes the whole batch through the cache (measured with 32 MiB of it for two programs).
CACHE = 8 * 2**20


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


def needed_memory(program: Program, batch: list[Any], chunks: list[tuple[int, int]]) -> float:
    """Bytes on one device that the programs of a batch need, arguments included; compiles all of them."""
    compiled = [program.begin.lower(batch).compile()]
    carry, _ = jax.eval_shape(program.begin, batch)
    for steps, length in dict.fromkeys(chunks):
        if steps:
            compiled.append(program.steps_only.lower(batch, carry, steps).compile())
        if steps and length:
            compiled.append(program.close.lower(batch, carry).compile())
        if not steps:
            compiled.append(program.advance.lower(batch, carry, length).compile())
    return max(_bytes(one.memory_analysis()) for one in compiled)


def _bytes(stats: Any) -> float:
    if stats is None:
        return 0.0
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return float(held + stats.temp_size_in_bytes)


def shapes_of(traced: Traced, size: int) -> list[Any]:
    """The batch of `size` cells as shapes."""
    many = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype)
    return [many(s) if v else s for s, v in zip(traced.shapes(), traced.varying, strict=True)]


def fit(
    make: Callable[[], Program],
    traced: Traced,
    chunks: list[tuple[int, int]],
    count: int,
    size: int,
    *,
    mesh: Mesh | None = None,
    workers: int = 1,
    free: float | None = None,
    cached: bool = False,
) -> tuple[Program, int]:
    """The compiled loop and the largest number of cells, at most `size`, whose programs fit into memory.

    If they are to be `cached`, two cells or the number whose programs fit into `CACHE`, in a multiple of
    `workers` batches.
    """
    devices = 1 if mesh is None else mesh.devices.size
    free = FRACTION * (free_memory(mesh) if free is None else free)
    if spans_processes(mesh):
        from jax.experimental.multihost_utils import process_allgather

        # All processes must come to the same size.
        free = float(np.min(process_allgather(np.float32(min(free, 1e30)))))
    if mesh is not None and mesh.devices.flat[0].platform == "cpu":
        free /= len(mesh.local_devices)
    size = even(count, size, devices)
    program = make()
    while True:
        each = needed_memory(program, shapes_of(traced, size), chunks)
        if cached and size > 2 and CACHE < each <= free / workers:
            size = even(count, max(2, int(size * CACHE / each)), workers=workers)
            cached = False
            continue
        if workers * each <= free or size <= devices:
            return program, size
        size = max(devices, min(int(size * free / (workers * each)), size - 1) // devices * devices)
