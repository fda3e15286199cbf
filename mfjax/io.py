"""Files: atomic writes, manifests, checkpoints and the parts of a streamed run. No pickles.

Everything is written to a temporary name beside its place and renamed, so a kill at any moment leaves
either the old file or the new one.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class ForeignRun(ValueError):
    """A run directory that belongs to another configuration, machine or version."""


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
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))


def write_arrays(path: Path, tree: Any) -> Path:
    """Write the array leaves of a pytree, in order, as an uncompressed .npz file."""
    arrays = {f"{i:05d}": _to_numpy(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    return write_atomically(path, lambda file: np.savez(file, **arrays))


def read_arrays(path: Path, like: Any) -> Any:
    """Read a file of `write_arrays` into the structure of `like` (arrays or shapes).

    **Raises** `ForeignRun` if number, shapes or dtypes differ.
    """
    leaves, structure = jax.tree.flatten(like)
    with np.load(path) as file:
        stored = [file[name] for name in sorted(file.files)]
    if len(stored) != len(leaves):
        raise ForeignRun(f"{path} holds {len(stored)} arrays, expected {len(leaves)}")
    return jax.tree.unflatten(
        structure, [_from_numpy(s, leaf, path) for s, leaf in zip(stored, leaves, strict=True)]
    )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(stored: np.ndarray, leaf: Any, path: Path) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(stored)
    if stored.shape != leaf.shape or stored.dtype != leaf.dtype:
        raise ForeignRun(
            f"{path} holds an array of shape {stored.shape} and dtype {stored.dtype}, "
            f"expected {leaf.shape} and {leaf.dtype}"
        )
    return jnp.asarray(stored)


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an `xarray.Dataset` as netCDF, which holds 32-bit integers and no booleans."""
    path = Path(path)
    narrow = dataset.copy()
    for name in narrow.variables:
        if narrow[name].dtype in (np.int64, np.uint32, np.bool_):
            narrow[name] = narrow[name].astype(np.int32)
    data = narrow.to_netcdf(engine="scipy", format="NETCDF3_64BIT")
    return write_atomically(path, lambda file: file.write(data))


def environment() -> dict[str, str]:
    """What a bitwise resume depends on besides the configuration."""
    from mfjax import __version__

    device = jax.devices()[0]
    return {
        "mfjax": __version__,
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "equinox": eqx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": f"{device.platform}: {device.device_kind}",
    }


def fingerprint(tree: Any) -> str:
    """A digest of a configuration: every array bit by bit, static settings, functions by their code."""
    digest = hashlib.sha256()
    leaves, structure = jax.tree.flatten(tree)
    digest.update(_stable(str(structure)).encode())
    for leaf in leaves:
        if isinstance(leaf, (jax.Array, np.ndarray)):
            array = _to_numpy(leaf)
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        elif callable(leaf):
            digest.update(_code(leaf).encode())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def _stable(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def _code(function: Callable) -> str:
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(type(function)))}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    constants = _stable(repr(code.co_consts))
    return f"{name}{hashlib.sha256(code.co_code).hexdigest()}{constants}"


class RunDirectory:
    """The files of one streamed run: manifest.json, parts/*.npz, checkpoint.npz, results.nc.

    A part holds the records of one chunk of saves; the checkpoint, written after the part, holds the
    state from which the next chunk starts and how many chunks are done.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.parts = self.path / "parts"
        self.manifest = self.path / "manifest.json"
        self.checkpoint = self.path / "checkpoint.npz"

    def open(self, manifest: dict[str, Any], resume: bool) -> bool:
        """Create the directory, or check that it belongs to `manifest`; whether there is a checkpoint.

        **Raises** `ValueError` if the directory holds a run and `resume` is not set, or cannot be written;
        `ForeignRun` if it holds the run of another configuration or environment.
        """
        if self.manifest.exists():
            if not resume:
                raise ValueError(
                    f"{self.path} already holds a run: pass resume=True to continue it, or another path"
                )
            stored = json.loads(self.manifest.read_text())
            for name in sorted(set(manifest) | set(stored)):
                if stored.get(name) != manifest.get(name):
                    raise ForeignRun(
                        f"{self.path} holds another run: {name} is {stored.get(name)!r} there and "
                        f"{manifest.get(name)!r} here; use another path"
                    )
            return self.checkpoint.exists()
        try:
            self.parts.mkdir(parents=True, exist_ok=True)
            write_json(self.manifest, manifest)
        except OSError as error:
            raise ValueError(f"cannot write to {self.path}: {error.strerror}") from error
        return False

    def part(self, index: int) -> Path:
        """The file of chunk `index`."""
        return self.parts / f"{index:06d}.npz"
