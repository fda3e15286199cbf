"""Columns scaled."""

from jaxtyping import Array, Float

from mfjax._numerics.operators.base import Operator


class Scaled(Operator):
    """A diag(factors), for `factors` (M,): neurons that carry their outer weight.

    >>> import jax.numpy as jnp
    >>> from mfjax._numerics.operators import Dense
    >>> Scaled(Dense(jnp.array([[1.0, 2.0]])), jnp.array([3.0, 4.0])).matrix().tolist()
    [[3.0, 8.0]]
    """

    operator: Operator
    factors: Float[Array, " M"]

    @property
    def shape(self):
        return self.operator.shape

    @property
    def fits(self):
        return self.operator.fits

    @property
    def span(self):
        return self.operator.span

    def output(self, v):
        return self.operator.output(self.factors * v)

    def scores(self, alpha):
        return self.factors * self.operator.scores(alpha)

    def rows(self, index):
        return self.operator.rows(index) * self.factors

    def columns(self, index):
        return self.operator.columns(index) * self.factors[index]

    def matrix(self):
        return self.operator.matrix() * self.factors
