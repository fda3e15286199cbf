"""Tables of real data: the digits that scikit-learn brings, or a file of the user."""

import csv
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from _lab.cli import Refused

INSTALL = 'scikit-learn is missing: pip install "mfjax[experiments]", or pip install scikit-learn'
# How files write that there is no value.
MISSING = frozenset({"", "?", "na", "n/a", "nan", "none", "null"})
# Rows of a class, such that each part of a split has some.
LEAST = 8


class Table(NamedTuple):
    """Inputs `x` (N, k) and targets `y` (N,): classes 0, 1, ... if they have names, numbers if not."""

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """How many numbers the networks return: one for each class, or one."""
        return len(self.classes) or 1


def load(path: str, target: str) -> Table:
    """The table of a file, or the digits if there is none.

    **Raises** `Refused` for a file that holds no such table.
    """
    if not path:
        if target:
            raise Refused("argument --target: names a column of --table, which is not given")
        return digits()
    try:
        return READERS[Path(path).suffix.lower()](path, target)
    except KeyError:
        raise refused(f"a table is a .csv or .npz file, got {path}") from None
    except OSError as error:
        raise refused(f"cannot read {path}: {error.strerror or error}") from error


def digits() -> Table:
    """1797 handwritten digits of 8 x 8 pixels, 10 classes (test part of the UCI optical recognition data)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise Refused(INSTALL) from error
    found = load_digits()
    return Table("digits", found.data, found.target, tuple(map(str, range(10))), tuple(found.feature_names))


def read_csv(path: str, target: str) -> Table:
    """A line of names, then one for each datum; the target is the last column, or the one named `target`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise refused(f"{path} is no text of comma-separated values: {error}") from error
    if len(lines) < 2:
        raise refused(f"{path} holds no data: a line of names, then one for each datum")
    names = column_names(path, lines[0][1])
    if target and target not in names:
        raise Refused(f"argument --target: {path} has no column {target!r}; there are {', '.join(names)}")
    at = names.index(target) if target else len(names) - 1
    for number, row in lines[1:]:
        check_line(f"line {number} of {path}", row, names, at)
    x = np.array([[float(cell) for j, cell in enumerate(row) if j != at] for _, row in lines[1:]])
    words = [row[at].strip() for _, row in lines[1:]]
    if all(word.lstrip("+-").isdecimal() and len(word) < 19 for word in words):
        y = np.array([int(word) for word in words])
    else:
        y = np.array([float(word) for word in words] if all(map(is_number, words)) else words)
    return checked(path, x, y, tuple(name for j, name in enumerate(names) if j != at))


def column_names(path: str, line: list[str]) -> list[str]:
    """The names of the columns. **Raises** `Refused` for a first line that does not name two or more."""
    names = [name.strip() for name in line]
    numbers = [name for name in names if is_number(name)]
    # Tables without names of their own have the numbers of their columns.
    counted = any(numbers == [str(k + first) for k in range(len(numbers))] for first in (0, 1))
    if len(numbers) == len(names) or (numbers and not counted):
        raise refused(f"the first line of {path} must name the columns, got {', '.join(names[:3])}")
    if len(names) < 2:
        raise refused(
            f"{path} must have an input and a target column, got {names[0]!r} alone: columns are separated "
            "by commas"
        )
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise refused(f"{path} has two columns {twice[0]!r}")
    return names


def check_line(place: str, row: list[str], names: list[str], at: int) -> None:
    """**Raises** `Refused` for a line without a value for every name, all but the target numbers."""
    if len(row) != len(names):
        raise refused(f"{place} has {len(row)} values, the first {len(names)}")
    for j, (name, cell) in enumerate(zip(names, row, strict=True)):
        if cell.strip().lower() in MISSING:
            raise refused(
                f"{place} has no value of {name!r}: fill it in, or leave out the line or the column"
            )
        if j != at and not is_number(cell):
            raise refused(
                f"{place} has the text {cell!r} as {name!r}: inputs are finite numbers; write classes of an "
                "input as columns of 0 and 1, or name the target by --target"
            )


def read_npz(path: str, target: str) -> Table:
    """The arrays x (N, k) and y (N,) of a file of NumPy."""
    if target:
        raise Refused(
            f"argument --target: names a column of a .csv file; the target of {path} is its array y"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = {"x", "y"} - set(file.files)
            if missing:
                have = ", ".join(file.files) or "none"
                raise refused(f"{path} has no array {min(missing)!r}; there are {have}")
            x, y = file["x"], file["y"]
    except Refused:
        raise
    except (ValueError, EOFError, BadZipFile) as error:
        raise refused(f"{path} holds no arrays of numbers and texts: {error}") from error
    if x.ndim != 2 or 0 in x.shape or y.shape != x.shape[:1]:
        raise refused(f"x must be (N, k) and y (N,), got {x.shape} and {y.shape} in {path}")
    if x.dtype.kind not in "biuf":
        raise refused(f"x must be real numbers, got {x.dtype} in {path}")
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        i, j = wrong[0]
        raise refused(f"x[{i}, {j}] = {x[i, j]} in {path}: fill it in, or leave it out")
    if y.dtype.kind not in "biufU":
        raise refused(f"y must be numbers or texts, got {y.dtype} in {path}")
    if y.dtype.kind == "f" and not np.all(np.isfinite(y)):
        i = int(np.argmin(np.isfinite(y)))
        raise refused(f"y[{i}] = {y[i]} in {path}: leave out what has no target")
    columns = tuple(f"x[{j}]" for j in range(x.shape[1]))
    return checked(path, x.astype(float), y.astype(int) if y.dtype.kind == "b" else y, columns)


READERS = {".csv": read_csv, ".npz": read_npz}


def checked(path: str, x: np.ndarray, y: np.ndarray, columns: tuple[str, ...]) -> Table:
    """The table of one target a datum: whole numbers and texts are classes, others are numbers."""
    if y.dtype.kind == "f":
        if len(y) < LEAST:
            raise refused(f"{path} has {len(y)} data, at least {LEAST} are needed")
        if np.ptp(y) == 0:
            raise refused(f"the target of {path} is {y[0]:g} everywhere")
        return Table(path, x, y, (), columns)
    classes, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) == 1:
        raise refused(f"the target of {path} has one class, {classes[0]}")
    if counts.min() < LEAST:
        raise refused(
            f"class {classes[counts.argmin()]} of {path} has {counts.min()} data, at least "
            f"{LEAST} are needed; whole numbers and texts are classes: write targets that are numbers with a "
            "decimal point"
        )
    return Table(path, x, labels, tuple(map(str, classes)), columns)


def refused(message: str) -> Refused:
    """That the table cannot be used."""
    return Refused(f"argument --table: {message}")


def is_number(word: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
