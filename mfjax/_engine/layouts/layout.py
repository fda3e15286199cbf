"""A layout: how many cells run as one program, in what way, on which devices, how many programs at once."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

METHODS = ("auto", "loop", "map", "vmap")


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

    @staticmethod
    def from_dict(entries: dict[str, Any]) -> "Layout":
        """The layout that `as_dict` describes."""
        return Layout(**entries)

    def as_dict(self) -> dict[str, Any]:
        """What is kept on disk and reported."""
        return asdict(self)


def threads(workers: int | None) -> int:
    """The number of programs at a time: on CPU one per core, at most 4; elsewhere one."""
    if workers is not None:
        return workers
    return min(os.cpu_count() or 1, 4) if jax.default_backend() == "cpu" else 1


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
    number = divided(-(-count // min(size, count)), workers)
    return divided(-(-count // number), devices)


def divided(size: int, devices: int) -> int:
    """The least multiple of `devices` that is at least `size`."""
    return -(-size // devices) * devices


def whole_mesh(mesh: Mesh | None) -> Mesh | None:
    """The mesh that a sweep divides its cells over: the given one, else all devices if there are several.

    **Raises** `ValueError` for what is no mesh.
    """
    if mesh is None:
        if jax.process_count() > 1 or jax.local_device_count() == 1:
            return None
        return jax.make_mesh((jax.local_device_count(),), ("cells",), axis_types=(AxisType.Auto,))
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh (jax.make_mesh), got {type(mesh).__name__}")
    # Explicit axes would ask every array of a cell for its own sharding.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def spans_processes(mesh: Mesh | None) -> bool:
    """Whether a mesh has devices of several processes, of which the first alone then writes files."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1
