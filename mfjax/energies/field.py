"""First variations that have faster ways for many points at once."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.sums.rows import over_rows


class Field(eqx.Module):
    """A function of ONE point, as every potential, that is also evaluated at many."""

    @abstractmethod
    def __call__(self, point: Float[Array, " d"]) -> Float[Array, ""]:
        """The value at one point."""

    @abstractmethod
    def at(self, points: Float[Array, "M d"]) -> Float[Array, " M"]:
        """The values at many."""

    def slopes(self, points: Float[Array, "M d"]) -> Float[Array, "M d"]:
        """The gradients at many."""
        return jax.grad(lambda p: jnp.sum(self.at(p)))(points)


def values_at(
    potential: Callable[[Array], Array], points: Float[Array, "M d"], width: int
) -> Float[Array, " M"]:
    """A potential at many points; one that is no `Field` point by point, `width` numbers for each."""
    return potential.at(points) if isinstance(potential, Field) else over_rows(potential, points, width)


def slopes_at(
    potential: Callable[[Array], Array], points: Float[Array, "M d"], width: int
) -> Float[Array, "M d"]:
    """The gradients of a potential at many points, as `values_at`."""
    if isinstance(potential, Field):
        return potential.slopes(points)
    return over_rows(jax.grad(potential), points, width)
