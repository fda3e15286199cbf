"""Particles on their domain, and the signal that they make."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Real, ScalarLike

from mfjax._numerics.arrays import count
from mfjax.plot.canvas import Numbers, colorbar


def circle(
    ax: Any,
    points: Real[Numbers, "M d"],
    weights: Real[Numbers, " K"] | None = None,
    *,
    label: str | None = None,
    radius: float = 1.0,
    **marks: Any,
) -> Any:
    """Particles on the unit circle, area of a dot proportional to its mass; those of zero mass are left out.

    `points` (M, 2) unit vectors, `weights` (M,) equal unless given; `radius` draws several measures on
    concentric circles. `marks` goes to `ax.scatter`.
    """
    points, area = _dots(points, weights)
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(radius * np.cos(turn), radius * np.sin(turn), color="0.85", linewidth=0.8, zorder=0)
    _scatter(ax, radius * points, area, label, {"alpha": 0.5} | marks)
    return ax


def torus(
    ax: Any,
    points: Real[Numbers, "M d"],
    weights: Real[Numbers, " K"] | None = None,
    *,
    period: ScalarLike = 1.0,
    label: str | None = None,
    **marks: Any,
) -> Any:
    """Particles on the 2-torus, drawn in the period centered at the origin; dots as in `circle`.

    `points` (M, 2) coordinates, `period` the side of the square.
    """
    dots, area = _dots(points, weights)
    side = np.asarray(period).item()
    _scatter(ax, dots - side * np.round(dots / side), area, label, {"alpha": 0.6} | marks)
    ax.set_xlim(-side / 2, side / 2)
    ax.set_ylim(-side / 2, side / 2)
    return ax


def _scatter(ax: Any, points: np.ndarray, area: np.ndarray, label: str | None, marks: dict[str, Any]) -> None:
    ax.scatter(*points.T, s=area, label=label, **({"linewidths": 0} | marks))
    ax.set_aspect("equal")
    ax.set_xlabel("ω₁")
    ax.set_ylabel("ω₂")


def _dots(points: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must have shape (M, 2), got {points.shape}")
    if weights is None:
        weights = np.full(len(points), 1 / len(points))
    weights = np.asarray(weights, float)
    if weights.shape != (len(points),):
        raise ValueError(f"weights must have shape ({len(points)},), got {weights.shape}")
    kept = (weights > 0) & np.all(np.isfinite(points), axis=1)
    points, weights = points[kept], weights[kept]
    # The typical dot shrinks as the particles become many, between 3 and 24 square points.
    typical = np.clip(3000 / max(len(points), 1), 3, 24)
    return points, typical * weights / max(np.mean(weights), 1e-300) if len(weights) else weights


def signal(
    ax: Any,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    extent: float = 3.0,
    cells: int = 121,
    label: str = "Y(x)",
) -> Any:
    """An image of a function of two inputs, with its color bar.

    A function of inputs (B, 2) to values (B,) as an image on [-extent, extent]^2 with its color bar.
    """
    side = np.linspace(-extent, extent, count(cells, "cells", minimum=2))
    mesh = np.stack(np.meshgrid(side, side), axis=-1)
    values = np.asarray(function(mesh.reshape(-1, 2))).reshape(cells, cells)
    image = ax.imshow(
        values,
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap="cividis",
        interpolation="bilinear",
    )
    ax.set_xlabel("x₁")
    ax.set_ylabel("x₂")
    colorbar(ax, image, label)
    return ax
