"""The matrix itself."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along, inner, transposed_inner
from mfjax._numerics.operators.base import Operator


class Dense(Operator):
    """The operator of a stored matrix of features.

    A = diag(root) Phi of a stored Phi (N, M): the fastest of the general operators while it fits.

    >>> import jax.numpy as jnp
    >>> Dense(jnp.array([[1.0, 2.0], [3.0, 4.0]])).scores(jnp.array([1.0, 1.0])).tolist()
    [4.0, 6.0]
    """

    array: Float[Array, "N M *c"]
    root: Float[Array, " N"] | None = None
    variables: int = eqx.field(static=True, default=1)

    @property
    def shape(self):
        return self.array.shape[:2]

    def output(self, v):
        return self._scaled(inner(self.array, v) if self.array.ndim == 2 else inner(v, self.array))

    def scores(self, alpha):
        if self.array.ndim == 3:
            return jnp.einsum("nc,nmc->m", self._scaled(alpha), self.array, precision="highest")
        return transposed_inner(self.array, self._scaled(alpha))

    def rows(self, index):
        rows = self.array[index]
        return rows if self.root is None else along(self.root[index], rows) * rows

    def columns(self, index):
        return self._scaled(self.array[:, index])

    def matrix(self):
        return self._scaled(self.array)

    def _scaled(self, values: Array) -> Array:
        if self.root is None:
            return values
        return along(self.root, values) * values


def as_operator(value: Any) -> Any:
    """`value` as an operator: an array is its own matrix, and a part of a pytree without arrays stays one."""
    return Dense(value) if hasattr(value, "ndim") and not isinstance(value, Operator) else value
