"""What an experiment runs: its sizes, and the series of runs behind its figures."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import ClassVar

from _lab.cli import Count, Positive, Precision

# Centers of the quadratic regularizer f.
BIASED, UNBIASED = 0.0, 1.0
# The figures vary one parameter at a time around these.
GAMMA, LAM = 100.0, 1e-3


@dataclass(frozen=True)
class Series:
    """One sweep: every combination of lams, gammas and widths, for one regularizer center and one method."""

    name: str
    center: float
    lams: tuple[float, ...]
    gammas: tuple[float, ...]
    widths: tuple[int, ...]
    # Flow time of an iteration, that of the preset unless given.
    step: float | None = None
    # The outer weights follow at rate lam / timescale instead of being solved for.
    timescale: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes(ABC):
    """Sizes of an experiment. `step` and `time` are flow times; t = k step at iteration k."""

    inputs: Count  # data
    teacher_width: Count  # neurons of the teacher
    widths: tuple[Count, ...]  # numbers of particles
    step: Positive  # flow time of an iteration
    time: Positive  # end of the runs
    seeds: Count  # repetitions
    saves: Count  # saved times
    lams: tuple[Positive, ...]  # regularization strengths
    precision: Precision  # number format of the particle runs

    # Flow times that are recorded in any case.
    snapshots: ClassVar[tuple[float, ...]] = ()

    @property
    @abstractmethod
    def series(self) -> tuple[Series, ...]:
        """The series of runs."""

    @property
    def other_lams(self) -> tuple[float, ...]:
        """The lams at which only the widest network is trained."""
        return tuple(lam for lam in self.lams if lam != LAM)

    @property
    def saved(self) -> tuple[int, ...]:
        """The iterations at which runs are recorded."""
        always = [round(t / self.step) for t in self.snapshots]
        return saved_steps(round(self.time / self.step), self.saves, always)

    @property
    def times(self) -> list[float]:
        """The flow times of `saved`."""
        return [k * self.step for k in self.saved]


def saved_steps(steps: int, count: int, always: Iterable[int] = ()) -> tuple[int, ...]:
    """`count` iteration numbers up to `steps`, about evenly spread on a logarithmic axis, with `always`.

    A multiple of 16 of them makes equal chunks, so that a run compiles one loop instead of two.

    >>> saved_steps(100, 6, [50])
    (1, 3, 7, 19, 50, 100)
    """
    chosen = sorted({k for k in {1, *always, steps} if 1 <= k <= steps})
    while len(chosen) < min(count, steps):
        # Halve the widest gap, by ratio, that has a whole number inside.
        ratio, i = max((b / a, i) for i, (a, b) in enumerate(pairwise(chosen)) if b > a + 1)
        chosen.insert(i + 1, min(max(round(chosen[i] * sqrt(ratio)), chosen[i] + 1), chosen[i + 1] - 1))
    return tuple(chosen)
