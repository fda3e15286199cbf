"""A coordinate of a domain."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Shaped

# Where an axis ends, and how long it is.
Number = int | float | np.integer | np.floating | Shaped[Array | np.ndarray, ""]


class Axis(NamedTuple):
    """One coordinate of a domain: from `lower` to `upper`, `None` where endless, or `closed` to a circle.

    An axis that has ends and is not closed ends at walls, or where coordinates degenerate (a pole).
    `label` is its name, with the unit in brackets, "angle [rad]", for figures.

    >>> Axis(0.0, 2.0, closed=True).length
    2.0
    """

    lower: Number | None = None
    upper: Number | None = None
    closed: bool = False
    label: str | None = None

    @property
    def endless(self) -> bool:
        """Whether the coordinate may be any number."""
        return self.lower is None

    @property
    def length(self) -> Number:
        """The length between the ends, infinite where there are none."""
        if self.lower is None or self.upper is None:
            return float("inf")
        # Without an operation, so that a period known inside `jit` stays known.
        at_origin = isinstance(self.lower, float) and self.lower == 0
        return self.upper if at_origin else self.upper - self.lower
