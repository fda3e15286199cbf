"""Ridge regression by conjugate gradients: products with the features and no matrix."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mfjax import status as codes
from mfjax._numerics.arrays import Fixed, columns, count, inner, long_norm
from mfjax._numerics.linalg import one_by_one
from mfjax.outer.base import OuterProblem, OuterSolution, OuterSolver, bound, graded, tolerance
from mfjax.outer.subspace import Subspace
from mfjax.regularizers import Quadratic

# Iterations after which a new basis costs less than going on with the old one; two to ten are usual.
PATIENCE = 32


class Memory(eqx.Module):
    """What one solve leaves to the next: the dual variable, and the basis of its preconditioner."""

    alpha: Float[Array, "N *c"]
    subspace: Fixed


class ConjugateGradient(OuterSolver):
    """Ridge regression by conjugate gradients that start from the solution of the step before.

    (A diag(m) A^T + lam) alpha = b - c A m for `Quadratic`, from the alpha of the previous step. Several
    outputs share their products, and each has its own iteration.

    - `tolerance`: relative residual |b - A m u - lam alpha| / |b| at which it stops, 1e-6 in float32 and
      1e-11 in float64 unless given. Alpha is then off by tolerance |b| / lam at most, the recorded risk
      by its square times lam.
    - `rank` r: functions of the preconditioner `Subspace`, found at the first particles of a run. Where the
      particles have left what those span, as after a start gathered at a point, a solve is not done in
      `PATIENCE` iterations: it then finds functions at the particles of the moment, for the rest of that
      solve. Good values: 32 on the circle, 100 to 300 in two dimensions.
    - `max_iterations`: after which the status is `OUTER_SOLVE` if the residual is above 1e-4 (float32) or
      1e-8 (float64), or ten times `tolerance` where that is more.

    **Cost**: one product with A and one with A^T an iteration, two more a solve. Derivatives are those of the
    linear system, of any order, each a solve to the same tolerance. **Fails** for lam = 0.
    """

    tolerance: Float[Array, ""] | None = eqx.field(converter=bound("tolerance"), default=None)
    rank: int = eqx.field(static=True, default=32)
    max_iterations: int = eqx.field(static=True, default=200)

    def __check_init__(self):
        count(self.rank, "rank")
        count(self.max_iterations, "max_iterations")

    def init(self, problem: OuterProblem) -> Memory:
        """No previous solution, and the basis that the particles of `problem` span."""
        problem = jax.lax.stop_gradient(problem)
        return Memory(jnp.zeros_like(problem.target), Fixed(Subspace(problem, self.rank)))

    def solve(self, problem: OuterProblem, carry: Any = None) -> OuterSolution:
        if not isinstance(problem.regularizer, Quadratic):
            raise ValueError(
                "ConjugateGradient needs the regularizer Quadratic, got "
                f"{type(problem.regularizer).__name__}; use Newton"
            )
        memory = self.init(problem) if carry is None else carry
        dtype = problem.target.dtype
        accuracy = self.accuracy(dtype)
        fixed, memory = jax.lax.stop_gradient((problem, memory))
        # In a batch each member takes the iterations that it needs.
        solve = one_by_one(partial(renewing, rank=self.rank, max_iterations=self.max_iterations))
        iterate = lambda b, goal: solve(fixed, memory.subspace.value, b, goal)

        # A run may begin from a solve that failed.
        start = jnp.where(jnp.all(jnp.isfinite(memory.alpha)), memory.alpha, 0).astype(dtype)
        # Of a target that is fitted by u = c, or is zero, no share of its norm can be asked for.
        goal = accuracy * jnp.maximum(norms(fixed.target), norms(fixed.centered_target))
        lack = fixed.centered_target - ridge_product(fixed)(start)
        # Where particles have come far, zero is the better start: the other would leave its rounding.
        worse = norms(lack) > norms(fixed.centered_target)
        start, lack = jnp.where(worse, 0, start), jnp.where(worse, fixed.centered_target, lack)
        found = start + iterate(lack, goal)

        def tangent_solve(linear, y):
            # The linear map is that of `fixed`, whatever it is differentiated by.
            solve = lambda _, b: iterate(b, accuracy * norms(b))
            return jax.lax.custom_linear_solve(linear, y, solve, symmetric=True)

        equation = lambda alpha: ridge_product(problem)(alpha) - problem.centered_target
        alpha = jax.lax.custom_root(equation, found, lambda _, x: x, tangent_solve)
        residual = problem.residual(alpha)
        limit = jnp.maximum(tolerance(dtype, None), 10 * accuracy)
        memory = Memory(jax.lax.stop_gradient(alpha), memory.subspace)
        return OuterSolution(alpha, residual, graded(residual, limit, codes.OUTER_SOLVE), memory)

    def accuracy(self, dtype) -> Array | float:
        """The relative residual at which a solve in `dtype` stops."""
        if self.tolerance is not None:
            return self.tolerance.astype(dtype)
        return 1e-11 if dtype == jnp.float64 else 1e-6


# The length of a vector, or of each column of a block.
norms = columns(long_norm)


def ridge_product(problem: OuterProblem) -> Callable[[Float[Array, "N *c"]], Float[Array, "N *c"]]:
    """alpha -> (A diag(m) A^T + lam) alpha."""
    return lambda alpha: problem.output(problem.scores(alpha)) + problem.lam * alpha


def products(a: Float[Array, "N *c"], b: Float[Array, "N *c"]) -> Float[Array, "*c"]:
    """The inner product of two vectors, or of each pair of columns of two blocks."""
    return inner(a, b) if a.ndim == 1 else jnp.einsum("nc,nc->c", a, b, precision=jax.lax.Precision.HIGHEST)


def renewing(
    problem: OuterProblem,
    stored: Subspace,
    b: Float[Array, "N *c"],
    goal: Any,
    *,
    rank: int,
    max_iterations: int,
) -> Float[Array, "N *c"]:
    """x with |b - (A diag(m) A^T + lam) x| <= goal, by `stored`, then by new functions."""
    product, few = ridge_product(problem), min(PATIENCE, max_iterations)
    x, left, count = conjugate_gradient(product, b, stored.inverse(problem), goal, few)
    if few == max_iterations:
        return x

    def again(state):
        x, _ = state
        inverse = Subspace(problem, rank).inverse(problem)
        more, *_ = conjugate_gradient(product, b - product(x), inverse, goal, max_iterations - few)
        return x + more, jnp.array(False)

    # A loop, not a choice: on an accelerator a batch enters it only where one of its members does.
    unfinished = (count >= few) & jnp.any(norms(left) > goal)
    return jax.lax.while_loop(lambda state: state[1], again, (x, unfinished))[0]


def conjugate_gradient(
    product: Callable[[Array], Array],
    b: Float[Array, "N *c"],
    inverse: Callable[[Array], Array],
    goal: Any,
    max_iterations: int,
) -> tuple[Float[Array, "N *c"], Float[Array, "N *c"], Int[Array, ""]]:
    """(x, b - product(x), iterations) with |b - product(x)| <= goal, from zero; `inverse` preconditions.

    Columns go on together until each has reached its goal, which further iterations only surpass.
    """

    def running(state):
        _, r, _, rho, k = state
        # rho is zero only when nothing is left to gain in this precision, and stays NaN.
        return jnp.any((norms(r) > goal) & (rho > 0)) & (k < max_iterations)

    def improve(state):
        x, r, p, rho, k = state
        q = product(p)
        curvature = products(p, q)
        step = jnp.where(curvature > 0, rho / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        x, r = x + step * p, r - step * q
        z = inverse(r)
        new = products(r, z)
        turn = jnp.where(rho > 0, new / jnp.where(rho > 0, rho, 1.0), 0.0)
        return x, r, z + turn * p, new, k + 1

    # Of size one, so that no product underflows.
    size = norms(b)
    size = jnp.where(size > 0, size, 1.0)
    b, goal = b / size, goal / size
    z = inverse(b)
    state = (jnp.zeros_like(b), b, z, products(b, z), jnp.zeros((), jnp.int32))
    x, r, _, _, k = jax.lax.while_loop(running, improve, state)
    return size * x, size * r, k
