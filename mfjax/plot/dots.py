"""Particles on their domain, and the signal that they make."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Real

from mfjax._numerics.arrays import count, known, scalar
from mfjax.domains import Domain
from mfjax.measures import Measure
from mfjax.plot.canvas import Numbers, check_axes, colorbar
from mfjax.plot.places import Extent, check_drawable, coordinates, frame, mapped, ranges


def particles(
    ax: Any,
    mu: Measure | Real[Numbers, "M d"],
    domain: Domain,
    *,
    label: str | None = None,
    extent: Extent = None,
    radius: float = 1.0,
    symbol: str = "x",
    **marks: Any,
) -> Any:
    """Particles of a domain of one or two dimensions, area of a dot proportional to its mass.

    A curve in the plane, such as the circle, is drawn there (`radius` scales it, so that several measures
    lie on concentric circles), another line with masses over the coordinate, a flat surface in its
    coordinates, and a curved one, such as S^2, on its equal-area map with lines of longitude and latitude.

    - `mu`: a measure, or points (M, ambient) of equal masses; those of zero mass are left out.
    - `extent`: the interval of each coordinate, [(low, high), ...]; a closed axis begins its period there.

    Coordinates without a name of their own are called `symbol`, which may have a unit, "z [mm]". `marks`
    goes to `ax.scatter`; over a map dots are white with a dark rim. A `label` is shown by `legend(ax)`.

    **Raises** `ValueError` in more dimensions and for points of the wrong width.

    >>> import mfjax as mf
    >>> torus = mf.domains.Torus(2, 4.0)
    >>> _, axes = mf.plot.figure()
    >>> ax = particles(axes[0, 0], np.array([[3.0, 0.5]]), torus, extent=[(-2, 2), (-2, 2)])
    >>> ax.collections[0].get_offsets().tolist()
    [[-1.0, 0.5]]
    """
    check_axes(ax)
    check_drawable(domain)
    points, weights = (mu.points, mu.weights) if isinstance(mu, Measure) else (mu, None)
    points, masses, area = _dots(points, weights, domain)
    q = coordinates(domain, points, extent)
    style = {"s": area, "alpha": 0.6, "linewidths": 0, "label": label} | marks
    if not marks and any(each.get_array() is not None for each in ax.collections):
        # Over a map no color is seen everywhere, a rim is.
        style |= {"alpha": 0.9, "color": "w", "edgecolors": "k", "linewidths": 0.4}
    if (domain.dim, domain.ambient) == (1, 2) and domain.isometric and domain.closed[0]:
        _curve(ax, domain, radius)
        ax.scatter(*(radius * points).T, **style)
        ax.set_aspect("equal")
        ax.set_xlabel(f"{symbol}₁")
        ax.set_ylabel(f"{symbol}₂")
        return ax
    if domain.dim == 1:
        ax.scatter(q[:, 0], masses, **style)
        ax.set_ylabel("mass")
        ax.set_ylim(bottom=0, auto=None)
    else:
        ax.scatter(*mapped(domain, q).T, **style)
    frame(ax, domain, extent, symbol)
    return ax


def _curve(ax: Any, domain: Domain, radius: float) -> None:
    """The closed curve of the plane on which particles lie."""
    ((low, high),) = map(known, ranges(domain, None))
    along = jnp.linspace(low, high, 200)[:, None]
    line = np.asarray(jax.jit(jax.vmap(domain.point))(along), float)
    ax.plot(*(radius * line).T, color="0.85", linewidth=0.8, zorder=0)


def _dots(points: Any, weights: Any, domain: Domain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(points, masses, areas in square points) of the particles that are seen."""
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != domain.ambient:
        raise ValueError(f"points must have shape (M, {domain.ambient}) on {domain!r}, got {points.shape}")
    weights = np.full(len(points), 1 / max(len(points), 1)) if weights is None else np.asarray(weights, float)
    kept = (weights > 0) & np.all(np.isfinite(points), axis=1)
    points, weights = points[kept], weights[kept]
    # The typical dot shrinks as the particles become many, between 3 and 24 square points.
    typical = np.clip(3000 / max(len(points), 1), 3, 24)
    return points, weights, typical * weights / max(np.mean(weights), 1e-300) if len(weights) else weights


def signal(
    ax: Any,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    extent: float = 3.0,
    cells: int = 121,
    label: str = "Y(x)",
) -> Any:
    """A function of inputs (B, 2) to values (B,) as an image on [-extent, extent]^2 with its color bar.

    At the centers of `cells` times `cells` squares.

    **Raises** `ValueError` for a function of values of another shape.

    >>> import mfjax as mf
    >>> _, axes = mf.plot.figure()
    >>> ax = signal(axes[0, 0], lambda x: x[:, 0], extent=1.0, cells=4)
    >>> ax.images[0].get_array()[0].tolist(), [float(end) for end in ax.images[0].get_extent()]
    ([-0.75, -0.25, 0.25, 0.75], [-1.0, 1.0, -1.0, 1.0])
    """
    check_axes(ax)
    half = float(scalar(extent, "extent", above=0))
    edges = np.linspace(-half, half, count(cells, "cells", minimum=2) + 1)
    side = 0.5 * (edges[1:] + edges[:-1])
    mesh = np.stack(np.meshgrid(side, side), axis=-1)
    values = np.asarray(function(mesh.reshape(-1, 2)))
    if values.shape != (cells**2,):
        raise ValueError(
            f"the function must give ({cells**2},) values, one at each input, got {values.shape}"
        )
    image = ax.imshow(
        values.reshape(cells, cells),
        origin="lower",
        extent=(-half, half, -half, half),
        cmap="cividis",
        interpolation="bilinear",
    )
    ax.set_xlabel("x₁")
    ax.set_ylabel("x₂")
    colorbar(ax, image, label)
    return ax
