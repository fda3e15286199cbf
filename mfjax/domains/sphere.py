"""The unit sphere."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from mfjax._numerics.arrays import count, safe_norm
from mfjax.domains.base import Cells, Domain, axes_of, tolerance


class Sphere(Domain):
    """The unit sphere S^dim in R^(dim+1), the home of homogeneous features.

    `Sphere(1)` is the circle, with cells in arc length.

    >>> import jax.numpy as jnp
    >>> Sphere(1).retract(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])).round(3).tolist()
    [0.707..., 0.707...]
    """

    dim: int = eqx.field(static=True)

    def __init__(self, dim: int):
        self.dim = count(dim, "dim")

    @property
    def ambient(self) -> int:
        return self.dim + 1

    def sample_point(self, key, dtype=float):
        z = jr.normal(key, (self.ambient,), dtype)
        return z / safe_norm(z)

    def contains(self, x):
        return jnp.abs(jnp.sum(x * x) - 1) <= tolerance(x)

    def project(self, x, v):
        return v - jnp.sum(x * v) * x

    def retract(self, x, v):
        moved = x + v
        return moved / safe_norm(moved)

    def cells(self, n):
        if self.dim != 1:
            raise ValueError(f"only Sphere(1) has a uniform grid, got Sphere({self.dim})")
        (k,) = axes_of(n, 1)
        dtype = jnp.result_type(float)
        angle = 2 * jnp.pi * (jnp.arange(k, dtype=dtype) + 0.5) / k
        points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return Cells(points, jnp.full((1,), 2 * jnp.pi / k, dtype), (k,), (True,))
