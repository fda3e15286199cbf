"""Flat space without boundary."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from mfjax._numerics.arrays import count
from mfjax.domains.base import Domain


class Euclidean(Domain):
    """Flat space R^dim without walls.

    `sample` draws standard normals; there is no grid: truncate to a `Box`.

    >>> Euclidean(3).ambient
    3
    """

    dim: int = eqx.field(static=True)

    def __init__(self, dim: int):
        self.dim = count(dim, "dim")

    @property
    def isometric(self) -> bool:
        return True

    def sample_point(self, key, dtype=float):
        return jr.normal(key, (self.dim,), dtype)

    def contains(self, x):
        return jnp.all(jnp.isfinite(x))
