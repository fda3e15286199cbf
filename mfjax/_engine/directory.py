"""Run directories, checkpoints and the parts of a streamed run. No pickles."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from mfjax._files import half_written, write_atomically, write_json, write_text


class RunDirectoryError(ValueError):
    """A run directory that cannot be used: taken, damaged, or not to be written."""


class ForeignRun(RunDirectoryError):
    """A run directory that belongs to another configuration, machine or version."""


def write_arrays(path: Path, tree: Any) -> Path:
    """Write the array leaves of a pytree, in order, as an uncompressed .npz file."""
    arrays = {f"{i:05d}": _to_numpy(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    return write_atomically(path, lambda file: np.savez(file, allow_pickle=True, **arrays))


def read_arrays(path: Path, like: Any) -> Any:
    """Read a file of `write_arrays` into the structure of `like` (arrays or shapes).

    **Raises** `ForeignRun` if number, shapes or dtypes differ, `RunDirectoryError` if the file is missing or
    damaged.
    """
    leaves, structure = jax.tree.flatten(like)
    stored = _stored(path)
    if len(stored) != len(leaves):
        raise ForeignRun(f"{path} holds {len(stored)} arrays, expected {len(leaves)}")
    return jax.tree.unflatten(
        structure, [_from_numpy(s, leaf, path) for s, leaf in zip(stored, leaves, strict=True)]
    )


def _stored(path: Path, number: int | None = None) -> list[np.ndarray]:
    """The arrays of a file, or the first few. **Raises** `RunDirectoryError` if it is missing or damaged."""
    try:
        return _loaded(path, number)
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path} is missing: restore it, or start the run again elsewhere") from error
    except Exception as error:
        # A damaged file fails in as many ways as it has bytes: in the zip index, a checksum, an array header.
        raise RunDirectoryError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or start the run again "
            "elsewhere"
        ) from error


# Headers of arrays are parsed as Python, and CPython 3.11 counts the depth of that for all threads together:
# beside another one it fails now and then with a SystemError (python/cpython#106905).
_PARSING, ATTEMPTS = threading.Lock(), 10


def _loaded(path: Path, number: int | None) -> list[np.ndarray]:
    left = ATTEMPTS
    while True:
        left -= 1
        try:
            with _PARSING, np.load(path) as file:
                return [file[name] for name in sorted(file.files)[:number]]
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
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(leaf))
    return jnp.asarray(stored)


def environment() -> dict[str, Any]:
    """What a bitwise resume depends on besides the configuration."""
    from mfjax import __version__

    device = jax.devices()[0]
    return {
        "mfjax": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "equinox": eqx.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": f"{device.platform}: {device.device_kind}",
        # Both change how sums are split, or rounded.
        "devices": jax.device_count(),
        "matmul_precision": str(cast(Any, jax.config).jax_default_matmul_precision),
    }


FORMAT = 2
MANIFEST, PROGRAM, LOCK = "manifest.json", "program.txt", ".lock"
OURS = r"manifest\.json|program\.txt|checkpoint\.npz|results\.nc|[0-9]{6}\.npz"


def _around_difference(*lines: str, before: int = 60, shown: int = 160) -> list[str]:
    """A part of each of two lines, from a little before they differ.

    >>> _around_difference("f(" + 100 * "a" + "1)", "f(" + 100 * "a" + "2)", before=3)
    ['...aaa1)', '...aaa2)']
    """
    same = next((i for i, pair in enumerate(zip_longest(*lines)) if len(set(pair)) > 1), 0)
    first = max(same - before, 0)
    parts = [line[first : first + shown] for line in lines]
    return [f"...{part}" for part in parts] if first else parts


class Directory:
    """The directory of a run, or of cells that share a program: whose it is, and what it holds.

    `manifest.json` says by what the run is known; `program.txt` is its program; a lock keeps a second process
    out. `place` holds a run's `parts/`, its `checkpoint.npz` and, at its end, `results.nc`.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock: int | None = None

    def check(self, manifest: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
        """The manifest that is there, once it is known to belong to the same run; writes nothing.

        **Raises** `RunDirectoryError` if the directory holds a run and `resume` is not set, holds results of
        unknown origin, or is no directory; `ForeignRun` if it holds another run, naming what differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} is a file: pass a directory")
        place = self.path / MANIFEST
        if not place.exists():
            found = [n for n in ("checkpoint.npz", "results.nc") if (self.path / n).exists()]
            if found:
                raise RunDirectoryError(
                    f"{self.path} holds {found[0]} and no {MANIFEST}: pass another path, to keep it"
                )
            return None
        if not resume:
            raise RunDirectoryError(
                f"{self.path} already holds a run: pass resume=True to continue it, or another path"
            )
        stored = read_json(place)
        if stored.get("format") != FORMAT:
            raise ForeignRun(
                f"{self.path} holds a run in format {stored.get('format', 1)} of another version, which this "
                f"one (format {FORMAT}) cannot continue: keep its results.nc, and use another path"
            )
        for name in manifest:
            difference = _difference(name, stored.get(name), plain(manifest[name]))
            if difference:
                raise ForeignRun(f"{self.path} holds another run: {difference}; use another path")
        return stored

    def check_program(self, text: str) -> None:
        """**Raises** `ForeignRun` with the first line that differs, if the stored program is another one."""
        place = self.path / PROGRAM
        if not place.exists():
            return
        here, there = text.splitlines(), place.read_text().splitlines()
        for number, (a, b) in enumerate(zip_longest(here, there, fillvalue="nothing"), 1):
            if a != b:
                here, there = _around_difference(a.strip(), b.strip())
                raise ForeignRun(
                    f"{self.path} holds another run: its program differs, in line {number} of {PROGRAM}: "
                    f"{there} there and {here} here; use another path"
                )

    def claim(self, manifest: Mapping[str, Any], text: str | None = None, lock: bool = True) -> None:
        """Make the directory that of a run, clear of what a kill left half written, and `lock` it.

        **Raises** `RunDirectoryError` if it cannot be written, or another process has it.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if lock:
                self._take_lock()
            for leftover in self._leftovers():
                leftover.unlink(missing_ok=True)
            if text is not None and not (self.path / PROGRAM).exists():
                write_text(self.path / PROGRAM, text)
            if not (self.path / MANIFEST).exists():
                write_json(self.path / MANIFEST, {"format": FORMAT, **manifest})

    def _leftovers(self) -> Iterator[Path]:
        """The temporary files that a kill left here or in the places of cells, and nobody else's."""
        for place in (self.path, *self.path.glob("cell*-[0-9]*")):
            for folder in (place, place / "parts"):
                yield from half_written(folder, OURS)

    def amend(self, entries: Mapping[str, Any]) -> None:
        """Add entries to the manifest."""
        with writing(self.path):
            write_json(self.path / MANIFEST, read_json(self.path / MANIFEST) | dict(entries))

    def _take_lock(self) -> None:
        try:
            import fcntl
        except ImportError:
            return
        if self._lock is not None:
            return
        while True:
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(lock, 200).decode().strip() or "another process"
                os.close(lock)
                raise RunDirectoryError(
                    f"{self.path} is being written by {holder}: wait for it, or use another path"
                ) from None
            # The last holder may have removed the file that was opened.
            try:
                if os.path.samestat(os.fstat(lock), os.stat(self.path / LOCK)):
                    break
            except FileNotFoundError:
                pass
            os.close(lock)
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
        self._lock = lock

    def release(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *reason: Any) -> None:
        self.release()


class Place:
    """Where one run, or one batch of cells, is streamed to: `parts/*.npz` and `checkpoint.npz`.

    A part holds the records of the saved times from the one in its name to the next part; the checkpoint,
    written after the part, the state from which the run goes on and how far it has come.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.npz"

    def open(self) -> None:
        """Make the folders."""
        with writing(self.path):
            (self.path / "parts").mkdir(parents=True, exist_ok=True)

    def part(self, first: int) -> Path:
        """The file of the records that begin with saved time number `first`."""
        return self.path / "parts" / f"{first:06d}.npz"

    def times(self) -> np.ndarray | None:
        """The saved times that a run has reached, t = 0 left out; `None` if there are none on disk."""
        if not self.checkpoint.exists():
            return None
        reached = int(_stored(self.checkpoint, 1)[0])
        parts = [_stored(file, 1)[0] for file, _ in self.parts(reached)]
        return np.concatenate(parts) if parts else None

    def parts(self, saves: int) -> list[tuple[Path, int]]:
        """(file, number of records) of the parts that hold the saved times 1, ..., `saves`.

        **Raises** `RunDirectoryError` if one is missing.
        """
        if not saves:
            return []
        firsts = sorted(int(p.stem) for p in (self.path / "parts").glob("[0-9]*.npz"))
        firsts = [first for first in firsts if first <= saves]
        if not firsts or firsts[0] != 1:
            raise RunDirectoryError(
                f"{self.part(1)} is missing: restore it, or start the run again elsewhere"
            )
        ends = [*firsts[1:], saves + 1]
        return [(self.part(a), b - a) for a, b in zip(firsts, ends, strict=True)]


def plain(value: Any) -> Any:
    """`value` as JSON gives it back."""
    return json.loads(json.dumps(value))


def read_json(place: Path) -> dict[str, Any]:
    """A mapping from a file. **Raises** `RunDirectoryError` if it is damaged."""
    try:
        return dict(json.loads(place.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"{place} is damaged ({error}): restore it, or start the run again elsewhere"
        ) from error


def _difference(name: str, there: Any, here: Any) -> str | None:
    """What differs between two entries of manifests, in words."""
    if there == here:
        return None
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(set(here) | set(there)):
            if here.get(key) != there.get(key):
                label = key if name == "numbers" else f"{name} {key}"
                return _difference(label, there.get(key, "absent"), here.get(key, "absent"))
    return f"{name} is {there} there and {here} here"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """**Raises** `RunDirectoryError` in place of the errors of the file system."""
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {path}: {error.strerror}") from error
