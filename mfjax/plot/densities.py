"""Densities on a domain of one or two dimensions, as lines, as maps, or over time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real, ScalarLike

from mfjax._numerics.arrays import count, kind, known
from mfjax.domains import Domain
from mfjax.measures import Grid, Particles
from mfjax.observables import KernelDensity
from mfjax.plot.canvas import Numbers, check_axes, colorbar
from mfjax.plot.curves import band, repetitions
from mfjax.plot.places import (
    Extent,
    check_drawable,
    coordinates,
    density_label,
    frame,
    mapped,
    ranges,
)

# Cells per axis on which a function is drawn, by dimension of the domain.
CELLS = {1: 512, 2: 128}
Function = Callable[[Array], Array]
Drawn = Grid | Function | tuple[Any, Any]


def density(
    ax: Any,
    source: Particles | Drawn,
    domain: Domain,
    *,
    times: Real[Numbers, " S"] | None = None,
    extent: Extent = None,
    cells: int | None = None,
    bandwidth: ScalarLike | None = None,
    spread: str = "none",
    symbol: str = "x",
    **drawing: Any,
) -> Any:
    """A density with respect to volume: a line over the coordinate in one dimension, in two a map.

    - `source`: a `Grid`, a function of one point (a teacher), drawn on `cells` cells per axis (512, or 128 in
      two dimensions), particles, whose estimate `KernelDensity` of a given `bandwidth` is drawn likewise,
      or in one dimension points (B, ambient) with values (B,), or (R, B) whose mean over R seeds is drawn
      in a band of their `spread`, as in `band`.
    - `times` (S,): in one dimension the density over time as a map; the values are then (S, B), as those of
      `run.measures` on a grid.
    - `extent`: the interval of each coordinate, [(low, high), ...]; an axis without ends needs it for a
      function (particles are shown with four bandwidths about them), a closed one begins its period there.

    A curved surface, such as S^2, is drawn as its equal-area map with lines of longitude and latitude.
    Coordinates without a name of their own are called `symbol`, which may have a unit, "z [mm]". `drawing`
    goes to `ax.plot` or `ax.pcolormesh`; a `label` is shown by `legend(ax)`.

    **Raises** `ValueError` in more dimensions, for shapes that do not fit, grids of signed measures,
    particles without a bandwidth, what has no density, such as a run, and options that say nothing of it:
    `cells` of a grid, `spread` of a map.

    >>> import mfjax as mf
    >>> circle = mf.domains.Sphere(1)
    >>> _, axes = mf.plot.figure()
    >>> ax = density(axes[0, 0], mf.measures.Grid.uniform(circle, 8), circle, label="t = 0")
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.lines[0].get_xdata().round(2).tolist()[:2]
    ('angle [rad]', 'density [1/rad]', [-3.14, -2.75])
    >>> particles = mf.measures.Particles(np.array([[0.0], [1.0]]))
    >>> _, axes = mf.plot.figure()
    >>> ax = density(axes[0, 0], particles, mf.domains.Euclidean(1), bandwidth=0.5)
    >>> [float(end) for end in ax.get_xlim()]
    [-2.0, 3.0]
    """
    check_axes(ax)
    check_drawable(domain)
    if not (isinstance(source, (Grid, Particles, tuple)) or callable(source)):
        raise ValueError(
            "source must be a Grid, Particles, a function of one point, or (points, values), got "
            f"{kind(source)}; of a run, draw run.final or run.measure(k)"
        )
    if isinstance(source, Grid) and len(source.shape) > domain.dim:
        raise ValueError("a grid of a signed measure holds two densities: draw that of each species")
    if isinstance(source, Particles):
        estimate, extent = _estimate(source, domain, extent, bandwidth)
        drawing |= {"times": times, "spread": spread, "symbol": symbol}
        return density(ax, estimate, domain, extent=extent, cells=cells, **drawing)
    if bandwidth is not None:
        raise ValueError(f"a bandwidth is for particles, whose density is estimated, got {bandwidth!r}")
    if cells is not None and isinstance(source, (Grid, tuple)):
        raise ValueError(f"cells are for functions and particles, what is given has its own: got {cells!r}")
    if spread != "none" and (times is not None or domain.dim > 1):
        raise ValueError(f"spread is that of lines, and this density is drawn as a map: got {spread!r}")
    if domain.dim == 1:
        q, values = _on_axis(source, domain, extent, cells)
        draw = _line if times is None else _over_time
        label = density_label(domain, symbol)
        draw(ax, q, values, label, drawing | ({"spread": spread} if times is None else {"times": times}))
        frame(ax, domain, extent, symbol)
        return ax
    if times is not None:
        raise ValueError("times are for densities in one dimension: draw one map for each time")
    if isinstance(source, tuple):
        raise ValueError("in two dimensions pass a Grid or a function of one point, not points and values")
    edges, values = _on_cells(source, domain, extent, cells)
    corners = mapped(domain, np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1))
    mesh = _mesh(ax, corners[..., 0], corners[..., 1], values, "flat", drawing)
    frame(ax, domain, extent, symbol, light=True)
    colorbar(ax, mesh, density_label(domain, symbol))
    return ax


def _estimate(mu: Particles, domain: Domain, extent: Extent, bandwidth: Any) -> tuple[Function, Extent]:
    """(the estimate of the density of particles, the ranges in which it is drawn)."""
    if bandwidth is None:
        raise ValueError("particles have no density: pass a bandwidth for its estimate, or draw `particles`")
    if mu.weights.ndim != 1:
        raise ValueError(f"draw the measure of one time, got weights of shape {mu.weights.shape}")
    points = mu.points[np.asarray(mu.weights) > 0]
    estimate, ends = KernelDensity(points, bandwidth, domain), ranges(domain, extent)
    if None in ends:
        q, margin = coordinates(domain, points), 4 * float(estimate.bandwidth)
        near = zip(q.min(axis=0) - margin, q.max(axis=0) + margin, strict=True)
        extent = [around if pair is None else pair for pair, around in zip(ends, near, strict=True)]
    return estimate.at(mu), extent


def _mesh(ax: Any, x: Any, y: Any, values: np.ndarray, shading: str, drawing: dict[str, Any]) -> Any:
    """A map whose colors begin at zero, unless told otherwise."""
    style = {"cmap": "cividis", "shading": shading, "rasterized": True}
    if not {"norm", "vmin"} & drawing.keys():
        style["vmin"] = min(0.0, np.nanmin(values))
    return ax.pcolormesh(x, y, values, **(style | drawing))


def _line(ax: Any, q: np.ndarray, values: np.ndarray, label: str, drawing: dict[str, Any]) -> None:
    band(ax, q, values, **drawing)
    ax.set_ylabel(label)
    if np.nanmin(values) >= 0:
        # A later line may be higher.
        ax.set_ylim(bottom=0, auto=None)


def _over_time(ax: Any, q: np.ndarray, values: np.ndarray, label: str, drawing: dict[str, Any]) -> None:
    times = np.asarray(drawing.pop("times"), float)
    if values.shape != (times.size, q.size):
        raise ValueError(f"values must have shape ({times.size}, {q.size}), got {values.shape}")
    mesh = _mesh(ax, q, times, values, "nearest", drawing)
    ax.set_ylabel("flow time t")
    colorbar(ax, mesh, label)


def _on_axis(source: Drawn, domain: Domain, extent: Extent, cells: int | None):
    """(coordinates (B,) ascending, values (R, B))."""
    if isinstance(source, Grid):
        # Of one time or of several, as a run has them.
        points, values = source.points, np.asarray(source.weights) / np.asarray(source.volume)
    elif isinstance(source, tuple):
        points, values = source
    else:
        (edges,) = _edges(domain, extent, cells)
        points = _points(domain, 0.5 * (edges[1:] + edges[:-1])[:, None])
        values = jax.jit(jax.vmap(source))(points)
    q = coordinates(domain, points, extent)[:, 0]
    order = np.argsort(q, kind="stable")
    q, values = q[order], repetitions(values, "the density", q, "the points")[:, order]
    return _to_the_ends(source.spacing, domain, q, values) if isinstance(source, Grid) else (q, values)


def _to_the_ends(spacing: Array, domain: Domain, q: np.ndarray, values: np.ndarray):
    """Cells drawn from end to end: a closed axis meets itself, and at a wall the last cell goes on."""
    (axis,), half = domain.axes, 0.5 * float(spacing[0])
    if axis.endless:
        return q, values
    first, last = values[:, :1], values[:, -1:]
    if axis.closed:
        first = last = 0.5 * (first + last)
    return np.concatenate([[q[0] - half], q, [q[-1] + half]]), np.concatenate([first, values, last], axis=1)


def _on_cells(source: Drawn, domain: Domain, extent: Extent, cells: int | None):
    """(edges of the cells along each axis, values in the cells)."""
    if not isinstance(source, Grid):
        edges = _edges(domain, extent, cells)
        centers = np.stack(np.meshgrid(*(0.5 * (e[1:] + e[:-1]) for e in edges), indexing="ij"), axis=-1)
        values = jax.jit(lambda points: jax.lax.map(source, points, batch_size=256))(
            _points(domain, centers.reshape(-1, 2))
        )
        return edges, np.asarray(values, float).reshape(centers.shape[:2])
    if source.weights.ndim != 1:
        raise ValueError(f"draw the measure of one time, got weights of shape {source.weights.shape}")
    q = coordinates(domain, source.points, extent).reshape(*source.shape, 2)
    values = np.asarray(source.density, float).reshape(source.shape)
    edges = []
    for i, along in enumerate((q[:, 0, 0], q[0, :, 1])):
        order, h = np.argsort(along), float(source.spacing[i])
        values = np.take(values, order, axis=i)
        edges.append(along[order][0] + h * (np.arange(along.size + 1) - 0.5))
    return edges, values


def _edges(domain: Domain, extent: Extent, cells: int | None) -> list[np.ndarray]:
    shown = ranges(domain, extent)
    if any(limits is None for limits in shown):
        raise ValueError(f"{domain!r} has no ends: pass extent=[(low, high), ...], one pair per coordinate")
    n = CELLS[domain.dim] if cells is None else count(cells, "cells", minimum=4)
    return [np.linspace(low, high, n + 1) for low, high in map(known, shown)]


def _points(domain: Domain, q: np.ndarray) -> Array:
    return jax.jit(jax.vmap(domain.point))(jnp.asarray(q))


def angle_axis(ax: Any) -> None:
    """The x axis as an angle in radians from -pi to pi."""
    ax.set_xlim(-np.pi, np.pi)
    ax.set_xticks(
        np.pi * np.array([-1, -0.5, 0, 0.5, 1]), [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"]
    )
    ax.set_xlabel("angle [rad]")
