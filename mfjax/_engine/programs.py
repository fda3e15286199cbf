"""The compiled functions of a run, or of a batch of cells: each is traced when it is first needed."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mfjax._engine.loop import advance, advance_steps, begin, close
from mfjax._numerics.compiled import Program, program, shapes_of


class Chunk(NamedTuple):
    """What is done between two checkpoints: `steps` steps, or, if these are zero, `saves` saved times."""

    steps: int
    saves: int


class Programs:
    """The loop over time for one kind of `inputs`: a `Simulation`, or what `lifted` makes its functions of.

    `lifted(function)` takes (inputs, *rest) where `function` takes (simulation, *rest); records have the
    saved times on `axis`.
    """

    def __init__(self, lifted: Callable[[Callable], Callable] | None = None, axis: int = 0):
        self._lifted, self.axis = lifted, axis
        self._made: dict[Any, Program] = {}
        self._lock = threading.RLock()

    def find(self, function: Callable, inputs: Any, *rest: Any) -> Program:
        """The program of `function`, made at its first call; `inputs` and `rest` may be shapes."""
        key = (function, *(r for r in rest if isinstance(r, int)))
        with self._lock:
            if key not in self._made:
                rest = shapes_of(rest)
                made = (
                    program(function, inputs, *rest)
                    if self._lifted is None
                    else Program(self._lifted(function), inputs, *rest)
                )
                self._made[key] = made
            return self._made[key]

    def _call(self, function: Callable, *arguments: Any) -> Any:
        return self.find(function, *arguments)(*arguments)

    def inside_a_trace(self, inputs: Any) -> bool:
        """Whether a function of the run reaches numbers of an outer program."""
        return self.find(begin, inputs).inside_a_trace

    def begin(self, inputs: Any) -> Any:
        """(carry, record) at t = 0."""
        return self._call(begin, inputs)

    def advance(self, inputs: Any, carry: Any, saves: int, capacity: int) -> Any:
        """(carry, records) after `saves` saved times, at most `capacity`."""
        carry, records = self._call(advance, inputs, carry, np.int32(saves), capacity)
        if saves == capacity:
            return carry, records
        kept = (slice(None),) * self.axis + (slice(saves),)
        return carry, jax.tree.map(lambda leaf: leaf[kept], records)

    def advance_steps(self, inputs: Any, carry: Any, steps: int) -> Any:
        """The carry after `steps` steps."""
        return self._call(advance_steps, inputs, carry, np.int32(steps))

    def close(self, inputs: Any, carry: Any) -> Any:
        """(carry, record) at the saved time that is reached."""
        return self._call(close, inputs, carry)

    def needed(self, inputs: Any, chunk: Chunk) -> list[Program]:
        """The programs of a run in such chunks, as its shapes decide them."""
        first, count = self.find(begin, inputs), np.int32(0)
        carry, _ = first.shapes
        if not chunk.steps:
            return [first, self.find(advance, inputs, carry, count, chunk.saves)]
        return [first, self.find(advance_steps, inputs, carry, count), self.find(close, inputs, carry)]
