"""The compiled functions of a run, or of a batch of cells: each is traced when it is first needed."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mfjax._engine.loop import advance, advance_steps, begin, close
from mfjax._engine.simulation import Simulation
from mfjax._numerics.compiled import Form, Lift, Program, is_array, known_program, program, shapes_of


class Chunk(NamedTuple):
    """What is done between two checkpoints: `steps` steps, or, if these are zero, `saves` saved times."""

    steps: int
    saves: int


class OfForm(NamedTuple):
    """`function` of a run of which all but the arrays, which are among its inputs, is known already."""

    function: Callable

    def __call__(self, form: Form, inputs: Any, *rest: Any) -> Any:
        return self.function(form(inputs.own, inputs.shared), *rest)


class Programs:
    """The loop over time for one kind of `inputs`: a `Simulation`, or what `make` makes one of.

    `form` is that one without its arrays. If it contains no code of a user, which could hide numbers, `make`
    is not called.

    Of a batch, functions are traced for the cell `one`, whatever the size, and `lift(counts)` makes them
    functions of many, of which the last `counts` arrays are the same for all; records have the saved times
    behind the cells.
    """

    def __init__(
        self,
        make: Callable[[Any], Simulation] | None = None,
        form: Form | None = None,
        one: Any = None,
        lift: Callable[[int], Lift] | None = None,
    ):
        self._make, self._form, self._one, self._lift = make, form, one, lift
        self.axis = 0 if lift is None else 1
        self._made: dict[Any, Program] = {}
        self._lock = threading.RLock()

    def find(self, function: Callable, inputs: Any, *rest: Any) -> Program:
        """The program of `function`, made at its first call; `inputs` and `rest` may be shapes."""
        key = (function, *(r for r in rest if isinstance(r, int)))
        with self._lock:
            if key not in self._made:
                self._made[key] = self._program(function, inputs, *shapes_of(rest))
            return self._made[key]

    def _program(self, function: Callable, inputs: Any, *rest: Any) -> Program:
        if (make := self._make) is None:
            return program(function, inputs, *rest)
        counts = sum(map(is_array, rest[1:]))
        if self._lift is not None:
            inputs = self._one
            rest = (self.find(begin, inputs).shapes[0], *rest[1:]) if rest else rest
        made = known_program(OfForm(function), self._form, inputs, *rest)
        if made is None:
            # Others may have changed what it reads since it was last traced.
            made = Program(lambda inputs, *rest: function(make(inputs), *rest), inputs, *rest)
        return made if self._lift is None else made.lifted(self._lift(counts))

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

    def memory(self, inputs: Any, chunk: Chunk) -> list[Any]:
        """What the compiler says of the memory of the programs of a run in such chunks; compiles them."""
        carry, _ = self.find(begin, inputs).shapes_for(inputs)
        arguments: list[Any] = [(begin, inputs)]
        if chunk.steps:
            arguments += [(advance_steps, inputs, carry, np.int32(0)), (close, inputs, carry)]
        else:
            arguments += [(advance, inputs, carry, np.int32(0), chunk.saves)]
        return [self.find(*each).memory(*each[1:]) for each in arguments]
