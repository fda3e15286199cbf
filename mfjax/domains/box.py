"""Boxes and intervals, with walls."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import as_floats, finite, is_traced, scalar
from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain
from mfjax.domains.cells import Cells, axes_of, tensor_centers


class Box(Domain):
    """The box prod_i [lower_i, upper_i] with no-flux boundary.

    Deterministic motion stops at a face (the velocity is projected onto the admissible cone); noisy
    motion is reflected, the weakly first-order scheme for reflected diffusions.

    - `lower`, `upper` (dim,): two opposite corners; numbers in one dimension, as in `Interval`.

    `cells(n)` gives n cells per axis, which need not be square. Good values: wide enough that nothing
    gathers at a wall which is there for the computation only.

    **Raises** `ValueError` unless lower < upper on every axis, and for points of a dtype that cannot tell a
    thousand places apart on a side.

    >>> box = Box([0.0, -1.0], [2.0, 1.0])
    >>> box.dim, box.retract(jnp.array([1.5, 0.0]), jnp.array([1.0, 0.25])).tolist()
    (2, [2.0, 0.25])
    """

    lower: Float[Array, " dim"]
    upper: Float[Array, " dim"]

    def __init__(self, lower, upper, **unknown):
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has walls on all sides and no option {min(unknown)!r}: periodic axes "
                "are those of Torus(dim, period)"
            )
        self.lower = jnp.atleast_1d(finite(as_floats(lower, "lower"), "lower"))
        self.upper = jnp.atleast_1d(finite(as_floats(upper, "upper"), "upper"))
        if self.lower.ndim != 1 or self.lower.shape != self.upper.shape:
            raise ValueError(
                "lower and upper must be vectors of one length, "
                f"got {self.lower.shape} and {self.upper.shape}"
            )
        if not is_traced((self.lower, self.upper)) and np.any(
            np.asarray(self.lower) >= np.asarray(self.upper)
        ):
            raise ValueError(f"lower must lie below upper on every axis, got {self.lower} and {self.upper}")

    def validate(self, points, name="points"):
        super().validate(points, name)
        if is_traced((self.lower, self.upper)):
            return
        lower, upper = np.asarray(self.lower), np.asarray(self.upper)
        far, width = float(np.max(np.abs([lower, upper]))), float(np.min(upper - lower))
        spacing = float(jnp.finfo(points.dtype).eps) * far
        if spacing > 1e-3 * width:
            raise ValueError(
                f"{points.dtype} numbers near {far:g} lie {spacing:.1g} apart, too coarse for a side of "
                f"{width:g}: move the origin into the box, or use float64"
            )

    @property
    def dim(self) -> int:
        return self.lower.shape[0]

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(Axis(self.lower[i], self.upper[i]) for i in range(self.dim))

    @property
    def isometric(self) -> bool:
        return True

    def sample_point(self, key, dtype=float):
        low, high = self.lower.astype(dtype), self.upper.astype(dtype)
        return jnp.minimum(low + (high - low) * jr.uniform(key, (self.dim,), dtype), high)

    def contains(self, x):
        return jnp.all((x >= self.lower.astype(x.dtype)) & (x <= self.upper.astype(x.dtype)))

    def velocity(self, x, v):
        blocked = ((x <= self.lower.astype(x.dtype)) & (v < 0)) | (
            (x >= self.upper.astype(x.dtype)) & (v > 0)
        )
        return jnp.where(blocked, 0.0, v)

    def retract(self, x, v):
        return jnp.clip(x + v, self.lower.astype(x.dtype), self.upper.astype(x.dtype))

    def diffuse(self, x, v):
        low, high = self.lower.astype(x.dtype), self.upper.astype(x.dtype)
        width = high - low
        folded = jnp.mod(x + v - low, 2 * width)
        moved = low + jnp.where(folded > width, 2 * width - folded, folded)
        # low + (high - low) may round to a number above high.
        return jnp.minimum(moved, high)

    def cells(self, n):
        shape = axes_of(n, self.dim)
        dtype = jnp.result_type(float)
        points, spacing = tensor_centers(self.lower.astype(dtype), self.upper.astype(dtype), shape)
        return Cells(points, spacing, shape, (False,) * self.dim)


class Interval(Box):
    """The interval [lower, upper] with no-flux ends: a one-dimensional `Box`.

    **Raises** `ValueError` unless lower < upper are two numbers.

    >>> Interval(0.0, 1.0).dim
    1
    """

    def __init__(self, lower: ScalarLike, upper: ScalarLike, **unknown):
        super().__init__(scalar(lower, "lower"), scalar(upper, "upper"), **unknown)
