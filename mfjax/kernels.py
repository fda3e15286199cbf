"""Kernels k(x, y) of two points for discrepancies, written for one pair."""

from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._arrays import safe_norm, scalar
from mfjax.domains import Domain


class Kernel(eqx.Module):
    """A symmetric function of two points, conditionally positive definite.

    Distances are chordal: between `domain.embed` of the points (the wrapped distance of a torus is
    not negative definite).
    """

    @abstractmethod
    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, y)."""


class _Radial(Kernel):
    scale: Float[Array, ""]
    domain: Domain | None = None

    def __init__(self, scale: ScalarLike = 1.0, domain: Domain | None = None):
        self.scale = scalar(scale, "scale", above=0)
        self.domain = domain

    def _difference(self, x, y):
        if self.domain is not None:
            x, y = self.domain.embed(x), self.domain.embed(y)
        return (x - y) / self.scale.astype(x.dtype)


class Gaussian(_Radial):
    """exp(-|x - y|^2 / (2 scale^2))."""

    def __call__(self, x, y):
        z = self._difference(x, y)
        return jnp.exp(-0.5 * jnp.sum(z * z))


class Laplace(_Radial):
    """exp(-|x - y| / scale)."""

    def __call__(self, x, y):
        return jnp.exp(-safe_norm(self._difference(x, y)))


class Energy(_Radial):
    """-|x - y| / scale: the kernel of the energy distance, conditionally positive definite.

    >>> float(Energy()(jnp.array([0.0]), jnp.array([2.0])))
    -2.0
    """

    def __call__(self, x, y):
        return -safe_norm(self._difference(x, y))
