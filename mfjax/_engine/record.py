"""What is recorded of a run at a saved time, and whether it ends there; pure."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from mfjax import status as codes
from mfjax._engine.simulation import Simulation
from mfjax._engine.step import Carry
from mfjax._numerics.arrays import nothing_in
from mfjax.measures import Grid


def observed(sim: Simulation, carry: Carry) -> tuple[Carry, Any]:
    """(the carry, which goes no further where the run is to stop, its record)."""
    if sim.stop is not None:
        done = jnp.all(jnp.asarray(sim.stop(carry.state.measure, sim.flow.at(carry.state)), bool))
        status = jnp.where(done & (carry.status == codes.OK), codes.STOPPED, carry.status)
        carry = eqx.tree_at(lambda c: c.status, carry, status.astype(jnp.int32))
    return carry, record(sim, carry)


def record(sim: Simulation, carry: Carry) -> tuple[Any, dict[str, Any]]:
    """What is saved of a run at one time: the part of the measure that moves, and the observables.

    Observables of a failed run are NaN, its measure is the last good one.
    """
    mu, flow = carry.state.measure, sim.flow.at(carry.state)
    random = sim.stepper.needs_key(sim.flow) or sim.flow.random
    # Of all data, where a step sees some of them.
    now = sim.flow.evaluate(carry.state) if sim.flow.random else carry.evaluation
    known = now.energy is not None
    values = {
        "energy": now.energy,
        "dissipation": now.dissipation if known else None,
        # `assemble` makes NaN of what is not known: a program that returns NaN looks like a fault.
        "dissipated": carry.dissipated if known and not random else None,
        "residual": now.residual,
        "mass": mu.mass,
        "min_weight": jnp.min(mu.weights),
    }
    values |= {name: _seen(name, observe(mu, flow)) for name, observe in sim.observables.items()}
    failed = carry.status > 0

    def mask(value):
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return value
        return jnp.where(failed, jnp.nan, value)

    values = jax.tree.map(mask, values)
    values |= {"steps": carry.steps, "rejected": carry.rejected, "status": carry.status}
    if sim.stepper.evaluations is not None:
        first, each = sim.stepper.evaluations
        values["evaluations"] = first + each * (carry.steps + carry.rejected)
    if not sim.save_measures:
        return None, values
    return ((mu.weights, mu.marks) if isinstance(mu, Grid) else mu), values


def _seen(name: str, value: Any) -> Any:
    """What an observable returned, as arrays. **Raises** `ValueError` if it is nothing that can be stored."""
    if not jax.tree.leaves(value) or nothing_in(value):
        raise ValueError(
            f"the observable {name!r} returned {value!r}: return an array, or a mapping of arrays"
        )
    try:
        return jax.tree.map(jnp.asarray, value)
    except TypeError as error:
        raise ValueError(f"the observable {name!r} returned what is no number: {error}") from None
