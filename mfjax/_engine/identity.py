"""What a run is known by on disk: the program of its step, and the numbers that it starts from."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfjax._engine.loop import begin
from mfjax._engine.record import observed
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import one_step
from mfjax._numerics.compiled import Program, is_array, shapes_of

# Arrays of at most this many numbers are written out, so that a refusal can name them.
SHOWN = 4


def step_program(make: Callable[[Any], Simulation], inputs: Any) -> Program:
    """The program of one step and one record of the run `make(inputs)`, whatever their number."""
    carry, _ = Program(lambda inputs: begin(make(inputs)), shapes_of(inputs)).shapes
    number = jax.ShapeDtypeStruct((), carry.dt.dtype)

    def step(inputs, carry, time, dt):
        sim = make(inputs)
        return one_step(sim, carry, time, dt), observed(sim, carry)

    return Program(step, shapes_of(inputs), carry, number, number)


def text_of(*programs: Program) -> str:
    """The texts of programs, without the names that functions had and without arrays of many numbers."""
    return "\n".join(_plain(program.text) for program in programs)


def _plain(text: str) -> str:
    # Those of functions; the targets of custom calls say what they do. Of a Python callback a text says only
    # that there is one.
    symbol = r'@"[^"]*"|@[\w.$-]+'
    functions = re.findall(rf"func\.func (?:public |private )?({symbol})", text)
    names = {name: f"@f{i}" for i, name in enumerate(dict.fromkeys(functions))}
    text = re.sub(symbol, lambda match: names.get(match.group(0), match.group(0)), text)
    return re.sub(r'"0x[0-9A-F]{256,}"', lambda found: _digest(found.group(0).encode()), text)


def numbers_of(tree: Any) -> dict[str, str]:
    """The arrays of a pytree by their names, each as text: numbers where they are few, else a digest."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    return {name(path): described(leaf) for path, leaf in leaves if is_array(leaf)}


def numbers_of_run(sim: Simulation) -> dict[str, str]:
    """The numbers of a run; its saved times, beyond which it may be continued, are not among them."""
    numbers = numbers_of(sim)
    del numbers["save_times"]
    return numbers


def closed_over(*programs: Program) -> dict[str, str]:
    """The arrays that functions close over."""
    found = [constant for program in programs for constant in program.constants]
    return {f"array {i} that a function closes over": described(c) for i, c in enumerate(found)}


def described(array: Any) -> str:
    """A text that two arrays share if and only if they are equal, bit for bit."""
    kind = str(array.dtype)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    value = np.asarray(array)
    plain = value.dtype.kind in "biuf"
    if value.ndim == 0 and plain:
        return f"{value.item()!r} ({kind})"
    label = f"{kind}{list(value.shape)}"
    if value.size <= SHOWN and plain:
        return f"{value.tolist()} ({label})"
    return f"{label} with digest {_digest(np.ascontiguousarray(value).tobytes())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
