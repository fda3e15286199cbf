"""Faces between the cells of a tensor grid: jumps across them, their sizes and sums of fluxes through them.

Values of cells are flat (K,) as in `Grid`; values of faces have the shape of the grid, one array per axis,
entry i belonging to the face between cells i and i + 1. The last face of an axis closes the circle, or is
a wall or a pole, through which nothing flows. An axis that is frozen, the species of a signed measure say,
has only walls. Sizes of faces are numbers where cells are boxes, else arrays that broadcast to the grid.
"""

import jax.numpy as jnp
from jaxtyping import Array

from mfjax.measures import Grid


def cells(values: Array, mu: Grid) -> Array:
    """Flat values (K,) as an array with one axis per axis of the grid."""
    return values.reshape(mu.shape)


def above(values: Array, axis: int) -> Array:
    """The value in the next cell along `axis`."""
    return jnp.roll(values, -1, axis)


def below(values: Array, axis: int) -> Array:
    """The value in the previous cell along `axis`."""
    return jnp.roll(values, 1, axis)


def without_wall(face_values: Array, mu: Grid, axis: int) -> Array:
    """The same values with zero at the wall, if `axis` has one."""
    if axis in mu.frozen:
        return jnp.zeros_like(face_values)
    if mu.periodic[axis]:
        return face_values
    shape = [1] * len(mu.shape)
    shape[axis] = mu.shape[axis]
    inside = jnp.arange(mu.shape[axis]) < mu.shape[axis] - 1
    return jnp.where(inside.reshape(shape), face_values, 0)


def jump(values: Array, mu: Grid, axis: int) -> Array:
    """The difference across each face of cell values of grid shape, zero at a wall."""
    return without_wall(above(values, axis) - values, mu, axis)


Faces = tuple[Array, ...]


def distance(mu: Grid, axis: int) -> Array:
    """Between the centers of the two cells of each face; one number where cells are boxes."""
    return mu.spacing[axis] if mu.metric is None else mu.metric.distances[axis]


def content(mu: Grid, axis: int) -> Array:
    """The area of each face times the step of the coordinate; the volume of a cell where cells are boxes."""
    return mu.volume if mu.metric is None else mu.metric.areas[axis] * mu.spacing[axis]


def shares(mu: Grid, axis: int) -> tuple[Array | float, Array | float]:
    """The `content` of each face over the volumes of its cell and of the next; ones where cells are boxes.

    Divided by the step of the coordinate, area over volume: what turns a flux into a rate of densities.
    """
    if mu.metric is None:
        return 1.0, 1.0
    volume, through = mu.metric.volume, content(mu, axis)
    return through / volume, through / above(volume, axis)


def face_slopes(values: Array, mu: Grid) -> Faces:
    """The difference quotient of cell values (K,) across every face, one array per axis, zero at a wall."""
    values = cells(values, mu)
    return tuple(jump(values, mu, axis) / distance(mu, axis) for axis in range(len(mu.shape)))


def outflow(flux: Array, axis: int) -> Array:
    """What leaves each cell through its two faces: sums to zero over the grid, to rounding."""
    return flux - below(flux, axis)
