"""Explicit Runge-Kutta schemes for any flow, fixed or adaptive.

Stages are taken on the domain itself: each stage point is retracted from the base point. Since the
retraction followed by the velocity extends the flow smoothly off the domain, the classical orders
hold on curved domains too.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import inner, known, safe_sqrt, scalar
from mfjax.flows.base import State
from mfjax.measures import Grid, Measure, Tangent
from mfjax.steppers.base import Step, Stepper, StepSizes, settle, step_sizes


class Tableau(NamedTuple):
    """The coefficients of an explicit Runge-Kutta scheme.

    Butcher coefficients: stage rows `a`, weights `b`, and `d` = b - (embedded weights) or `None`.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    d: tuple[float, ...] | None = None


EULER = Tableau((), (1.0,))
HEUN = Tableau(((1.0,),), (0.5, 0.5))
CLASSICAL = Tableau(((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
# Third order, strong-stability preserving (Shu, Osher 1988), with Heun's weights embedded.
SSP3 = Tableau(((1.0,), (0.25, 0.25)), (1 / 6, 1 / 6, 2 / 3), (1 / 6 - 0.5, 1 / 6 - 0.5, 2 / 3))


def combine(weights: tuple[float, ...], tangents: list[Tangent]) -> Tangent:
    """sum_k weights_k tangents_k over the terms of non-zero weight."""
    terms = [(w, t) for w, t in zip(weights, tangents, strict=False) if w != 0]
    return jax.tree.map(
        lambda *leaves: sum(w * v for (w, _), v in zip(terms, leaves, strict=True)), *[t for _, t in terms]
    )


def from_base(tangent: Tangent, along: Tangent, dt) -> Tangent:
    """The rate of a stage that lies `dt` along `along`, in the coordinates of the base.

    Weights that also grow are a exp(g), and the stages combine rates of a and of g: classical orders hold,
    and whatever the growth, masses stay positive where they would without it.
    """
    if tangent.weights is None or tangent.growth is None:
        return tangent
    shrunk = tangent.weights * jnp.exp(-dt * along.growth)
    return eqx.tree_at(lambda t: t.weights, tangent, shrunk)


def runge_kutta(tableau: Tableau, flow, state: State, evaluation, dt) -> tuple[State, list[Tangent]]:
    """One step, and the stage tangents."""
    tangents, carry = [evaluation.tangent], state.carry
    for row in tableau.a:
        along = combine(row, tangents)
        stage = flow.move(state, along, dt)
        at_stage = flow.evaluate(stage.with_carry(carry))
        tangents.append(from_base(at_stage.tangent, along, dt))
        carry = at_stage.carry
    moved = flow.move(state, combine(tableau.b, tangents), dt)
    if isinstance(moved.measure, Grid):
        moved = eqx.tree_at(lambda state: state.measure, moved, _without_rounding(moved.measure))
    return moved.with_carry(carry), tangents


def _without_rounding(mu: Grid) -> Grid:
    """The measure, with zero for masses that are negative by rounding alone, as ahead of a front."""
    weights = mu.weights
    rounding = jnp.finfo(weights.dtype).eps * jnp.mean(weights) * mu.relative_volume
    return mu.with_weights(jnp.where((weights < 0) & (weights > -rounding), 0, weights))


class _Fixed(Stepper):
    tableau: ClassVar[Tableau]
    dt: Float[Array, ""] | StepSizes

    def __init__(self, dt: ScalarLike | Callable):
        self.dt = step_sizes(dt)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        moved, _ = runge_kutta(self.tableau, flow, state, evaluation, dt)
        return settle(flow, moved)


class Euler(_Fixed):
    """Explicit Euler, which is gradient descent.

    Explicit Euler: x <- retract(x - dt grad V). For a reduced risk this is VarPro gradient descent.

    omega_i <- omega_i - M tau grad_{omega_i} L (thesis (III.42)) is `Euler(tau)` on the Wasserstein
    flow: the plain gradient of L is -1/M times the velocity. Order 1, one solve per step. The papers
    use dt = 2**-10; stable below 2 / (largest rate).

    - `dt`: a step in flow time, or a function from the number n = 0, 1, ... of a step to its size, as the
      schedules of optax are: steps that fall like 1/n let stochastic gradient descent converge (Robbins,
      Monro 1951). If they add up to less than the end of a run through times, it uses up `max_steps`.
      The other explicit schemes and those with noise take one, too.

    >>> import mfjax as mf
    >>> well = mf.flows.Wasserstein(mf.energies.Potential(lambda x: x @ x / 2), mf.domains.Euclidean(1))
    >>> mu = mf.measures.Particles(jnp.array([[1.0]]))
    >>> mf.simulate(well, mu, stepper=Euler(lambda n: 0.5 / (n + 1)), steps=3).times.round(3).tolist()
    [0.0, 0.5, 0.75, 0.91...]
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[tuple[int, int] | None] = (1, 1)
    tableau: ClassVar[Tableau] = EULER

    def __init__(self, dt: ScalarLike | Callable):
        super().__init__(dt)


class Heun(_Fixed):
    """Heun's second-order scheme, two solves per step."""

    order: ClassVar[int] = 2
    evaluations: ClassVar[tuple[int, int] | None] = (1, 2)
    tableau: ClassVar[Tableau] = HEUN

    def __init__(self, dt: ScalarLike | Callable):
        super().__init__(dt)


class RK4(_Fixed):
    """The classical fourth-order Runge-Kutta scheme, four solves per step.

    On a grid masses can become negative below the step at which those of `Euler` do, and the run says so.
    """

    order: ClassVar[int] = 4
    evaluations: ClassVar[tuple[int, int] | None] = (1, 4)
    tableau: ClassVar[Tableau] = CLASSICAL

    def __init__(self, dt: ScalarLike | Callable):
        super().__init__(dt)


class Adaptive(Stepper):
    """Third-order strong-stability-preserving Runge-Kutta with an embedded error estimate.

    The step follows the local error, kept below atol + rtol |state| in root mean square (mass-weighted
    on particles), the transport limit of a grid, and positivity of masses.

    **Good values**: the defaults, `tolerances`; on particles whose features are smooth, rtol 1e-6 in
    float64. Where features have kinks (ReLU) the velocity jumps at each datum, and a tolerance below
    the jumps resolves every one of them: the number of steps then grows like 1 / rtol. For stiff
    diffusion use `Rosenbrock`.
    """

    order: ClassVar[int] = 3
    evaluations: ClassVar[tuple[int, int] | None] = (1, 3)
    dt: None = eqx.field(static=True)
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None

    def __init__(self, rtol: ScalarLike | None = None, atol: ScalarLike | None = None):
        self.dt = None
        self.rtol, self.atol = checked_tolerances(rtol, atol)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        moved, tangents = runge_kutta(SSP3, flow, state, evaluation, dt)
        defect = combine(known(SSP3.d), tangents)
        error = scaled_error(state, moved, defect, dt, self.rtol, self.atol)
        return settle(flow, moved, error=error)


def checked_tolerances(rtol: Any, atol: Any) -> tuple[Array | None, Array | None]:
    """Both as array leaves, `None` where the measure will decide."""
    return (
        None if rtol is None else scalar(rtol, "rtol", above=0),
        None if atol is None else scalar(atol, "atol", minimum=0),
    )


def tolerances(rtol: Array | None, atol: Array | None, measure: Measure) -> tuple[Array, Array]:
    """(rtol, atol) for a measure: 1e-6 and 1e-9 on a grid in float64, otherwise 1e-4 and 1e-6."""
    tight = isinstance(measure, Grid) and measure.dtype == jnp.float64
    pairs = ((rtol, 1e-6 if tight else 1e-4), (atol, 1e-9 if tight else 1e-6))
    relative, absolute = (
        jnp.asarray(usual if given is None else given, measure.dtype) for given, usual in pairs
    )
    return relative, absolute


def scaled_error(
    old: State, new: State, defect: Tangent, dt, rtol: Array | None, atol: Array | None
) -> Array:
    """Root mean square of dt * defect / (atol + rtol * size), over everything that moves."""
    rtol, atol = tolerances(rtol, atol, old.measure)
    squares: list[Any] = []
    if defect.points is not None:
        size = safe_sqrt(new.measure.integrate(jnp.sum(new.measure.points**2, axis=-1)))
        squares.append(_ratio(safe_sqrt(_mean(new.measure.weights, defect.points)), atol + rtol * size) ** 2)
    if defect.weights is not None:
        before, after = old.measure.weights, new.measure.weights
        # Of the mean density: cells may be small.
        least = atol * jnp.mean(before) * cast(Grid, old.measure).relative_volume
        scale = least + rtol * jnp.maximum(jnp.abs(before), jnp.abs(after))
        squares.append(jnp.mean(_ratio(defect.weights, scale) ** 2))
    for name, rate in (defect.marks or {}).items():
        seen = _seen(new.measure)
        size = safe_sqrt(_mean(seen, new.measure.marks[name]))
        squares.append(_ratio(safe_sqrt(_mean(seen, rate)), atol + rtol * size) ** 2)
    if defect.growth is not None:
        squares.append((safe_sqrt(_mean(new.measure.weights, defect.growth)) / rtol) ** 2)
    for name, rate in (defect.fields or {}).items():
        size = safe_sqrt(jnp.mean(new.fields[name] ** 2))
        squares.append(_ratio(safe_sqrt(jnp.mean(rate**2)), atol + rtol * size) ** 2)
    mean: Any = sum(squares) / len(squares)
    return dt * safe_sqrt(mean)


def _seen(mu: Measure) -> Array:
    """The weights by which errors of marks count: masses, and on a grid a little in empty cells, too.

    Mass will enter them, and a mark that nobody watches there may run off.
    """
    if not isinstance(mu, Grid):
        return mu.weights
    return mu.weights + 1e-4 * jnp.mean(mu.weights) * mu.relative_volume


def _ratio(error: Array, scale: Array) -> Array:
    """error / scale, where nothing over nothing is no error (an empty cell at atol = 0)."""
    empty = (scale == 0) & (error == 0)
    return error / jnp.where(empty, 1.0, scale)


def _mean(weights: Array, values: Array) -> Array:
    values = values.reshape(weights.shape[0], -1)
    mass = jnp.sum(weights)
    return inner(weights, jnp.sum(values**2, axis=-1)) / jnp.where(mass > 0, mass, 1)
