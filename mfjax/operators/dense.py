"""The matrix itself."""

from typing import Any

from jaxtyping import Array, Float

from mfjax._arrays import inner
from mfjax.operators.base import Operator


class Dense(Operator):
    """A = diag(root) Phi of a stored Phi (N, M): the fastest of the general operators while it fits.

    Phi^T is what is stored: with particles along rows, both products and A^T A are fast on CPU.

    >>> import jax.numpy as jnp
    >>> Dense(jnp.array([[1.0, 2.0], [3.0, 4.0]])).scores(jnp.array([1.0, 1.0])).tolist()
    [4.0, 6.0]
    """

    transposed: Float[Array, "M N"]
    root: Float[Array, " N"] | None

    def __init__(self, array: Float[Array, "N M"], root: Float[Array, " N"] | None = None):
        self.transposed, self.root = array.T, root

    @property
    def shape(self):
        return self.transposed.shape[::-1]

    def output(self, v):
        return self._scaled(inner(v, self.transposed))

    def scores(self, alpha):
        return inner(self.transposed, self._scaled(alpha))

    def rows(self, index):
        rows = self.transposed[:, index].T
        return rows if self.root is None else self.root[index, None] * rows

    def columns(self, index):
        return self._scaled(self.transposed[index]).T

    def matrix(self):
        return self._scaled(self.transposed).T

    def _scaled(self, values: Array) -> Array:
        """Numbers (..., N) times root."""
        return values if self.root is None else values * self.root


def as_operator(value: Any) -> Any:
    """`value` as an operator: an array is its own matrix, and a part of a pytree without arrays stays one."""
    return Dense(value) if hasattr(value, "ndim") and not isinstance(value, Operator) else value
