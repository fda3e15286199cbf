"""Training, held-out and test parts of a table, stratified; inputs are standardized on what is fitted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from _lab.cli import Refused

from .tables import INSTALL, Table


class Part(NamedTuple):
    """Rows `fit` (n,) that a network is trained on, rows `seen` (m,) that it is judged by, and their scales.

    Leading axes, of splits and hold-outs, count many of them.
    """

    fit: np.ndarray
    seen: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    def at(self, *index: Any) -> "Part":
        """One of many parts."""
        return Part(*(jnp.asarray(array)[index] for array in self))

    def inputs(self, x: Any, rows: Any) -> Any:
        """Standardized inputs (n, k + 1): norms of about one for any k, and a one for the bias."""
        scaled = (x[rows] - self.center) / self.scale / self.center.shape[-1] ** 0.5
        return jnp.concatenate([scaled, jnp.ones_like(scaled[:, :1])], axis=1)


class Splits(NamedTuple):
    """For every seed a training part beside its test part, and hold-outs of the training part alone."""

    final: Part  # leading axis (seeds,)
    search: Part  # leading axes (seeds, holdouts)


def split(table: Table, seeds: Sequence[int], test: float, held_out: float, holdouts: int) -> Splits:
    """Stratified splits, the same for whoever trains on them.

    **Raises** `Refused` without scikit-learn, and for shares that leave a part without a class.
    """
    try:
        from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
    except ImportError as error:
        raise Refused(INSTALL) from error
    splitter = StratifiedShuffleSplit if table.classes else ShuffleSplit

    def parts(rows: np.ndarray, share: float, number: int, seed: int) -> list[Part]:
        try:
            found = splitter(number, test_size=share, random_state=seed).split(table.x[rows], table.y[rows])
            return [standardized(table.x, rows[fit], rows[seen]) for fit, seen in found]
        except ValueError as error:
            raise Refused(f"a share of {share:g} of {len(rows)} data is no part: {error}") from error

    final = [parts(np.arange(len(table.y)), test, 1, seed)[0] for seed in seeds]
    search = [
        stacked(parts(part.fit, held_out, holdouts, seed)) for part, seed in zip(final, seeds, strict=True)
    ]
    return Splits(stacked(final), stacked(search))


def conditioned(table: Table) -> Table:
    """The same table in units in which single precision has digits; parts are standardized after it."""
    near = lambda values: (values - values.mean(axis=0)) / spreads(values)
    return table._replace(x=near(table.x), y=table.y if table.classes else near(table.y))


def standardized(x: np.ndarray, fit: np.ndarray, seen: np.ndarray) -> Part:
    """A part whose columns have mean zero and deviation one on the rows it is trained on."""
    return Part(fit, seen, x[fit].mean(axis=0), spreads(x[fit]))


def spreads(x: np.ndarray) -> np.ndarray:
    """The deviations of columns, one for those that are constant."""
    return np.where(np.ptp(x, axis=0) == 0, 1.0, x.std(axis=0))


def stacked(parts: list[Part]) -> Part:
    """Parts of equal sizes as one."""
    return Part(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
