"""Factorizations in batches: the numbers of single ones, and on CPU no batch among threads."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import mfjax as mf
from mfjax import outer
from mfjax._numerics.linalg import cholesky, pseudo_inverse, shifted_solver, singular_values
from mfjax.outer.base import OuterProblem

pytestmark = pytest.mark.core


def positive(key, *shape):
    a = jr.normal(key, (*shape, shape[-1]), jnp.float64)
    return a @ jnp.swapaxes(a, -1, -2) + jnp.eye(shape[-1])


@pytest.mark.parametrize("function", [cholesky, singular_values, pseudo_inverse])
def test_a_batch_of_batches_is_that_of_single_ones(function):
    a = positive(jr.key(0), 3, 2, 5)
    batch = jax.jit(jax.vmap(jax.vmap(function)))(a)
    for i, j in np.ndindex(3, 2):
        single = function(a[i, j])
        jax.tree.map(lambda all, one: np.testing.assert_array_equal(all[i, j], one), batch, single)  # noqa: B023


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_solves_of_batches_on_either_side(axes):
    a, b = positive(jr.key(1), 4, 6), jr.normal(jr.key(2), (4, 6), jnp.float64)
    a, b = (x if axis == 0 else x[0] for x, axis in zip((a, b), axes, strict=True))
    x = jax.vmap(lambda a, b: shifted_solver(a, jnp.zeros(()))(b), axes)(a, b)
    np.testing.assert_allclose(jnp.einsum("...ij,...j", a, x), jnp.broadcast_to(b, x.shape), rtol=1e-11)


def axes_of_lapack_calls(function, *arguments):
    """The number of axes of the arrays that LAPACK is given: three where it is given a batch."""
    text = jax.jit(function).lower(*arguments).as_text()
    calls = [line for line in text.splitlines() if "@lapack_" in line]
    return [len(re.search(r"tensor<([0-9x]+)xf64>", line).group(1).split("x")) for line in calls]


def problems(masses):
    key = jr.key(3)
    operator, target = jr.normal(key, (12, 8), jnp.float64), jnp.cos(jnp.arange(12.0))
    return OuterProblem(operator, target, masses, jnp.asarray(1e-2), mf.regularizers.Quadratic(0.0))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices keep the batch")
@pytest.mark.parametrize(
    "outer",
    [outer.Cholesky(), outer.ConjugateGradient(rank=4), outer.MinimumNorm(), outer.Newton(form="dual")],
    ids=lambda solver: type(solver).__name__,
)
def test_no_solver_hands_a_batch_to_lapack(outer):
    def alpha(masses):
        problem = problems(masses)
        return outer.solve(problem, outer.init(problem)).alpha

    found = axes_of_lapack_calls(jax.vmap(alpha), jnp.ones((3, 8)) / 8)
    assert found and set(found) == {2}
    # What the check would see otherwise.
    assert set(axes_of_lapack_calls(jax.vmap(jnp.linalg.cholesky), jnp.ones((3, 8, 8)))) == {3}
