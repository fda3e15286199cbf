"""The cells of a grid on a domain, and their sizes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mfjax._numerics.arrays import count


class Metric(NamedTuple):
    """The sizes of cells between lines of orthogonal curvilinear coordinates.

    `volume` of every cell; for each axis `areas` of the faces, entry i between the cells i and i + 1, and
    `distances` between the centers of those two. Arrays that broadcast to the shape of the grid: one that
    does not depend on a coordinate has length one along it.
    """

    volume: Float[Array, "..."]
    areas: tuple[Float[Array, "..."], ...]
    distances: tuple[Float[Array, "..."], ...]


class Cells(NamedTuple):
    """A tensor grid: cell centers `points` (K, ambient), steps `spacing` (dim,), cells per axis `shape`.

    The cells are boxes of sides `spacing`, in arc length. Where there is a `metric` they are not: `spacing`
    holds the steps of orthogonal coordinates, and the metric what volumes, faces and distances these make.
    Nothing flows along the axes numbered in `frozen`, and no noise spreads mass along those in `noiseless`.
    Axes that number copies of a domain, and are no coordinates of its, come first.
    """

    points: Float[Array, "K ambient"]
    spacing: Float[Array, " dim"]
    shape: tuple[int, ...]
    periodic: tuple[bool, ...]
    frozen: tuple[int, ...] = ()
    metric: Metric | None = None
    noiseless: tuple[int, ...] = ()

    @property
    def volume(self) -> Float[Array, "*K"]:
        """The volume of a cell, one number where all have the same, else (K,)."""
        return volume_of(self.spacing, self.metric, self.shape)


def volume_of(
    spacing: Float[Array, " dim"], metric: Metric | None, shape: tuple[int, ...]
) -> Float[Array, "*K"]:
    """The volume of the cells of a grid, one number for boxes, else (K,)."""
    return jnp.prod(spacing) if metric is None else jnp.broadcast_to(metric.volume, shape).ravel()


def axes_of(n: int | tuple[int, ...], dim: int, minimum: int = 1) -> tuple[int, ...]:
    """Cells per axis from one number or one for each. **Raises** `ValueError` for fewer than `minimum`."""
    shape = tuple(n) if isinstance(n, (tuple, list)) else (n,) * dim
    if len(shape) != dim:
        raise ValueError(f"n must be one number or {dim} numbers, got {n!r}")
    return tuple(count(k, "n", minimum=minimum) for k in shape)


def tensor_centers(lower: Array, upper: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(centers (K, dim) in C order, spacing (dim,)) of the cells between two corners."""
    spacing = (upper - lower) / jnp.asarray(shape, lower.dtype)
    axes = [lower[i] + spacing[i] * (jnp.arange(k, dtype=lower.dtype) + 0.5) for i, k in enumerate(shape)]
    mesh = jnp.meshgrid(*axes, indexing="ij")
    return jnp.stack([m.ravel() for m in mesh], axis=-1), spacing
