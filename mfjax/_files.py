"""Files that are whole, and arrays that are read as they were written.

A kill at any moment leaves either the old file or the new one: everything is written to a temporary name
beside its place and renamed.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def write_atomically(path: Path, write: Callable[[Any], None]) -> Path:
    """Call `write` on a binary file beside `path`, flush it to disk, and rename it to `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_directory(path.parent)
    return path


def half_written(folder: Path, name: str) -> list[Path]:
    """What a kill left of files of `write_atomically` whose names match the regular expression `name`."""
    pattern = re.compile(rf"\.(?:{name})\.[0-9]+\.tmp")
    return [file for file in folder.glob(".*.tmp") if pattern.fullmatch(file.name)]


def _flush_directory(path: Path) -> None:
    """Make renames in a directory durable, in order: a checkpoint never outlives the part it counts."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> Path:
    """Write `text`, atomically."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON, atomically."""
    return write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def exact(values: np.ndarray, name: Any) -> Array:
    """An array of the same dtype. **Raises** `ValueError` where JAX would round it."""
    array = jnp.asarray(values)
    if array.dtype != values.dtype:
        raise ValueError(
            f"{name} is in double precision: load it after jax.config.update('jax_enable_x64', True)"
        )
    return array
