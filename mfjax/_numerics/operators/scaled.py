"""Columns scaled."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import along
from mfjax._numerics.operators.base import Operator


class Scaled(Operator):
    """A diag(factors), for `factors` (M,): neurons that carry their outer weight.

    For `factors` (M, c) it is that of features with c values each.

    >>> import jax.numpy as jnp
    >>> from mfjax._numerics.operators import Dense
    >>> Scaled(Dense(jnp.array([[1.0, 2.0]])), jnp.array([3.0, 4.0])).matrix().tolist()
    [[3.0, 8.0]]
    """

    operator: Operator
    factors: Float[Array, "M *c"]

    @property
    def shape(self):
        return self.operator.shape

    @property
    def fits(self):
        return self.operator.fits

    @property
    def variables(self):
        return self.operator.variables

    @property
    def span(self):
        return self.operator.span

    def output(self, v):
        if v.ndim > 1:
            return self.operator.output(along(self.factors, v) * v)
        return self.operator.output(along(v, self.factors) * self.factors)

    def scores(self, alpha):
        scores = self.operator.scores(alpha)
        if self.factors.ndim > 1:
            return jnp.sum(self.factors * scores, axis=1)
        return along(self.factors, scores) * scores

    def rows(self, index):
        return self._scaled(self.operator.rows(index), self.factors)

    def columns(self, index):
        return self._scaled(self.operator.columns(index), self.factors[index])

    def matrix(self):
        return self._scaled(self.operator.matrix(), self.factors)

    def _scaled(
        self, matrix: Float[Array, "N M ..."], factors: Float[Array, "M *c"]
    ) -> Float[Array, "N M ..."]:
        return matrix * along(factors, matrix[0]) if factors.ndim == 1 else matrix[:, :, None] * factors
