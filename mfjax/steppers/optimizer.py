"""Any optax transformation as a stepper on the features."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import scalar
from mfjax.flows.base import State
from mfjax.measures import Particles, Tangent
from mfjax.steppers.base import Step, Stepper, settle, step_size


class Optax(Stepper):
    """Any optimizer of optax as a stepper of the particles.

    updates, memory = transformation.update(grad V, memory, x); x <- retract(x + updates).

    The gradient handed over is grad V at each particle, minus the velocity of the flow, and not the plain
    gradient m_i grad V of the energy: learning rates are flow times. `Optax(optax.sgd(tau), dt=tau)` is
    `Euler(tau)`. The updates already hold minus the learning rate; their tangent part is applied. Marks
    that the flow moves (the outer weights of `TwoTimescale`) are transformed in the same way. On a flow that
    depends on time, `Scheduled` say, the gradient is that of the time at which a step begins.

    Transformations that search along a line or scale by the value (`optax.lbfgs`, `optax.polyak_sgd`) are
    given value and function: M times the energy of M particles, whose slope the gradient is where all masses
    are 1/M and no marks move.

    - `transformation`: an `optax.GradientTransformation`, or a function that returns one, such as
      `optax.adam` or `optax.inject_hyperparams(optax.adam)`.
    - `dt`: the flow time that one step counts for, the clock of the run. A step that is cut short to land
      on a saved time has its updates shortened in proportion.
    - `hyperparameters`: numbers for the function, array leaves. A sweep or a derivative over
      them needs this form, and does not retrace; the numbers inside a ready transformation are constants.

    **Raises** `ValueError` on a `Grid`, for a flow that moves masses (an additive update does not keep
    them positive), and for a transformation that cannot be applied to points, as `optax.lookahead`, which
    wants parameters of its own. **Fails** to ignore padding where the transformation couples particles, as
    clipping by a global norm does. Order 1 with `optax.sgd(dt)`; other transformations follow another flow.

    >>> import jax.numpy as jnp, mfjax as mf, optax
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x / 2), mf.domains.Euclidean(1))
    >>> state = flow.init(mf.measures.Particles(jnp.array([[1.0]])))
    >>> stepper = Optax(optax.sgd, dt=0.25, learning_rate=0.25)
    >>> memory = stepper.init(flow, state)
    >>> step = stepper.step(flow, state, flow.evaluate(state), stepper.dt, None, memory)
    >>> step.state.measure.points.tolist()
    [[0.75]]
    """

    order: ClassVar[int] = 1
    # Momentum climbs.
    monotone: ClassVar[bool] = False
    evaluations: ClassVar[tuple[int, int] | None] = (1, 1)
    transformation: Any = eqx.field(static=True)
    dt: Float[Array, ""]
    hyperparameters: dict[str, Float[Array, ""]]

    def __init__(self, transformation: Any, dt: ScalarLike, **hyperparameters: Any):
        self.transformation = transformation
        self.dt = step_size(dt)
        self.hyperparameters = {name: scalar(value, name) for name, value in hyperparameters.items()}
        ready = hasattr(transformation, "update")
        if not ready and not isinstance(transformation, Callable):
            raise ValueError(
                "transformation must be an optax.GradientTransformation or a function that returns one, got "
                f"{transformation!r}"
            )
        if ready and self.hyperparameters:
            raise ValueError(
                f"the numbers of a ready transformation are fixed: pass the function that makes it, to which "
                f"{sorted(self.hyperparameters)} are given"
            )
        if not hasattr(self._built(self.dt.dtype), "update"):
            raise ValueError(f"{transformation!r} did not return an optax.GradientTransformation")

    def _built(self, dtype):
        if hasattr(self.transformation, "update"):
            return self.transformation
        try:
            return self.transformation(**{k: v.astype(dtype) for k, v in self.hyperparameters.items()})
        except TypeError as error:
            raise ValueError(f"the optax transformation could not be built: {error}") from error

    def validate(self, flow, mu):
        super().validate(flow, mu)
        if not isinstance(mu, Particles):
            raise ValueError(f"Optax moves particles, got a {type(mu).__name__}: use stepper=None")
        tangent = eqx.filter_eval_shape(lambda nu: flow.rate(flow.init(nu)), mu)
        if tangent.weights is not None or tangent.growth is not None:
            raise ValueError(
                f"Optax does not keep masses positive, and {type(flow).__name__} moves them: use an explicit "
                "stepper"
            )
        try:
            eqx.filter_eval_shape(lambda nu: self._try(flow, flow.init(nu)), mu)
        except (TypeError, AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"the optax transformation cannot be applied to points: {str(error).splitlines()[0]}"
            ) from error

    def _try(self, flow, state):
        evaluation = self.evaluate(flow, state)
        state = state.with_carry(evaluation.carry)
        return self._updates(flow, state, evaluation, self.init(flow, state))[0]

    def _updates(self, flow, state, evaluation, memory):
        """What the transformation makes of the slope of the energy: (updates, memory)."""
        import optax

        gradient = jax.tree.map(jnp.negative, _timeless(evaluation.tangent))
        here, built = _moving(state, gradient), self._built(state.measure.dtype)
        more = {}
        if evaluation.energy is not None:
            value_at = lambda there: state.measure.size * flow.evaluate(_replaced(state, there)).energy
            more = {"value": state.measure.size * evaluation.energy, "grad": gradient, "value_fn": value_at}
        transformation = optax.with_extra_args_support(built)
        # A tangent is a tree of arrays like any other, which the types of optax do not know.
        params = cast("optax.Params", here)
        updates, memory = transformation.update(gradient, memory, params, **more)
        return cast(Tangent, updates), memory

    def init(self, flow, state):
        moving = _moving(state, _timeless(eqx.filter_eval_shape(flow.rate, state)))
        return self._built(state.measure.dtype).init(moving)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        mu, domain = state.measure, flow.domain
        updates, memory = self._updates(flow, state, evaluation, memory)
        if updates.points is not None:
            tangential = jax.vmap(domain.velocity)(mu.points, updates.points)
            updates = eqx.tree_at(lambda t: t.points, updates, tangential)
        portion = dt / self.dt.astype(mu.dtype)
        if evaluation.tangent.time is not None:
            updates = eqx.tree_at(
                lambda t: t.time, updates, self.dt.astype(mu.dtype), is_leaf=lambda leaf: leaf is None
            )
        return settle(flow, flow.move(state, updates, portion), memory)


def _timeless(tangent: Tangent) -> Tangent:
    """What an optimizer moves: all but the clock."""
    return eqx.tree_at(lambda t: t.time, tangent, None, is_leaf=lambda leaf: leaf is None)


def _replaced(state: State, moving: Tangent) -> State:
    """The state with what `_moving` takes of it replaced."""
    mu = state.measure
    points = mu.points if moving.points is None else moving.points
    mu = eqx.tree_at(lambda m: (m.points, m.marks), mu, (points, {**mu.marks, **(moving.marks or {})}))
    return State(mu, state.carry, {**state.fields, **(moving.fields or {})}, state.time)


def _moving(state: State, tangent: Tangent) -> Tangent:
    """The arrays of a state that a tangent moves, in the structure of the tangent."""
    mu = state.measure
    points = None if tangent.points is None else mu.points
    marks = None if tangent.marks is None else {name: mu.marks[name] for name in tangent.marks}
    fields = None if tangent.fields is None else {name: state.fields[name] for name in tangent.fields}
    return Tangent(points=points, marks=marks, fields=fields)
