"""The problem every outer solver solves, and what it returns."""

from abc import abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._numerics.arrays import along, inner, long_norm, pairing, scalar, transposed_inner
from mfjax._numerics.operators import Operator, as_operator
from mfjax.regularizers import Regularizer


class OuterProblem(eqx.Module):
    """The best outer weights for given features and data, as a convex problem and by its dual variable.

    min over u of |A diag(m) u - b|^2 / (2 lam) + sum_i m_i f(u_i).

    `operator` A (N, M), a matrix or what has its products, holds sqrt(p_j) phi(omega_i, x_j), `target`
    b (N,) holds sqrt(p_j) y_j for data masses p_j (1/N unless given), `masses` m (M,), `lam` the strength,
    `regularizer` f. For c outputs b, and with it alpha and u, have c columns, over which terms are summed.

    The dual is max over alpha of <alpha, b> - lam |alpha|^2 / 2 - sum_i m_i f*(s_i), s = A^T alpha, with
    optimality b - A(m u) = lam alpha and u = (f*)'(s) (the VarPro paper's (16) has the sign of
    alpha reversed). Particles of zero mass drop out of every formula.
    """

    operator: Operator = eqx.field(converter=as_operator)
    target: Float[Array, "N *c"]
    masses: Float[Array, " M"]
    lam: Float[Array, ""]
    regularizer: Regularizer

    @property
    def matrix(self) -> Float[Array, "N M"]:
        """A, for methods that factorize it."""
        return self.operator.matrix()

    @property
    def center(self) -> Float[Array, ""]:
        """c, the minimizer of f."""
        return self.regularizer.conjugate_derivative(jnp.zeros((), self.target.dtype))

    @property
    def centered_target(self) -> Float[Array, "N *c"]:
        """b - c A m: what is left to fit when every outer weight is c."""
        return self.target - along(self.center * self.operator.output(self.masses), self.target)

    def scores(self, alpha: Float[Array, "N *c"]) -> Float[Array, "M *c"]:
        """s = A^T alpha."""
        return self.operator.scores(alpha)

    def output(self, weights: Float[Array, "M *c"]) -> Float[Array, "N *c"]:
        """A (m u): the network at the data, in units of sqrt(p)."""
        return self.operator.output(along(self.masses, weights) * weights)

    def outer_weights(self, alpha: Float[Array, "N *c"]) -> Float[Array, "M *c"]:
        """u = (f*)'(A^T alpha)."""
        return self.regularizer.conjugate_derivative(self.scores(alpha))

    def stationarity(self, alpha: Float[Array, "N *c"]) -> Float[Array, "N *c"]:
        """b - A(m u(alpha)) - lam alpha: the gradient of the concave dual, zero at the optimum."""
        return self.target - self.output(self.outer_weights(alpha)) - self.lam * alpha

    def residual(self, alpha: Float[Array, "N *c"]) -> Float[Array, ""]:
        """|stationarity| relative to |b|."""
        return relative(self.stationarity(alpha), self.target)

    def unresolved(self, alpha: Float[Array, "N *c"]) -> Float[Array, ""]:
        """The residual that is left to rounding where s_i = 0 to rounding and f'' vanishes, relative to |b|.

        For u = sign(s) |s|^(1 / (r - 1)), r > 2, no floating-point alpha resolves u_i = 0 better.
        """
        scores = self.scores(alpha)
        eps = float(jnp.finfo(alpha.dtype).eps)
        sizes = jnp.abs(self.matrix)
        blur = 64 * eps * transposed_inner(sizes, jnp.abs(alpha))
        weights = self.regularizer.conjugate_derivative
        spread = jnp.where(jnp.abs(scores) <= blur, weights(blur) - weights(-blur), 0.0)
        return relative(inner(sizes, along(self.masses, spread) * spread), self.target)

    def value(self, alpha: Float[Array, "N *c"]) -> Float[Array, ""]:
        """The dual objective: a lower bound of the reduced risk, off by the square of the error in alpha.

        Its partial derivatives at fixed alpha are exactly those the potential states, so value and
        potential agree even for an inexact alpha. It is written around the minimizer c of f to avoid
        cancellation: -f*(s) = f(c) - c s - (f*(s) + f(c) - c s).
        """
        center = self.center
        floor = self.regularizer(center)
        scores = self.scores(alpha)
        excess = self.regularizer.conjugate(scores) + floor - center * scores
        outputs = scores.size // len(scores)
        return (
            pairing(alpha, self.centered_target)
            - 0.5 * self.lam * pairing(alpha, alpha)
            - jnp.sum(inner(self.masses, excess))
            + outputs * floor * jnp.sum(self.masses)
        )


class OuterSolution(eqx.Module):
    """`alpha` (N,) or (N, c), its relative `residual`, a `status`, and what the next solve may start from."""

    alpha: Float[Array, "N *c"]
    residual: Float[Array, ""]
    status: Int[Array, ""]
    carry: Any = None


class OuterSolver(eqx.Module):
    """A method for `OuterProblem`. Its result must be differentiable in every array of the problem."""

    @abstractmethod
    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        """The optimal dual variable."""

    def choose(self, problem: OuterProblem, alone: bool = False) -> "OuterSolver":
        """The method for a problem of this shape; `alone` if it is not one of a sequence."""
        return self

    def init(self, problem: OuterProblem) -> Any:
        """What `carry` is before the first solve of a run that starts at `problem`."""
        return None


def each_output(solve: Callable) -> Callable:
    """The `solve` of a method for one output, made one for several, whose problems have nothing in common."""

    @wraps(solve)
    def call(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        if problem.target.ndim == 1:
            return solve(self, problem, carry)

        def one(target, carry):
            own = solve(self, eqx.tree_at(lambda p: p.target, problem, target), carry)
            return own.alpha, own.status, own.carry

        alpha, statuses, carry = jax.vmap(one, in_axes=1, out_axes=(1, 0, 1))(problem.target, carry)
        status = statuses[jnp.argmax(statuses != codes.OK)]
        return OuterSolution(alpha, problem.residual(alpha), status, carry)

    return call


def relative(error: Array, scale: Array) -> Float[Array, ""]:
    """|error| / |scale|, or |error| where the scale is zero."""
    # A run records residuals, some exactly zero, where the derivative of a plain norm is NaN.
    size = long_norm(scale.ravel())
    return long_norm(error.ravel()) / jnp.where(size > 0, size, 1.0)


def bound(name: str) -> Callable[[Any], Array | None]:
    """A converter of the tolerance `name` to an array leaf >= 0, or `None` where the dtype decides."""
    return lambda value: None if value is None else scalar(value, name, minimum=0)


def tolerance(dtype, requested: Array | None) -> Array | float:
    """The relative residual above which a solve is reported as failed."""
    if requested is not None:
        return requested.astype(dtype)
    return 1e-8 if jnp.dtype(dtype) == jnp.float64 else 1e-4


def graded(residual: Array, limit: Any, failure: int) -> Int[Array, ""]:
    """`failure` where the residual is above `limit` or NaN, else OK."""
    return jnp.where(residual <= limit, codes.OK, failure).astype(jnp.int32)
