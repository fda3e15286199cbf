"""Densities on the circle, as lines at some times or as a map over all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Real

from mfjax.plot.canvas import Numbers, colorbar, shade
from mfjax.plot.curves import band, repetitions


def density_lines(
    ax: Any,
    angle: Real[Numbers, " B"],
    densities: Mapping[str, Real[Numbers, "..."]],
    *,
    target: Real[Numbers, " B"] | None = None,
    spread: str = "none",
) -> Any:
    """Densities on the circle over the angle, colored in the order of time, and the target as a dotted line.

    `angle` (B,) in radians; `densities` maps labels such as "t = 1" to arrays (B,), or (R, B) whose mean
    over R seeds is drawn (`spread` as in `band`); per radian.

    >>> from mfjax.plot import figure
    >>> _, axes = figure()
    >>> ax = density_lines(axes[0, 0], np.linspace(-3, 3, 5), {"t = 0": np.ones(5), "t = 1": np.ones(5)})
    >>> ax.get_xlabel(), len(ax.lines)
    ('angle [rad]', 2)
    """
    angle = np.asarray(angle, float)
    order = np.argsort(angle)
    for i, (label, values) in enumerate(densities.items()):
        values = repetitions(values, f"the density {label!r}", angle, "angle")
        shown = shade(i, len(densities))
        band(ax, angle[order], values[:, order], label=label, spread=spread, color=shown)
    if target is not None:
        target = np.asarray(target, float)[order]
        ax.plot(angle[order], target, color="0.25", linestyle=":", linewidth=1.1, label="target", zorder=3)
    angle_axis(ax)
    ax.set_ylabel("density [1/rad]")
    ax.set_ylim(bottom=0)
    return ax


def density_map(
    ax: Any, angle: Real[Numbers, " B"], times: Real[Numbers, " S"], density: Real[Numbers, "T K"]
) -> Any:
    """A density on the circle as a heat map, angle across and flow time upwards, with its color bar.

    `angle` (B,) in radians, `times` (S,) positive on a logarithmic axis, `density` (S, B) per radian.
    """
    angle, times, density = (np.asarray(a, float) for a in (angle, times, density))
    if density.shape != (times.size, angle.size):
        raise ValueError(f"density must have shape ({times.size}, {angle.size}), got {density.shape}")
    if times.min() <= 0:
        raise ValueError(f"times must be positive on a logarithmic axis, got {times.min():g}")
    order = np.argsort(angle)
    mesh = ax.pcolormesh(
        angle[order], times, density[:, order], cmap="cividis", shading="nearest", rasterized=True
    )
    ax.set_yscale("log")
    angle_axis(ax)
    ax.set_ylabel("flow time t")
    colorbar(ax, mesh, "density [1/rad]")
    return ax


def angle_axis(ax: Any) -> None:
    """The x axis as an angle in radians from -pi to pi."""
    ax.set_xlim(-np.pi, np.pi)
    ax.set_xticks(
        np.pi * np.array([-1, -0.5, 0, 0.5, 1]), [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"]
    )
    ax.set_xlabel("angle [rad]")
