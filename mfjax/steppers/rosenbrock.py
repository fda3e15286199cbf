"""Linearly implicit Runge-Kutta schemes for diffusion on a grid: adaptive, L-stable, no Newton iteration."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax import status as codes
from mfjax._arrays import inner
from mfjax.energies.base import Energy
from mfjax.flows.base import State
from mfjax.grids import internal_parts, transport_part
from mfjax.grids.linear import ShiftedFluxes, with_sum_of
from mfjax.measures import Tangent
from mfjax.steppers.base import Step, Stepper, settle
from mfjax.steppers.explicit import checked_tolerances, scaled_error
from mfjax.steppers.implicit import require_diffusion


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

    def step(self, flow, state, evaluation, dt, key, memory) -> Step:
        stages, carry, status = self._stages(flow, state, evaluation, dt)
        mu = state.measure
        increment = inner(jnp.asarray(self.coefficients.m, mu.dtype), stages)
        # Zero up to the rounding of the stages, which would add up over a long run in single precision.
        weights, clipped = _without_negative(mu.weights + with_sum_of(increment, 0.0))
        defect = jnp.abs(inner(jnp.asarray(self.coefficients.e, mu.dtype), stages)) + clipped
        moved = State(mu.with_weights(weights), carry, state.fields)
        one = jnp.ones((), mu.dtype)
        error = scaled_error(state, moved, Tangent(weights=defect), one, self.rtol, self.atol)
        return settle(flow, moved, error=error, status=status)

    def _stages(self, flow, state, evaluation, dt):
        mu, table = state.measure, self.coefficients
        pairs = flow.space.linearise(flow.energy, mu, evaluation.carry)
        matrix = ShiftedFluxes(pairs, table.gamma * dt, mu.periodic)
        right = table.gamma * dt * evaluation.tangent.weights
        first = matrix.solve(right)
        status = jnp.where(matrix.failed(first, right), codes.NOT_CONVERGED, codes.OK)
        stages = jnp.zeros((len(table.m), mu.size), mu.dtype).at[0].set(first)

        def stage(loop, row):
            stages, carry = loop
            index, a, c = row
            # Below zero there is no state: singular pressures become NaN there, and the step is rejected.
            weights = jnp.maximum(mu.weights + inner(a, stages), 0)
            evaluated = flow.evaluate(State(mu.with_weights(weights), carry, state.fields))
            right = dt * evaluated.tangent.weights + inner(c, stages)
            return (stages.at[index].set(matrix.solve(table.gamma * right)), evaluated.carry), None

        # A scan, so that the flow is compiled once and not once a stage.
        rows = (jnp.arange(1, len(table.m)), _square(table.a, mu.dtype), _square(table.c, mu.dtype))
        (stages, carry), _ = jax.lax.scan(stage, (stages, evaluation.carry), rows)
        return stages, carry, status


class Rosenbrock(_LinearlyImplicit):
    """Six-stage Rosenbrock scheme of order 4 with an embedded solution of order 3, for pure diffusion.

    (I - gamma h J) u_i = gamma (h f(m + sum_j a_ij u_j) + sum_j c_ij u_j), m_{n+1} = m_n + sum_i m_i u_i,
    with f = -sum_k L_k p_k the mass rates (K,) and J = -sum_k L_k diag(p_k') their exact derivative.

    L-stable and stiffly accurate, so the step follows accuracy alone: rtol |m| + atol mean(m) in each
    cell, in root mean square. One matrix per step, six solves of cost O(K) in one dimension; several
    dimensions use conjugate gradients (relative residual 1e-10 in float64, 1e-5 in float32).

    Mass is conserved to rounding and masses are never negative: negative values within the tolerance (at
    a front, or beside empty cells) become zero at the expense of the others and count as error, larger
    ones reject the step. max(target/mu) does not rise by more than the tolerance. `ImplicitEuler`
    keeps both for every step size.

    Differentiable in a loop of fixed length through `step`; an adaptive run has forward derivatives only.

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

    def validate(self, flow, mu):
        super().validate(flow, mu)
        if not linearised_exactly(flow.energy):
            raise ValueError(
                "Rosenbrock needs the exact derivative, and has none of limited or non-local fluxes: use "
                "steppers.RosenbrockW, or stepper=None, for an energy that also transports or has fronts"
            )


class RosenbrockW(_LinearlyImplicit):
    """Four-stage W-method of order 3 with an embedded solution of order 2, for diffusion with transport.

    The scheme of `Rosenbrock` with J the derivative of the fluxes at frozen potential
    (`mfjax.grids.FiniteVolume.linearise`): a W-method keeps its order with any J. Drift beside an entropy
    is part of J and sets no limit. Limited transport enters as in an explicit Runge-Kutta scheme, and steps
    stay below its limit. L-stable and stiffly accurate in the diffusion. Mass and positivity as for
    `Rosenbrock`.

    **Raises** `ValueError` for particles, and for energies without internal part.

    Source: ROS34PW2 of J. Rang and L. Angermann, BIT Numerical Mathematics 45 (2005) 761-787.
    """

    order: ClassVar[int] = 3
    coefficients: ClassVar[Coefficients] = ROS34PW2


def linearised_exactly(energy: Energy) -> bool:
    """Whether the fluxes of `energy` have their exact derivative in `FiniteVolume.linearise`."""
    return not transport_part(energy).parts() and all(e.flux != "upwind" for _, e in internal_parts(energy))


def _square(rows: tuple[tuple[float, ...], ...], dtype) -> Array:
    size = len(rows) + 1
    return jnp.asarray([(*row, *[0.0] * (size - len(row))) for row in rows], dtype)


def _without_negative(weights: Array) -> tuple[Array, Array]:
    """Non-negative masses of the same sum, and what was cut off in each cell."""
    kept = jnp.maximum(weights, 0)
    negative = jnp.any(weights < 0)
    factor = jnp.where(negative, jnp.sum(weights) / jnp.where(negative, jnp.sum(kept), 1), 1)
    return kept * factor, kept - weights
