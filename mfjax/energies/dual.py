"""A convex energy as a supremum of linear ones, with finitely many unknowns."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Dual(eqx.Module):
    """An energy written as a supremum of linear ones.

    F(mu) = max over z of int V_z dmu - F*(z), on the cells or particles of one measure.

    What makes an energy with a few unknowns z (n,), such as the residuals of a risk, easy to minimize
    together with an entropy: the minimizer is e^{-V_z/T} / Z, and z minimizes F*(z) + T log Z.
    `start` (n,) are unknowns to begin from.
    """

    start: eqx.AbstractVar[Float[Array, " n"]]

    @abstractmethod
    def potential(self, unknowns: Float[Array, " n"]) -> Float[Array, " K"]:
        """V_z at the support."""

    @abstractmethod
    def conjugate(self, unknowns: Float[Array, " n"]) -> Float[Array, ""]:
        """F*(z)."""

    @abstractmethod
    def defect(self, unknowns: Float[Array, " n"], weights: Float[Array, " K"]) -> Float[Array, " n"]:
        """Zero exactly where V_z is the first variation at these masses."""


class LinearDual(Dual):
    """A linear energy int V dmu: no unknowns."""

    start: Float[Array, " n"]
    values: Float[Array, " K"]

    def __init__(self, values: Float[Array, " K"]):
        self.start, self.values = jnp.zeros((0,), values.dtype), values

    def potential(self, unknowns):
        return self.values

    def conjugate(self, unknowns):
        return jnp.zeros((), self.values.dtype)

    def defect(self, unknowns, weights):
        return unknowns


class CombinedDual(Dual):
    """sum_k c_k F_k for c_k >= 0, its unknowns those of the terms one after the other."""

    start: Float[Array, " n"]
    coefficients: tuple[Any, ...]
    terms: tuple[Dual, ...]

    def __init__(self, coefficients, terms, size: int, dtype):
        self.coefficients = tuple(jnp.asarray(c).astype(dtype) for c in coefficients)
        self.terms = (*terms, LinearDual(jnp.zeros((size,), dtype)))
        self.coefficients += (jnp.ones((), dtype),)
        self.start = jnp.concatenate([term.start for term in self.terms])

    def _pairs(self, unknowns):
        begin = 0
        for c, term in zip(self.coefficients, self.terms, strict=True):
            end = begin + term.start.shape[0]
            yield c, term, unknowns[begin:end]
            begin = end

    def potential(self, unknowns):
        return sum(c * term.potential(z) for c, term, z in self._pairs(unknowns))

    def conjugate(self, unknowns):
        return sum(c * term.conjugate(z) for c, term, z in self._pairs(unknowns))

    def defect(self, unknowns, weights):
        return jnp.concatenate([term.defect(z, weights) for _, term, z in self._pairs(unknowns)])
