"""Files: atomic writes, manifests, checkpoints and the parts of a streamed run. No pickles.

Everything is written to a temporary name beside its place and renamed, so a kill at any moment leaves
either the old file or the new one.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from mfjax._engine.fingerprint import fingerprint as fingerprint


class RunDirectoryError(ValueError):
    """A run directory that cannot be used: taken, damaged, or not to be written."""


class ForeignRun(RunDirectoryError):
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
    _flush_directory(path.parent)
    return path


def _flush_directory(path: Path) -> None:
    """Make renames in a directory durable, in order: a checkpoint never outlives the part it counts."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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

    **Raises** `ForeignRun` if number, shapes or dtypes differ, `RunDirectoryError` if the file is missing or
    damaged.
    """
    leaves, structure = jax.tree.flatten(like)
    try:
        stored = _loaded(path)
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} is missing: restore it, or start the run again elsewhere") from error
    except Exception as error:
        # A damaged file fails in as many ways as it has bytes: in the zip index, a checksum, an array header.
        raise RunDirectoryError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or start the run again "
            "elsewhere"
        ) from error
    if len(stored) != len(leaves):
        raise ForeignRun(f"{path} holds {len(stored)} arrays, expected {len(leaves)}")
    return jax.tree.unflatten(
        structure, [_from_numpy(s, leaf, path) for s, leaf in zip(stored, leaves, strict=True)]
    )


# Headers of arrays are parsed as Python, and CPython 3.11 counts the depth of that for all threads together:
# beside another one it fails now and then with a SystemError (python/cpython#106905).
_PARSING, ATTEMPTS = threading.Lock(), 10


def _loaded(path: Path) -> list[np.ndarray]:
    left = ATTEMPTS
    while True:
        left -= 1
        try:
            with _PARSING, np.load(path) as file:
                return [file[name] for name in sorted(file.files)]
        except SystemError:
            if not left:
                raise
        time.sleep(0.01)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(stored: np.ndarray, leaf: Any, path: Path) -> Any:
    expected = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    if stored.dtype.kind == "V" and stored.dtype.itemsize == expected.dtype.itemsize:
        # numpy does not name the dtypes that jax adds, such as bfloat16.
        stored = stored.view(expected.dtype)
    if stored.shape != expected.shape or stored.dtype != expected.dtype:
        raise ForeignRun(
            f"{path} holds an array of shape {stored.shape} and dtype {stored.dtype}, "
            f"expected {expected.shape} and {expected.dtype}"
        )
    if _is_key(leaf):
        return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(leaf))
    return jnp.asarray(stored)


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an `xarray.Dataset` as netCDF-3, which every reader knows.

    That format has no 64-bit integers, booleans, half precision or complex numbers: they become 32-bit
    integers (float64 where they do not fit), float32, and two variables, `name_real` and `name_imag`.
    """
    path = Path(path)
    narrow = dataset.copy()
    for name in list(dataset.variables):
        array = dataset[name]
        if np.issubdtype(array.dtype, np.complexfloating):
            narrow = narrow.drop_vars(name).assign({f"{name}_real": array.real, f"{name}_imag": array.imag})
        else:
            narrow[name] = array.astype(_stored_dtype(array.values))
    data = narrow.to_netcdf(engine="scipy", format="NETCDF3_64BIT")
    return write_atomically(path, lambda file: file.write(data))


def _stored_dtype(array: np.ndarray) -> Any:
    if array.dtype.kind in "biu":
        small = array.size == 0 or (int(array.max()) < 2**31 and int(array.min()) >= -(2**31))
        return np.int32 if small else np.float64
    return np.float32 if array.dtype.itemsize == 2 and array.dtype.kind in "fV" else array.dtype


def environment() -> dict[str, Any]:
    """What a bitwise resume depends on besides the configuration."""
    from mfjax import __version__

    device = jax.devices()[0]
    return {
        "mfjax": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "equinox": eqx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": f"{device.platform}: {device.device_kind}",
        # Both change how sums are split, or rounded.
        "devices": jax.device_count(),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
    }


class RunDirectory:
    """The files of one streamed run: manifest.json, parts/*.npz, checkpoint.npz, results.nc.

    A part holds the records of one chunk, if it reaches saved times; the checkpoint, written after the
    part, holds the state from which the next chunk starts and how many chunks are done.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.parts = self.path / "parts"
        self.checkpoint = self.path / "checkpoint.npz"

    def check(self, manifest: dict[str, Any], resume: bool) -> None:
        """Look, and write nothing.

        **Raises** `RunDirectoryError` if the directory holds a run and `resume` is not set, holds results of
        unknown origin, or is no directory; `ForeignRun` if it holds the run of another configuration or
        environment.
        """
        claim_check(self.path, manifest, resume)

    def open(self, manifest: dict[str, Any], resume: bool) -> bool:
        """Create the directory, or check that it belongs to `manifest`; whether there is a checkpoint.

        **Raises** as `check` does, and `RunDirectoryError` if the directory cannot be written.
        """
        claim(self.path, manifest, resume)
        with _writing(self.path):
            self.parts.mkdir(exist_ok=True)
        return self.checkpoint.exists()

    def part(self, index: int) -> Path:
        """The file of chunk `index`."""
        return self.parts / f"{index:06d}.npz"


class SweepDirectory:
    """The directory of a sweep: manifest.json with axes and layout, and one folder per bucket of cells."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def open(
        self, manifest: dict[str, Any], resume: bool, layout: dict[str, Any], free: bool
    ) -> dict[str, Any]:
        """Claim the directory; the layout to use, which is the stored one if the choice is `free`.

        **Raises** as `RunDirectory.open` does.
        """
        place = self.path / MANIFEST
        if free and resume and place.exists():
            layout = _read_manifest(place).get("layout", layout)
        claim(self.path, manifest | {"layout": layout}, resume)
        return layout


class BucketLayout:
    """The layout of one bucket of a sweep, written before its cells are run."""

    def __init__(self, path: Path):
        self.file = path / "layout.json"

    def read(self) -> dict[str, Any] | None:
        """The layout, if it was written."""
        return _read_manifest(self.file) if self.file.exists() else None

    def write(self, layout: dict[str, Any]) -> None:
        """Keep the layout."""
        with _writing(self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, layout)


MANIFEST = "manifest.json"


def claim_check(path: Path, manifest: dict[str, Any], resume: bool) -> None:
    """**Raises** `RunDirectoryError` or `ForeignRun` if `claim` would, short of trying to write."""
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file: pass a directory")
    place = path / MANIFEST
    if not place.exists():
        found = [n for n in ("checkpoint.npz", "results.nc") if (path / n).exists()]
        if found:
            raise RunDirectoryError(
                f"{path} holds {found[0]} and no {MANIFEST}: pass another path, to keep it"
            )
        return
    if not resume:
        raise RunDirectoryError(
            f"{path} already holds a run: pass resume=True to continue it, or another path"
        )
    stored, manifest = _read_manifest(place), json.loads(json.dumps(manifest))
    for name in sorted(set(manifest) | set(stored)):
        if stored.get(name) != manifest.get(name):
            here, there = _difference(manifest.get(name), stored.get(name))
            raise ForeignRun(
                f"{path} holds another run: {name} is {there} there and {here} here; use another path"
            )


def _read_manifest(place: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(place.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{place} is damaged ({error}): restore it, or start the run again elsewhere"
        ) from error


def _difference(here: Any, there: Any) -> tuple[Any, Any]:
    """Two unequal values, less the entries on which two mappings agree."""
    if not (isinstance(here, dict) and isinstance(there, dict)):
        return here, there
    names = [n for n in sorted(set(here) | set(there)) if here.get(n) != there.get(n)]
    return {n: here.get(n) for n in names}, {n: there.get(n) for n in names}


def claim(path: Path, manifest: dict[str, Any], resume: bool) -> None:
    """Make `path` the directory of the run of `manifest`, clear of what a kill left half written."""
    claim_check(path, manifest, resume)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        for leftover in [*path.glob(".*.tmp"), *path.glob("parts/.*.tmp")]:
            leftover.unlink(missing_ok=True)
        if not (path / MANIFEST).exists():
            write_json(path / MANIFEST, manifest)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {path}: {error.strerror}") from error
