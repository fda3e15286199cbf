"""The abstract stepper and what a step returns."""

import inspect
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from mfjax._numerics.arrays import as_part, known, scalar
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.measures import Measure, Particles, Tangent


class Step(eqx.Module):
    """The outcome of a step: the new `state` and the flow's `evaluation` there (the first stage of the next).

    `error` is the local error relative to the tolerance, so that a step is accepted when it is at most
    one; 0 where the stepper estimates none. `memory` is what the stepper itself carries (moments of an
    optimizer). `status` reports faults of the scheme itself.
    """

    state: State
    evaluation: Evaluation
    error: Float[Array, ""]
    memory: Any
    status: Int[Array, ""]


class StepSizes(eqx.Module):
    """Steps of unequal lengths, by their number: `size(n)` in flow time, n from 0 at the start of a run."""

    size: Callable

    def __call__(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        return jnp.asarray(self.size(jnp.asarray(step, jnp.int32)))


class Stepper(eqx.Module):
    """One scheme. `order` is its order in time on smooth deterministic flows, held to it by tests.

    A fixed stepper has a step `dt` in flow time (not a learning rate: the velocity of a particle never
    contains its mass), or steps that follow from their number; an adaptive one has `dt = None` and estimates
    its error.
    """

    order: ClassVar[int]
    noisy: ClassVar[bool] = False
    # Whether its steps, if they are small enough, lower the energy of a flow that does.
    monotone: ClassVar[bool] = True
    # Evaluations of the flow, each with its outer solve if there is one, before the first step and in every
    # step that is tried; a factorization counts as one. `None` where their number is not known in advance.
    evaluations: ClassVar[tuple[int, int] | None] = None
    dt: eqx.AbstractVar[Float[Array, ""] | StepSizes | None]

    def __check_init__(self):
        name = type(self).__name__
        if not isinstance(getattr(type(self), "order", None), int):
            raise ValueError(f"{name} has no order: write order: ClassVar[int] = 1 in the class")
        pair = self.evaluations
        if pair is not None and not (
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(n, int) for n in pair)
        ):
            raise ValueError(
                f"the evaluations of {name} are a pair, (before the first step, in each), such as (1, 1), "
                f"got {pair!r}"
            )
        if not isinstance(self.dt, StepSizes | None) and not hasattr(self.dt, "astype"):
            raise ValueError(
                f"the dt of {name} must be an array, got {self.dt!r}: write self.dt = "
                "mf.steppers.step_size(dt) in its __init__"
            )
        try:
            inspect.signature(self.step).bind(*[None] * 6)
        except TypeError:
            raise ValueError(
                f"{name}.step must take (flow, state, evaluation, dt, key, memory), got "
                f"{inspect.signature(self.step)}"
            ) from None

    @property
    def adaptive(self) -> bool:
        """Whether the driver chooses the step from `error`."""
        return self.dt is None

    @property
    def equal(self) -> bool:
        """Whether all steps have one size, but for those that end at a saved time."""
        return not isinstance(self.dt, StepSizes | None)

    def size(self, step: Int[Array, ""] | int, dtype: Any) -> Float[Array, ""]:
        """The size of the step of this number, of a stepper that is not adaptive."""
        dt = known(self.dt)
        return (dt(step) if isinstance(dt, StepSizes) else dt).astype(dtype)

    def needs_key(self, flow: Flow) -> bool:
        """Whether a run of `flow` draws random numbers."""
        return self.noisy and flow.stochastic

    def validate(self, flow: Flow, mu: Measure) -> None:
        """**Raises** `ValueError` if this scheme cannot step `flow` on measures like `mu`."""
        if flow.random and self.adaptive:
            raise ValueError(
                f"{type(self).__name__} finds its steps by differences that batches of data disturb: use a "
                "stepper of a fixed step, such as steppers.Euler(dt), or all data"
            )
        if flow.stochastic and not self.noisy and isinstance(mu, Particles):
            raise ValueError(
                f"{type(self).__name__} is deterministic, and this flow has noise (temperature > 0): use "
                "steppers.EulerMaruyama or steppers.StochasticHeun"
            )

    def evaluate(self, flow: Flow, state: State) -> Evaluation:
        """The flow at the state from which a run starts, as the first step needs it."""
        return flow.evaluate(state)

    def init(self, flow: Flow, state: State) -> Any:
        """The `memory` before the first step."""
        return None

    @abstractmethod
    def step(
        self,
        flow: Flow,
        state: State,
        evaluation: Evaluation,
        dt: Float[Array, ""],
        key: Key[Array, ""] | None,
        memory: Any,
    ) -> Step:
        """Cross `dt` from `state`, at which the flow has been evaluated already.

        Ask the flow at the state for what depends on time: `flow.at(state).energy`, not `flow.energy`.
        `key` is that of this step; `None` if the run was given none, which a flow without noise needs not.
        `memory` is what `init` made or the last step returned, of the same structure.
        """


def step_size(dt: Any) -> Array:
    """A step in flow time. **Raises** `ValueError` unless it is a positive number."""
    return scalar(dt, "dt", above=0)


def step_sizes(dt: Any) -> Array | StepSizes:
    """A step in flow time, or a function from the number of a step to it, as the schedules of optax are.

    The number is an array inside a compiled program: `jnp.where`, no `if`.

    **Raises** `ValueError` unless the step, the first one of a function, is a positive number.
    """
    if not callable(dt):
        return step_size(dt)
    scalar(dt(jnp.zeros((), jnp.int32)), "dt of the first step", above=0)
    return StepSizes(as_part(dt))


def with_clock(flow: Flow, state: State, evaluation: Evaluation, dt: Array) -> State:
    """`state` with its time and fields moved, for schemes that move the measure in their own way."""
    return flow.move(state, Tangent(fields=evaluation.tangent.fields, time=evaluation.tangent.time), dt)


def settle(
    flow: Flow, state: State, memory: Any = None, *, error: ArrayLike = 0.0, status: ArrayLike = 0
) -> Step:
    """Evaluate the flow at a finished state and wrap both up."""
    evaluation = flow.evaluate(state)
    state = state.with_carry(evaluation.carry)
    dtype = state.measure.dtype
    return Step(
        state,
        evaluation,
        jnp.asarray(error, dtype),
        memory,
        jnp.asarray(status, jnp.int32),
    )
