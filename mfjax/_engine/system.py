"""What the loops over time see of a run, and a step of it."""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from mfjax import status as codes
from mfjax._engine.record import observed
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry, fail, joined, one_step, select, split
from mfjax.steppers.base import StepSizes


class System(eqx.Module):
    """What the loops see of a run: a step, a record, the times, and no hidden number.

    `attempt(carry, time, dt)` is `one_step`, `observe(carry)` is `observed`, of a carry without what stays;
    `dt` is the fixed step, or the function from the number of a step to its size, if there is one.
    """

    attempt: Callable[[Carry, Array, Array], tuple[Carry, Array, Array]]
    observe: Callable[[Carry], tuple[Carry, Any]]
    times: Float[Array, " S1"]
    dt: Float[Array, ""] | StepSizes | None
    order: int = eqx.field(static=True)
    save_every: int | None = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    checkpoints: int | None = eqx.field(static=True)
    countable: bool = eqx.field(static=True)

    @staticmethod
    def of(sim: Simulation, fixed: Any, closed: Carry | None = None) -> "System":
        """The system of `sim` for carries without what is `fixed`.

        With a carry, `closed`: whatever traced numbers its functions reach are leaves.
        """
        attempt, observe = eqx.Partial(_attempt, sim, fixed), eqx.Partial(_observe, sim, fixed)
        dt = sim.stepper.dt
        if closed is not None:
            attempt = _Keyless.of(eqx.filter_closure_convert(attempt, closed, closed.dt, closed.dt))
            observe = _Keyless.of(eqx.filter_closure_convert(observe, closed))
            if isinstance(dt, StepSizes):
                dt = StepSizes(eqx.filter_closure_convert(dt.size, closed.steps))
        options = (sim.stepper.order, sim.save_every, sim.max_steps, sim.checkpoints, sim.countable)
        return System(attempt, observe, sim.times, dt, *options)

    @property
    def sizes(self) -> StepSizes | None:
        """The sizes of steps that differ by their numbers."""
        return self.dt if isinstance(self.dt, StepSizes) else None

    def next_step(self, carry: Carry, begin: Array) -> tuple[Array, Array]:
        """(time, size) of the next of the steps, fixed in advance, after the saved time `begin`."""
        dtype = carry.dt.dtype
        if self.sizes is not None:
            return jnp.asarray(carry.state.time, dtype), self.sizes(carry.steps).astype(dtype)
        dt = cast(Array, self.dt).astype(dtype)
        return begin + carry.taken.astype(dtype) * dt, dt

    def interval(self, carry: Carry) -> tuple[Array, Array]:
        """The saved times between which a run is."""
        times = self.times.astype(carry.dt.dtype)
        return times[carry.save], times[carry.save + 1]


def _attempt(sim: Simulation, fixed: Any, moving: Carry, time: Array, dt: Array):
    kept, error, status = one_step(sim, joined(moving, fixed), time, dt)
    return split(kept)[0], error, status


def _observe(sim: Simulation, fixed: Any, moving: Carry):
    carry, values = observed(sim, joined(moving, fixed))
    return split(carry)[0], values


class _RawKey(eqx.Module):
    data: Array
    kind: Any = eqx.field(static=True)


class _Keyless(eqx.Module):
    """A function whose leaves are numbers: JAX cannot keep a random key for reverse mode inside a choice."""

    function: Any

    @staticmethod
    def of(function: Callable) -> "_Keyless":
        is_key = lambda x: eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        apart = lambda x: _RawKey(jr.key_data(x), jr.key_impl(x)) if is_key(x) else x
        return _Keyless(jax.tree.map(apart, function))

    def __call__(self, *arguments):
        is_raw = lambda x: isinstance(x, _RawKey)
        whole = lambda x: jr.wrap_key_data(x.data, impl=x.kind) if is_raw(x) else x
        return jax.tree.map(whole, self.function, is_leaf=is_raw)(*arguments)


def fixed_step(system: System, carry: Carry, time: Array, dt: Array) -> Carry:
    """One step of size `dt` from `time`; a failed run stays where it was."""
    kept, _, status = system.attempt(carry, time, dt)
    moved = select(status == codes.OK, kept, fail(carry, status))
    return select(carry.status == codes.OK, moved, carry)
