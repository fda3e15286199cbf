"""What a run is, checked and unevaluated: flow, initial measure, stepper, saved times, observables."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, ScalarLike

from mfjax._engine.devices import refuse_explicit
from mfjax._numerics.arrays import as_floats, count, finite, is_traced, kind, known, scalar, shown
from mfjax._results.run import Run, is_reserved
from mfjax.flows.base import Flow
from mfjax.measures import Measure, Particles
from mfjax.observables.base import Observable
from mfjax.steppers import Adaptive, Rosenbrock, RosenbrockW, Stepper
from mfjax.steppers.rosenbrock import linearized_exactly

Watched = Callable[[Measure, Flow], Array]


# Apart from the numbers of the steps, by which the noise of a step is told from others.
DATA = 2**31 - 1


def data_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key from which a run of this `key` draws what its steps see of the data."""
    return jax.random.fold_in(key, DATA)


class Options(TypedDict, total=False):
    """The options of a run: `Simulation` says what they mean, `DEFAULTS` which are not `None`."""

    stepper: Stepper | None
    steps: int | None
    save_every: int
    t1: ScalarLike | None
    save_at: Any
    observables: Mapping[str, Watched] | None
    key: Key[Array, ""] | None
    save_measures: bool
    max_steps: int
    checkpoints: int | None
    start: Run | None
    stop: Callable[[Measure, Flow], Any] | None


DEFAULTS: Options = {"save_every": 1, "save_measures": True, "max_steps": 100_000}


def spelled_out(function: Any) -> Any:
    """`function` with a signature that lists the options of a run by name, for readers and their tools."""
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS.get(name), annotation=kind)
        for name, kind in Options.__annotations__.items()
    ]
    positional = [p for p in given if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    function.__signature__ = signature.replace(parameters=positional + options + given[len(positional) :])
    return function


class Simulation(eqx.Module):
    """A run that is declared and checked, and not yet made: what `mf.simulate` runs and a sweep stacks.

    Time, in one of two forms: `steps` of a fixed stepper, saving every `save_every` of them; or up to
    `t1`, or through the increasing times `save_at`, in flow time. t = 0 and the end are always saved.

    - `flow`, `measure`: what moves, and from where; without a measure, from where the run `start` ended.
    - `stepper`: an `mf.steppers` scheme; `None` is an adaptive one chosen for the measure.
    - `observables`: names to functions of (measure, flow), evaluated at the saved times; `mf.Run` lists
      the names that are taken.
    - `key`: `jax.random.key(seed)`, mandatory for a flow with noise.
    - `save_measures`: whether the measures are kept, or only the observables.
    - `max_steps`: budget of an adaptive scheme between two saved times, and of derivatives there.
    - `checkpoints`: how many states reverse mode keeps on one level, at least 2 (`mf.simulate`).

    - `start`: a run of the same flow, stepper and key to go on from, as if it had been longer, bit for bit:
      its clock, number of steps, noise, size of step and memory of the stepper go on. `steps` counts further
      ones; `t1` and `save_at` lie after its end, on the same clock. Another flow starts from `start.final`.
    - `stop`: a function of (measure, flow), asked at the saved times, that ends the run where it is true.
      The later records repeat that one, with status -1, and the measure is the one that was reached.

    The field `save_times` (S,) holds the S saved times after the first, t = 0 or the end of `start`.

    **Raises** `ValueError` for arguments that are wrong, or do not go together, and `TypeError` for options
    that do not exist.

    >>> import mfjax as mf
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x), mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.ones((1, 1)))
    >>> sim = Simulation(flow, mu, stepper=mf.steppers.Euler(0.25), steps=4, save_every=2)
    >>> sim.times.tolist()
    [0.0, 0.5, 1.0]
    """

    flow: Flow
    measure: Measure
    stepper: Stepper
    observables: dict[str, Watched]
    key: Key[Array, ""] | None
    save_times: Float[Array, " S"]
    # The first time, and the state of a run at its end, from which this one goes on.
    begin: Float[Array, ""]
    start: Any
    stop: Callable[[Measure, Flow], Any] | None
    save_every: int | None = eqx.field(static=True)
    save_measures: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    checkpoints: int | None = eqx.field(static=True)
    # Whether a run of fixed steps through times has, as far as is known, at most max_steps between two.
    countable: bool = eqx.field(static=True)

    @spelled_out
    def __init__(self, flow: Flow, measure: Measure | None = None, **options: Unpack[Options]):
        unknown = sorted(set(options) - set(Options.__annotations__))
        if unknown:
            known = ", ".join(Options.__annotations__)
            raise TypeError(f"a run has no option {unknown[0]!r}; there are {known}")
        given: dict[str, Any] = {**DEFAULTS, **options}
        if not isinstance(flow, Flow):
            raise ValueError(f"flow must be a Flow, got {kind(flow)}")
        self.start, initial = _beginning(given.get("start"), measure)
        refuse_explicit(initial)
        flow.validate(initial)
        self.flow, self.measure = flow, initial
        stepper = given.get("stepper")
        self.stepper = default_stepper(flow, initial) if stepper is None else stepper
        if not isinstance(self.stepper, Stepper):
            raise ValueError(f"stepper must be a Stepper, got {kind(stepper)}")
        self.stepper.validate(flow, initial)
        self.observables = _checked_observables(given.get("observables"))
        for observable in self.observables.values():
            # Those of a run that goes on were asked at its start.
            if self.start is None and isinstance(observable, Observable):
                observable.validate(initial, flow)
        self.stop = given.get("stop")
        if self.stop is not None:
            _check_function(self.stop, "stop")
        self.key = _checked_key(given.get("key"), self.stepper.needs_key(flow) or flow.random)
        self.save_measures = bool(given["save_measures"])
        self.max_steps = count(given["max_steps"], "max_steps")
        checkpoints = given.get("checkpoints")
        self.checkpoints = None if checkpoints is None else _checked_checkpoints(checkpoints)
        self.begin = jnp.zeros((), initial.dtype) if self.start is None else self.start.state.time
        self.save_every, self.save_times = _schedule(self.stepper, given, initial.dtype, self.start)
        self.countable = _is_countable(self.stepper, self.save_every, self.times, self.max_steps)

    @property
    def times(self) -> Float[Array, " S1"]:
        """The saved times, t = 0 or the end of `start` first."""
        first = jnp.broadcast_to(self.begin[..., None], (*self.save_times.shape[:-1], 1))
        return jnp.concatenate([first, self.save_times], axis=-1)

    def seen(self, step: Int[Array, ""] | int) -> Flow:
        """The flow that the step of this number sees, from 0: of an energy with batches that of its batch.

        >>> import jax.numpy as jnp, mfjax as mf
        >>> linear, batches = mf.features.Function(lambda w, x: w @ x), mf.energies.Batches(2)
        >>> risk = mf.energies.Risk(linear, jnp.arange(6.0)[:, None], jnp.zeros(6), batches=batches)
        >>> flow = mf.flows.Wasserstein(risk, mf.domains.Euclidean(1))
        >>> mu, stepper = mf.measures.Particles(jnp.ones((1, 1))), mf.steppers.Euler(0.1)
        >>> sim = Simulation(flow, mu, stepper=stepper, steps=3, key=jax.random.key(0))
        >>> sorted(float(x[0]) for step in range(3) for x in sim.seen(step).energy.data.x)
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        """
        return self.flow.draw(data_key(known(self.key)), jnp.asarray(step)) if self.flow.random else self.flow

    @property
    def falls(self) -> bool:
        """Whether the recorded energy of this run falls, if its steps are small enough."""
        return self.flow.falls and self.stepper.monotone and not self.flow.random

    def without_measures(self) -> "Simulation":
        """The same run, of whose measures the last alone is kept."""
        # Not a copy, which equinox would take for an object that is being made, and keep.
        leaves, structure = jax.tree.flatten(self)
        changed = jax.tree.unflatten(structure, leaves)
        object.__setattr__(changed, "save_measures", False)
        return changed


def default_stepper(flow: Flow, measure: Measure) -> Stepper:
    """An adaptive scheme for the measure, linearly implicit where it diffuses on a grid.

    A flow with noise needs an explicit step.
    """
    if flow.stochastic and isinstance(measure, Particles):
        raise ValueError(
            "a flow with noise (temperature > 0) has no adaptive default: pass "
            "stepper=steppers.EulerMaruyama(dt)"
        )
    if flow.random:
        raise ValueError(
            "a flow that sees batches of data has no adaptive default: pass stepper=steppers.Euler(dt)"
        )
    if flow.at().diffusion(measure):
        return Rosenbrock() if linearized_exactly(flow, measure) else RosenbrockW()
    return Adaptive()


def _checked_observables(observables) -> dict[str, Watched]:
    observables = {} if observables is None else observables
    if not isinstance(observables, Mapping):
        raise ValueError(
            f"observables must be a mapping from names to functions, got {type(observables).__name__}"
        )
    observables = dict(observables)
    for name, observable in observables.items():
        if not isinstance(name, str) or not callable(observable):
            raise ValueError(
                "observables must map names to functions of (measure, flow), got "
                f"{name!r}: {shown(observable)}"
            )
        if is_reserved(name):
            raise ValueError(f"the observable name {name!r} is recorded with every run; choose another")
        _check_function(observable, f"the observable {name!r}")
    return observables


def _check_function(function: Any, name: str) -> None:
    """**Raises** `ValueError` unless `function` takes a measure and a flow."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ValueError(f"{name} must be a function of two arguments (measure, flow): {error}") from None
    except ValueError:
        # A builtin, of which nothing is known.
        pass


def _beginning(start: Any, measure: Any) -> tuple[Any, Any]:
    """(the state from which a run goes on, if there is one, the measure from which it starts)."""
    if start is None:
        if measure is None:
            raise ValueError("a run needs an initial measure, or start=, a run to go on from")
        return None, _in_precision(measure)
    if not isinstance(start, Run):
        raise ValueError(f"start must be a Run, got {kind(start)}; a measure comes after the flow")
    if measure is not None:
        raise ValueError("pass a measure or start=, which begins with its own: not both")
    if start.end is None:
        raise ValueError("this run did not keep its state, being a cell or traced: start from its .final")
    if not is_traced(start.status) and int(start.status) > 0:
        raise ValueError(f"the run to go on from {start.describe()}")
    return start.end, _in_precision(start.final)


def _in_precision(measure: Any) -> Any:
    """`measure`. **Raises** `ValueError` if it is in a precision that JAX does not have here."""
    if isinstance(measure, Measure) and measure.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "the measure is in double precision, which is off here: run inside jax.enable_x64(True), or "
            "after jax.config.update('jax_enable_x64', True)"
        )
    return measure


def _checked_key(key, needed: bool):
    if key is None:
        if needed:
            raise ValueError(
                "this flow has noise (temperature > 0), or batches, or its stepper has noise: pass "
                "key=jax.random.key(seed)"
            )
        return None
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key must be a typed key, jax.random.key(seed), got {shown(key)}")
    if key.ndim != 0:
        raise ValueError(f"key must be one key, got an array of shape {key.shape}")
    return key


def _schedule(stepper, options, dtype, start=None):
    """(save_every or None, saved times) from one of the two forms of the time axis."""
    steps, t1, save_at = (options.get(name) for name in ("steps", "t1", "save_at"))
    if (steps is None) == (t1 is None and save_at is None):
        raise ValueError("pass either steps= (with a fixed stepper) or t1= and/or save_at= (any stepper)")
    every = count(options["save_every"], "save_every")
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
        if not stepper.equal:
            return every, _unequal_times(stepper, steps, every, dtype, start)
        dt, number = stepper.dt.astype(dtype), jnp.arange(1, steps // every + 1) * every
        if start is None:
            return every, number.astype(dtype) * dt
        # As one longer run: times are whole numbers of steps, unless the steps so far had other sizes.
        begin, taken = start.state.time, start.steps
        further = begin + number.astype(dtype) * dt
        return every, jnp.where(
            begin == taken.astype(dtype) * dt, (taken + number).astype(dtype) * dt, further
        )
    if every != 1:
        raise ValueError(
            f"save_every = {every} counts steps: with t1= or save_at=, list the times in save_at"
        )
    times = _saved_times(t1, save_at, dtype, 0 if start is None else start.state.time)
    if stepper.equal and not is_traced((times, stepper.dt)):
        _check_step_count(float(times[-1]) / float(stepper.dt))
    return None, times


def _unequal_times(stepper, steps: int, every: int, dtype, start) -> Array:
    """The saved times of steps whose sizes follow from their numbers."""
    begin, taken = (0, 0) if start is None else (start.state.time, start.steps)
    sizes = jax.vmap(lambda n: stepper.size(n, dtype))(jnp.arange(steps, dtype=jnp.int32) + taken)
    if not is_traced(sizes) and not np.all(np.asarray(sizes) > 0):
        wrong = int(np.argmin(np.asarray(sizes) > 0))
        raise ValueError(f"dt must be positive, got {float(sizes[wrong]):g} for step number {wrong}")
    return begin + jnp.cumsum(sizes)[every - 1 :: every]


def _checked_checkpoints(checkpoints) -> int:
    number = count(checkpoints, "checkpoints")
    if number < 2:
        raise ValueError(f"checkpoints must be at least 2, got {number}: blocks of one step save nothing")
    return number


def _is_countable(stepper, save_every, times, max_steps: int) -> bool:
    if not stepper.equal or save_every is not None or is_traced((times, stepper.dt)):
        return True
    longest = np.diff(np.asarray(times)).max().item()
    return longest <= max_steps * float(stepper.dt) * (1 + 1e-6)


def _check_step_count(steps: int | float) -> None:
    if steps >= 2**31:
        raise ValueError(
            f"a run has fewer than 2**31 steps, got {steps:g}: use a larger dt, or an adaptive stepper"
        )


def _saved_times(t1, save_at, dtype, begin=0) -> Array:
    """The increasing saved times after `begin`, in the dtype of the run, which may merge some that differ."""
    end = None if t1 is None else scalar(t1, "t1", above=0)
    if save_at is None:
        end = known(end)
        if not is_traced((end, begin)) and float(end) <= float(begin):
            raise ValueError(f"t1 = {float(end):g} is not after t = {float(begin):g}, where the run begins")
        return end.astype(dtype)[None]
    times = as_floats(save_at, "save_at")
    if times.ndim != 1 or times.size == 0:
        raise ValueError(f"save_at must be a list of times, got shape {times.shape}")
    if is_traced((times, end, begin)):
        if end is not None:
            raise ValueError("t1 and save_at cannot be compared while traced: let save_at end with t1")
        times = times.astype(dtype)
        near = jnp.abs(times - begin) <= 8 * float(jnp.finfo(dtype).eps) * begin
        return jnp.where(near, jnp.asarray(begin, dtype), times)
    values = np.asarray(finite(times, "save_at")).astype(dtype)
    end = None if end is None else np.asarray(end).astype(dtype)
    begin, unit = np.asarray(begin), 8 * float(jnp.finfo(values.dtype).eps)
    # A list made by np.arange begins and ends a rounding before or after what is meant.
    if abs(values[0] - begin) <= unit * begin:
        values = values[1:]
    if end is not None and values.size and abs(values[-1] - end) <= unit * end:
        values[-1] = end
    if end is not None and (values.size == 0 or values[-1] < end):
        values = np.append(values, end)
    if values.size == 0:
        raise ValueError(f"save_at holds only t = {begin:g}, which is always saved: add later times, or t1")
    if values[0] <= begin or np.any(np.diff(values) <= 0):
        above = "positive" if begin == 0 else f"after t = {begin:g}"
        raise ValueError(f"the saved times must be {above} and increasing in {dtype}, got {values.tolist()}")
    if end is not None and values[-1] > end:
        raise ValueError(f"save_at ends at {values[-1]:g}, after t1 = {float(end):g}")
    return jnp.asarray(values)
