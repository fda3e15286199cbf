"""What the runs of all experiments share: sizes, precision, results."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from common.records import Records


class Runs:
    """The series behind the figures of an experiment, each computed once and kept in the records."""

    def __init__(self, records: Records):
        self.records, self.settings = records, records.settings
        self.preset = self.settings.preset
        self.dtype = jnp.dtype(self.settings.precision)


def times_of(data: Any) -> np.ndarray:
    """The saved times (S,), t = 0 first, which all cells of a series share."""
    return np.asarray(data.times.values, float).reshape(-1, data.sizes["save"])[0]
