"""The problem every outer solver solves, and what it returns."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._numerics.arrays import inner, long_norm, scalar
from mfjax._numerics.operators import Operator, as_operator
from mfjax.regularizers import Regularizer


class OuterProblem(eqx.Module):
    """min over u of |A diag(m) u - b|^2 / (2 lam) + sum_i m_i f(u_i), by its dual variable.

    `operator` A (N, M), an `mf.operators.Operator` or a matrix, holds sqrt(p_j) phi(omega_i, x_j), `target`
    b (N,) holds sqrt(p_j) y_j for data masses p_j (1/N unless given), `masses` m (M,), `lam` the strength,
    `regularizer` f.

    The dual is max over alpha of <alpha, b> - lam |alpha|^2 / 2 - sum_i m_i f*(s_i), s = A^T alpha, with
    optimality b - A(m u) = lam alpha and u = (f*)'(s) (the VarPro paper's (16) has the sign of
    alpha reversed). Particles of zero mass drop out of every formula.
    """

    operator: Operator = eqx.field(converter=as_operator)
    target: Float[Array, " N"]
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
    def centered_target(self) -> Float[Array, " N"]:
        """b - c A m: what is left to fit when every outer weight is c."""
        return self.target - self.center * self.operator.output(self.masses)

    def scores(self, alpha: Float[Array, " N"]) -> Float[Array, " M"]:
        """s = A^T alpha."""
        return self.operator.scores(alpha)

    def output(self, weights: Float[Array, " M"]) -> Float[Array, " N"]:
        """A (m u): the network at the data, in units of sqrt(p)."""
        return self.operator.output(self.masses * weights)

    def outer_weights(self, alpha: Float[Array, " N"]) -> Float[Array, " M"]:
        """u = (f*)'(A^T alpha)."""
        return self.regularizer.conjugate_derivative(self.scores(alpha))

    def stationarity(self, alpha: Float[Array, " N"]) -> Float[Array, " N"]:
        """b - A(m u(alpha)) - lam alpha: the gradient of the concave dual, zero at the optimum."""
        return self.target - self.output(self.outer_weights(alpha)) - self.lam * alpha

    def residual(self, alpha: Float[Array, " N"]) -> Float[Array, ""]:
        """|stationarity| relative to |b|."""
        return relative(self.stationarity(alpha), self.target)

    def unresolved(self, alpha: Float[Array, " N"]) -> Float[Array, ""]:
        """The residual that is left to rounding where s_i = 0 to rounding and f'' vanishes, relative to |b|.

        For u = sign(s) |s|^(1 / (r - 1)), r > 2, no floating-point alpha resolves u_i = 0 better.
        """
        scores = self.scores(alpha)
        eps = float(jnp.finfo(alpha.dtype).eps)
        sizes = jnp.abs(self.matrix)
        blur = 64 * eps * inner(jnp.abs(alpha), sizes)
        weights = self.regularizer.conjugate_derivative
        spread = jnp.where(jnp.abs(scores) <= blur, weights(blur) - weights(-blur), 0.0)
        return relative(inner(sizes, self.masses * spread), self.target)

    def value(self, alpha: Float[Array, " N"]) -> Float[Array, ""]:
        """The dual objective: a lower bound of the reduced risk, off by the square of the error in alpha.

        Its partial derivatives at fixed alpha are exactly those the potential states, so value and
        potential agree even for an inexact alpha. It is written around the minimizer c of f to avoid
        cancellation: -f*(s) = f(c) - c s - (f*(s) + f(c) - c s).
        """
        center = self.center
        floor = self.regularizer(center)
        scores = self.scores(alpha)
        excess = self.regularizer.conjugate(scores) + floor - center * scores
        return (
            inner(alpha, self.centered_target)
            - 0.5 * self.lam * inner(alpha, alpha)
            - inner(self.masses, excess)
            + floor * jnp.sum(self.masses)
        )


class OuterSolution(eqx.Module):
    """`alpha` (N,), its relative `residual`, a `status` code and what the next solve may start from."""

    alpha: Float[Array, " N"]
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


def relative(error: Array, scale: Array) -> Float[Array, ""]:
    """|error| / |scale|, or |error| where the scale is zero."""
    # A run records residuals, some exactly zero, where the derivative of a plain norm is NaN.
    size = long_norm(scale)
    return long_norm(error) / jnp.where(size > 0, size, 1.0)


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
