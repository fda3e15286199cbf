"""The abstract kernel."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float


class Kernel(eqx.Module):
    """A symmetric function of two points, conditionally positive definite.

    Distances are chordal: between `domain.embed` of the points (the wrapped distance of a torus is
    not negative definite).
    """

    @abstractmethod
    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, y)."""
