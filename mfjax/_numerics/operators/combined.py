"""Rows combined."""

from jaxtyping import Array, Float

from mfjax._numerics.arrays import inner, transposed_inner
from mfjax._numerics.operators.base import Operator


class Combined(Operator):
    """L B for a matrix `left` L (N, J) and an operator B (J, M): data that are combinations of others.

    >>> import jax.numpy as jnp
    >>> from mfjax._numerics.operators import Dense
    >>> Combined(jnp.array([[1.0, 1.0]]), Dense(jnp.array([[1.0, 2.0], [3.0, 4.0]]))).matrix().tolist()
    [[4.0, 6.0]]
    """

    left: Float[Array, "N J"]
    operator: Operator

    @property
    def shape(self):
        return len(self.left), self.operator.shape[1]

    @property
    def fits(self):
        return self.operator.fits

    @property
    def span(self):
        # With this few rows a solve is faster than reading a basis of more functions.
        return 32

    def output(self, v):
        return inner(self.left, self.operator.output(v))

    def scores(self, alpha):
        return self.operator.scores(transposed_inner(self.left, alpha))

    def rows(self, index):
        return inner(self.left[index], self.operator.matrix())

    def columns(self, index):
        return inner(self.left, self.operator.columns(index))

    def matrix(self):
        return inner(self.left, self.operator.matrix())
