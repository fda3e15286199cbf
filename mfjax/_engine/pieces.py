"""A run taken apart into functions whose leaves are all that its loops depend on."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry, one_step, record, split, whole_again


class Pieces(eqx.Module):
    """A run taken apart into what its loops need, so that they depend on nothing that is out of sight.

    `attempt(carry, dt)` is `one_step`, `observe(carry)` is `record`; `dt` is the fixed step, if there is one.
    """

    attempt: Callable[[Carry, Array], tuple[Carry, Array, Array]]
    observe: Callable[[Carry], tuple[Any, dict[str, Any]]]
    times: Float[Array, " S1"]
    dt: Float[Array, ""] | None
    order: int = eqx.field(static=True)
    save_every: int | None = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    checkpoints: int | None = eqx.field(static=True)
    countable: bool = eqx.field(static=True)


class RawKey(eqx.Module):
    """The numbers of a random key."""

    data: Array
    kind: Any = eqx.field(static=True)


class Keyless(eqx.Module):
    """A function whose leaves are numbers: JAX cannot keep a random key for reverse mode inside a choice."""

    function: Any

    @staticmethod
    def of(function: Callable) -> "Keyless":
        """`function`, its keys taken apart."""
        is_key = lambda x: eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        apart = lambda x: RawKey(jr.key_data(x), jr.key_impl(x)) if is_key(x) else x
        return Keyless(jax.tree.map(apart, function))

    def __call__(self, *arguments):
        is_raw = lambda x: isinstance(x, RawKey)
        whole = lambda x: jr.wrap_key_data(x.data, impl=x.kind) if is_raw(x) else x
        return jax.tree.map(whole, self.function, is_leaf=is_raw)(*arguments)


def attempt_moving(sim: Simulation, fixed: Any, moving: Carry, dt: Array) -> tuple[Carry, Array, Array]:
    """`one_step` of a carry without what stays."""
    kept, error, status = one_step(sim, whole_again(moving, fixed), dt)
    return split(kept)[0], error, status


def record_moving(sim: Simulation, fixed: Any, moving: Carry) -> tuple[Any, dict[str, Any]]:
    """`record` of a carry without what stays."""
    return record(sim, whole_again(moving, fixed))


def pieces(sim: Simulation, fixed: Any, closed: Carry | None = None) -> Pieces:
    """The pieces of `sim` for carries without what is `fixed`.

    With a carry, `closed`: whatever traced numbers they reach are leaves.
    """
    attempt, observe = eqx.Partial(attempt_moving, sim, fixed), eqx.Partial(record_moving, sim, fixed)
    if closed is not None:
        attempt = Keyless.of(eqx.filter_closure_convert(attempt, closed, closed.dt))
        observe = Keyless.of(eqx.filter_closure_convert(observe, closed))
    options = (sim.stepper.order, sim.save_every, sim.max_steps, sim.checkpoints, sim.countable)
    return Pieces(attempt, observe, sim.times, sim.stepper.dt, *options)
