"""Linearly implicit Runge-Kutta schemes for diffusion on a grid: adaptive, L-stable, no Newton iteration."""

from typing import ClassVar, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax import status as codes
from mfjax._numerics.arrays import inner, known
from mfjax.flows.base import Flow, State
from mfjax.flows.wasserstein import Wasserstein
from mfjax.grids import transport_part
from mfjax.grids.linear import ShiftedFluxes, by_lines, with_sum_of
from mfjax.measures import Grid, Measure, Tangent
from mfjax.steppers.base import Step, Stepper, settle
from mfjax.steppers.explicit import checked_tolerances, scaled_error
from mfjax.steppers.implicit import require_diffusion, require_wasserstein


class Coefficients(NamedTuple):
    """(I - gamma h J) u_i = gamma (h f(y + sum_j a_ij u_j) + sum_j c_ij u_j); y' = y + sum_i m_i u_i.

    `e` gives the difference to the embedded solution, sum_i e_i u_i.
    """

    gamma: ScalarLike
    a: tuple[tuple[float, ...], ...]
    c: tuple[tuple[float, ...], ...]
    m: tuple[float, ...]
    e: tuple[float, ...]


_ROW = (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895)
# RODAS of Hairer and Wanner, Solving Ordinary Differential Equations II, section VI.4.
RODAS4 = Coefficients(
    gamma=0.25,
    a=(
        (1.544,),
        (0.9466785280815826, 0.2557011698983284),
        (3.314825187068521, 2.896124015972201, 0.9986419139977817),
        _ROW,
        (*_ROW, 1.0),
    ),
    c=(
        (-5.6688,),
        (-2.430093356833875, -0.2063599157091915),
        (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
        (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616),
        (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
    ),
    m=(*_ROW, 1.0, 1.0),
    e=(0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
)


def transformed(gamma, alpha, coupling, b, b_embedded) -> Coefficients:
    """Coefficients from the classical form k_i = h f(y + sum alpha_ij k_j) + h J sum gamma_ij k_j."""
    coupling = np.asarray(coupling) + gamma * np.eye(len(b))
    inverse = np.linalg.inv(coupling)
    a, c = np.asarray(alpha) @ inverse, np.eye(len(b)) / gamma - inverse
    rows = lambda matrix: tuple(tuple(map(float, matrix[i, :i])) for i in range(1, len(b)))
    m = np.asarray(b) @ inverse
    e = m - np.asarray(b_embedded) @ inverse
    return Coefficients(gamma, rows(a), rows(c), tuple(map(float, m)), tuple(map(float, e)))


_B = (0.24212380706095346, -1.2232505839045147, 1.545260255335102, 0.435866521508459)
# ROS34PW2 of Rang and Angermann, BIT 45 (2005): order 3 with any approximation of the Jacobian.
ROS34PW2 = transformed(
    0.435866521508459,
    (
        (0, 0, 0, 0),
        (0.87173304301691801, 0, 0, 0),
        (0.84457060015369423, -0.11299064236484185, 0, 0),
        (0, 0, 1, 0),
    ),
    (
        (0, 0, 0, 0),
        (-0.87173304301691801, 0, 0, 0),
        (-0.90338057013044082, 0.054180672388095326, 0, 0),
        (0.24212380706095346, -1.2232505839045147, 0.54526025533510214, 0),
    ),
    _B,
    (0.37810903145819369, -0.096042292212423178, 0.5, 0.2179332607542295),
)


class _LinearlyImplicit(Stepper):
    coefficients: ClassVar[Coefficients]
    dt: None = eqx.field(static=True)
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None

    def __init__(self, rtol: ScalarLike | None = None, atol: ScalarLike | None = None):
        self.dt = None
        self.rtol, self.atol = checked_tolerances(rtol, atol)

    def validate(self, flow, mu):
        require_diffusion(self, flow, mu)
        super().validate(flow, mu)

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        stages, carry, status = self._stages(flow, state, evaluation, dt)
        mu, table = state.measure, self.coefficients
        increment = _combined(jnp.asarray(table.m, mu.dtype), stages)
        change = known(increment.weights)
        if evaluation.tangent.growth is None:
            # Zero up to the rounding of the stages, which would add up over a long run in single precision.
            change = with_sum_of(change, 0.0)
            increment = eqx.tree_at(lambda t: t.weights, increment, change)
        weights, clipped = _without_negative(mu.weights + change)
        moved = _moved(state.with_carry(carry), increment, weights)
        defect = _combined(jnp.asarray(table.e, mu.dtype), stages)
        defect = eqx.tree_at(lambda t: t.weights, defect, jnp.abs(known(defect.weights)) + clipped)
        one = jnp.ones((), mu.dtype)
        error = scaled_error(state, moved, defect, one, self.rtol, self.atol)
        return settle(flow, moved, error=error, status=status)

    def _stages(self, flow, state, evaluation, dt):
        mu, table = state.measure, self.coefficients
        pairs = flow.at(state).linearize(state, evaluation)
        matrix = ShiftedFluxes(pairs, table.gamma * dt, mu.periodic, by_lines(mu))
        # Where no mass grows, `step` mends the sum of the increment.
        inverse = matrix.inverse if evaluation.tangent.growth is None else matrix.solve

        def solved(right):
            """(u, whether it failed) of (I - gamma h J) u = gamma right; only masses have a J."""
            right = jax.tree.map(lambda r: table.gamma * r, right)
            weights = inverse(right.weights)
            return eqx.tree_at(lambda t: t.weights, right, weights), matrix.failed(weights, right.weights)

        first, failed = solved(jax.tree.map(lambda r: dt * r, _rates(mu, evaluation.tangent)))
        zeros = jax.tree.map(lambda u: jnp.zeros((len(table.m), *u.shape), u.dtype), first)
        put = lambda stages, u, index: jax.tree.map(
            lambda all, one: jax.lax.dynamic_update_index_in_dim(all, one, index, 0), stages, u
        )

        def stage(loop, row):
            stages, carry, failed = loop
            index, a, c = row
            along = _combined(a, stages)
            # Below zero there is no state: singular pressures become NaN there, and the step is rejected.
            there = _moved(state.with_carry(carry), along, jnp.maximum(mu.weights + known(along.weights), 0))
            evaluated = flow.evaluate(there)
            rates = _rates(cast(Grid, there.measure), evaluated.tangent)
            u, missed = solved(jax.tree.map(lambda r, s: dt * r + s, rates, _combined(c, stages)))
            return (put(stages, u, index), evaluated.carry, failed | missed), None

        # A scan, so that the flow is compiled once and not once a stage.
        rows = (jnp.arange(1, len(table.m)), _square(table.a, mu.dtype), _square(table.c, mu.dtype))
        start = (put(zeros, first, 0), state.carry, failed)
        (stages, carry, failed), _ = jax.lax.scan(stage, start, rows)
        return stages, carry, jnp.where(failed, codes.NOT_CONVERGED, codes.OK)


def _rates(mu: Grid, tangent: Tangent) -> Tangent:
    """The rates of all that moves; those of the logarithms of masses as rates of masses."""
    weights = jnp.zeros_like(mu.weights) if tangent.weights is None else tangent.weights
    if tangent.growth is not None:
        full = mu.weights > 0
        weights = weights + jnp.where(full, mu.weights * jnp.where(full, tangent.growth, 0), 0)
    return Tangent(weights=weights, marks=tangent.marks, fields=tangent.fields, time=tangent.time)


def _combined(factors: Float[Array, " s"], stages: Tangent) -> Tangent:
    """sum_i factors_i stages_i, of arrays (s, ...)."""
    flat = lambda leaf: inner(factors, leaf.reshape(leaf.shape[0], -1)).reshape(leaf.shape[1:])
    return jax.tree.map(flat, stages)


def _moved(state: State, increment: Tangent, weights: Float[Array, " K"]) -> State:
    """The state with these masses, and marks and fields that moved by `increment`."""
    marks = {**state.measure.marks}
    for name, change in (increment.marks or {}).items():
        marks[name] = marks[name] + change
    fields = {**state.fields}
    for name, change in (increment.fields or {}).items():
        fields[name] = fields[name] + change
    time = state.time if increment.time is None else state.time + increment.time
    return State(
        cast(Grid, state.measure).with_weights(weights).with_marks(**marks), state.carry, fields, time
    )


class Rosenbrock(_LinearlyImplicit):
    """Six-stage Rosenbrock scheme of order 4 with an embedded solution of order 3, for pure diffusion.

    (I - gamma h J) u_i = gamma (h f(m + sum_j a_ij u_j) + sum_j c_ij u_j), m_{n+1} = m_n + sum_i m_i u_i,
    with f = -sum_k L_k p_k the mass rates (K,) and J = -sum_k L_k diag(p_k') their exact derivative.

    L-stable and stiffly accurate, so the step follows accuracy alone: rtol |m| + atol mean(m) in each
    cell, in root mean square. One matrix per step, six solves of cost O(K) in one dimension; several
    dimensions use BiCGStab (relative residual 1e-10 in float64, 1e-5 in float32).

    Mass is conserved to rounding and masses are never negative: negative values within the tolerance (at
    a front, or beside empty cells) become zero at the expense of the others and count as error, larger
    ones reject the step. max(target/mu) does not rise by more than the tolerance. `ImplicitEuler`
    keeps both for every step size.

    Differentiable in both modes, on the steps that were taken (`mf.simulate`).

    **Good values**: rtol 1e-6, atol 1e-9 in float64; 1e-4, 1e-6 in float32, which cannot resolve less.

    **Raises** `ValueError` for particles and for energies with a term that is not internal, for which the
    order would be lost: those take `RosenbrockW`.

    Source: the code RODAS, Hairer and Wanner, Solving Ordinary Differential Equations II, section VI.4.

    >>> import mfjax as mf
    >>> circle = mf.domains.Torus(1)
    >>> flow = mf.flows.Wasserstein(mf.energies.Entropy(), circle)
    >>> bump = mf.measures.Grid(circle, 4, [0.7, 0.1, 0.1, 0.1])
    >>> run = mf.simulate(flow, bump, stepper=Rosenbrock(1e-4, 1e-4), t1=1.0)
    >>> [round(float(w), 3) for w in run.final.weights]
    [0.25, 0.25, 0.25, 0.25]
    """

    order: ClassVar[int] = 4
    coefficients: ClassVar[Coefficients] = RODAS4

    def __init__(self, rtol: ScalarLike | None = None, atol: ScalarLike | None = None):
        super().__init__(rtol, atol)

    def validate(self, flow, mu):
        super().validate(flow, mu)
        require_wasserstein(self, flow, "steppers.RosenbrockW")
        if not linearized_exactly(flow, mu):
            raise ValueError(
                "Rosenbrock needs the exact derivative, and has none of limited or non-local fluxes: use "
                "steppers.RosenbrockW, or stepper=None, for an energy that also transports or has fronts"
            )


class RosenbrockW(_LinearlyImplicit):
    """Four-stage W-method of order 3 with an embedded solution of order 2, for diffusion with transport.

    The scheme of `Rosenbrock` with J the derivative of the fluxes at frozen potential
    (`Flow.linearize`): a W-method keeps its order with any J. Drift beside an entropy
    is part of J and sets no limit. Limited transport enters as in an explicit Runge-Kutta scheme, and steps
    stay below its limit; so do reactions, heights, and the time of a schedule, which have no part in J.
    L-stable and stiffly accurate in the diffusion. Mass and positivity as for `Rosenbrock`.

    **Raises** `ValueError` for particles, and for flows whose masses do not diffuse.

    >>> import mfjax as mf
    >>> circle = mf.domains.Torus(1)
    >>> hill = mf.energies.Potential(lambda x: jnp.cos(2 * jnp.pi * x[0]))
    >>> flow = mf.flows.Wasserstein(hill + mf.energies.Entropy(), circle)
    >>> run = mf.simulate(flow, mf.measures.Grid.uniform(circle, 4), stepper=RosenbrockW(), t1=2.0)
    >>> [round(float(w), 3) for w in run.final.weights]
    [0.098, 0.402, 0.402, 0.098]

    Source: ROS34PW2 of J. Rang and L. Angermann, BIT Numerical Mathematics 45 (2005) 761-787.
    """

    order: ClassVar[int] = 3
    coefficients: ClassVar[Coefficients] = ROS34PW2

    def __init__(self, rtol: ScalarLike | None = None, atol: ScalarLike | None = None):
        super().__init__(rtol, atol)


def linearized_exactly(flow: Flow, mu: Measure) -> bool:
    """Whether `flow.linearize` is the exact derivative of the rate: diffusion of masses and nothing else."""
    diffuses = all(energy.flux != "upwind" for _, energy in flow.at().diffusion(mu))
    alone = isinstance(flow, Wasserstein) and not transport_part(flow.energy).parts()
    return alone and diffuses


def _square(rows: tuple[tuple[float, ...], ...], dtype) -> Array:
    size = len(rows) + 1
    return jnp.asarray([(*row, *[0.0] * (size - len(row))) for row in rows], dtype)


def _without_negative(weights: Array) -> tuple[Array, Array]:
    """Non-negative masses of the same sum, and what was cut off in each cell."""
    kept = jnp.maximum(weights, 0)
    negative = jnp.any(weights < 0)
    factor = jnp.where(negative, jnp.sum(weights) / jnp.where(negative, jnp.sum(kept), 1), 1)
    return kept * factor, kept - weights
