"""Explicit Euler on a sphere whose gradient keeps its radial part until the points are normalized."""

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Array, Float, ScalarLike

from mfjax.domains import Domain, Wrapped
from mfjax.flows.base import Evaluation, Flow, State
from mfjax.measures import Measure, Particles
from mfjax.steppers.base import Step, Stepper, StepSizes, settle, step_sizes


class NormalizedEuler(Stepper):
    """Gradient descent in the surrounding space, each step ended by a retraction to the domain.

    x <- retract(x - dt grad V(x)), grad V (d,) the Euclidean gradient with its radial part, dt in flow
    time; on a sphere retract(y) = y / |y|. `Euler` takes the tangent part of the gradient alone: the two
    differ by O(dt^2) a step, so that the order is 1. This is the step of the public variable-projection
    code, whose numbers it reproduces to rounding.

    On flat domains it is `Euler`. The radial part is that of the potential as its energy extends it off
    the domain; energies that are functions of coordinates of the domain alone have none.

    **Raises** `ValueError` for a step that is not a positive number, measures on a grid, and flows with
    noise.

    Source: the published algorithm of variable projection on S^1 (public code of the VarPro paper).

    >>> import jax.numpy as jnp, mfjax as mf
    >>> circle = mf.domains.Sphere(1)
    >>> flow = mf.flows.Wasserstein(mf.energies.Potential(lambda x: -x[0] - 3 * x[1]), circle)
    >>> mu = mf.measures.Particles(jnp.array([[1.0, 0.0]]))
    >>> run = mf.simulate(flow, mu, stepper=NormalizedEuler(0.5), steps=1)
    >>> run.final.points.round(3).tolist()
    [[0.707..., 0.707...]]
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[tuple[int, int] | None] = (1, 1)
    dt: Float[Array, ""] | StepSizes

    def __init__(self, dt: ScalarLike | Callable):
        self.dt = step_sizes(dt)

    def validate(self, flow: Flow, mu: Measure) -> None:
        if not isinstance(mu, Particles):
            raise ValueError(f"NormalizedEuler moves particles, got a {type(mu).__name__}: use stepper=None")
        super().validate(flow, mu)

    def evaluate(self, flow: Flow, state: State) -> Evaluation:
        return flow.on(_Surrounded(flow.domain)).evaluate(state)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        surrounded = flow.on(_Surrounded(flow.domain))
        return settle(surrounded, surrounded.move(state, evaluation.tangent, dt))


class _Surrounded(Wrapped):
    """A domain whose velocities keep their normal part."""

    def __init__(self, domain: Domain):
        super().__init__(domain)

    def velocity(self, x, v):
        return v
