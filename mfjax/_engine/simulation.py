"""What a run is, checked and unevaluated: flow, initial measure, stepper, saved times, observables."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, ScalarLike

from mfjax._engine.devices import refuse_explicit
from mfjax._engine.run import is_reserved
from mfjax._numerics.arrays import as_floats, count, finite, is_traced, kind, scalar
from mfjax.flows.base import Flow
from mfjax.measures import Measure, Particles
from mfjax.steppers import Adaptive, Rosenbrock, RosenbrockW, Stepper
from mfjax.steppers.rosenbrock import linearized_exactly

Observable = Callable[[Measure, Flow], Array]


class Simulation(eqx.Module):
    """Everything that defines a run, unevaluated: the arguments of `mf.simulate`, checked.

    A sweep stacks these. `save_times` (S,) are the S saved times after t = 0.
    """

    flow: Flow
    measure: Measure
    stepper: Stepper
    observables: dict[str, Observable]
    key: Key[Array, ""] | None
    save_times: Float[Array, " S"]
    save_every: int | None = eqx.field(static=True)
    save_measures: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    checkpoints: int | None = eqx.field(static=True)
    # Whether a run of fixed steps through times has, as far as is known, at most max_steps between two.
    countable: bool = eqx.field(static=True)

    def __init__(
        self,
        flow: Flow,
        measure: Measure,
        *,
        stepper: Stepper | None = None,
        steps: int | None = None,
        save_every: int = 1,
        t1: ScalarLike | None = None,
        save_at: Any = None,
        observables: Mapping[str, Observable] | None = None,
        key: Key[Array, ""] | None = None,
        save_measures: bool = True,
        max_steps: int = 100_000,
        checkpoints: int | None = None,
    ):
        if not isinstance(flow, Flow):
            raise ValueError(f"flow must be a Flow, got {kind(flow)}")
        refuse_explicit(measure)
        flow.validate(measure)
        self.flow, self.measure = flow, measure
        self.stepper = default_stepper(flow, measure) if stepper is None else stepper
        if not isinstance(self.stepper, Stepper):
            raise ValueError(f"stepper must be a Stepper, got {kind(stepper)}")
        self.stepper.validate(flow, measure)
        self.observables = _checked_observables(observables)
        self.key = _checked_key(key, self.stepper.needs_key(flow))
        self.save_measures = bool(save_measures)
        self.max_steps = count(max_steps, "max_steps")
        self.checkpoints = None if checkpoints is None else _checked_checkpoints(checkpoints)
        self.save_every, self.save_times = _schedule(
            self.stepper, steps, save_every, t1, save_at, measure.dtype
        )
        self.countable = _is_countable(self.stepper, self.save_every, self.times, self.max_steps)

    @property
    def times(self) -> Float[Array, " S1"]:
        """The saved times, t = 0 first."""
        return jnp.concatenate([jnp.zeros_like(self.save_times[:1]), self.save_times])


def default_stepper(flow: Flow, measure: Measure) -> Stepper:
    """An adaptive scheme for the measure, linearly implicit where it diffuses on a grid.

    A flow with noise needs an explicit step.
    """
    if flow.stochastic and isinstance(measure, Particles):
        raise ValueError(
            "a flow with noise (temperature > 0) has no adaptive default: pass "
            "stepper=steppers.EulerMaruyama(dt)"
        )
    if flow.at().diffusion(measure):
        return Rosenbrock() if linearized_exactly(flow, measure) else RosenbrockW()
    return Adaptive()


def _checked_observables(observables) -> dict[str, Observable]:
    observables = {} if observables is None else observables
    if not isinstance(observables, Mapping):
        raise ValueError(
            f"observables must be a mapping from names to functions, got {type(observables).__name__}"
        )
    observables = dict(observables)
    for name, observable in observables.items():
        if not isinstance(name, str) or not callable(observable):
            raise ValueError(
                f"observables must map names to functions of (measure, flow), got {name!r}: {observable!r}"
            )
        if is_reserved(name):
            raise ValueError(f"the observable name {name!r} is recorded with every run; choose another")
        try:
            inspect.signature(observable).bind(None, None)
        except TypeError as error:
            raise ValueError(
                f"the observable {name!r} must be a function of two arguments (measure, flow): {error}"
            ) from None
        except ValueError:
            # A builtin, of which nothing is known.
            pass
    return observables


def _checked_key(key, needed: bool):
    if key is None:
        if needed:
            raise ValueError(
                "this flow has noise (temperature > 0), or its stepper has: pass key=jax.random.key(seed)"
            )
        return None
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key must be a typed key, jax.random.key(seed), got {key!r}")
    if key.ndim != 0:
        raise ValueError(f"key must be one key, got an array of shape {key.shape}")
    return key


def _schedule(stepper, steps, save_every, t1, save_at, dtype):
    """(save_every or None, saved times) from one of the two forms of the time axis."""
    if (steps is None) == (t1 is None and save_at is None):
        raise ValueError("pass either steps= (with a fixed stepper) or t1= and/or save_at= (any stepper)")
    every = count(save_every, "save_every")
    if steps is not None:
        if stepper.adaptive:
            raise ValueError(
                f"steps= counts steps of a fixed size, and {type(stepper).__name__} chooses its own: pass t1="
            )
        steps = count(steps, "steps")
        if steps % every:
            raise ValueError(
                f"steps = {steps} is not a multiple of save_every = {every}: the end would not be saved"
            )
        _check_step_count(steps)
        index = jnp.arange(1, steps // every + 1)
        return every, (index * every).astype(dtype) * stepper.dt.astype(dtype)
    if every != 1:
        raise ValueError(
            f"save_every = {every} counts steps: with t1= or save_at=, list the times in save_at"
        )
    times = _saved_times(t1, save_at, dtype)
    if not stepper.adaptive and not is_traced((times, stepper.dt)):
        _check_step_count(float(times[-1]) / float(stepper.dt))
    return None, times


def _checked_checkpoints(checkpoints) -> int:
    number = count(checkpoints, "checkpoints")
    if number < 2:
        raise ValueError(f"checkpoints must be at least 2, got {number}: blocks of one step save nothing")
    return number


def _is_countable(stepper, save_every, times, max_steps: int) -> bool:
    if stepper.adaptive or save_every is not None or is_traced((times, stepper.dt)):
        return True
    longest = float(np.max(np.diff(np.asarray(times))))
    return longest <= max_steps * float(stepper.dt) * (1 + 1e-6)


def _check_step_count(steps: int | float) -> None:
    if steps >= 2**31:
        raise ValueError(
            f"a run has fewer than 2**31 steps, got {steps:g}: use a larger dt, or an adaptive stepper"
        )


def _saved_times(t1, save_at, dtype) -> Array:
    """The increasing saved times after 0, in the dtype of the run, which may merge times that differ."""
    end = None if t1 is None else scalar(t1, "t1", above=0)
    if save_at is None:
        return end.astype(dtype)[None]
    times = as_floats(save_at, "save_at")
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"save_at must be a list of times, got shape {times.shape}")
    if is_traced((times, end)):
        if end is not None:
            raise ValueError("t1 and save_at cannot be compared while traced: let save_at end with t1")
        return times.astype(dtype)
    values = np.asarray(finite(times, "save_at")).astype(dtype)
    end = None if end is None else np.asarray(end).astype(dtype)
    if values[0] == 0:
        values = values[1:]
    if end is not None and (values.size == 0 or values[-1] < end):
        values = np.append(values, end)
    if values.size == 0:
        raise ValueError("save_at holds only t = 0, which is always saved: add later times, or t1")
    if values[0] <= 0 or np.any(np.diff(values) <= 0):
        raise ValueError(f"the saved times must be positive and increasing in {dtype}, got {values.tolist()}")
    if end is not None and values[-1] > end:
        raise ValueError(f"save_at ends at {values[-1]:g}, after t1 = {float(end):g}")
    return jnp.asarray(values)
