"""Where points of a domain are drawn, and the frame around them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ScalarLike

from mfjax._numerics.arrays import known
from mfjax.domains import Axis, Domain, require_domain

Extent = Sequence[tuple[ScalarLike, ScalarLike]] | None
# Lines of a graticule divide each of its axes in so many parts.
PARTS = 6
# Sides whose lengths differ by a larger factor fill their panel: to scale they would be a line.
TO_SCALE = 3.0


def names(domain: Domain, symbol: str = "x") -> list[str]:
    """The label of each coordinate: that of the domain, otherwise `symbol`, numbered where there are two.

    >>> import mfjax as mf
    >>> names(mf.domains.Torus(2), "z [mm]"), names(mf.domains.Sphere(1))
    (['z₁ [mm]', 'z₂ [mm]'], ['angle [rad]'])
    """
    numbers = [""] if domain.dim == 1 else ["₁", "₂"]
    letter, space, unit = symbol.partition(" [")
    return [axis.label or f"{letter}{k}{space}{unit}" for axis, k in zip(domain.axes, numbers, strict=True)]


def density_label(domain: Domain, symbol: str = "x") -> str:
    """The label of a density with respect to volume, with its unit where the axes have one.

    >>> import mfjax as mf
    >>> density_label(mf.domains.Sphere(2)), density_label(mf.domains.Torus(2), "z [mm]")
    ('density [1/sr]', 'density [1/mm²]')
    >>> density_label(mf.domains.Zonal(2)), density_label(mf.domains.Zonal(10))
    ('density [1/sr]', 'density [1/rad$^{10}$]')
    >>> density_label(mf.domains.Product(mf.domains.Zonal(2), mf.domains.Interval(0.0, 1.0)))
    'density'
    """
    # Of an orbit one coordinate is stored, and its volume is that of the whole.
    powers = domain.volume_powers
    units = [
        unit_of(name) for name, power in zip(names(domain, symbol), powers, strict=True) for _ in range(power)
    ]
    if not domain.isometric or max(powers) > 1:
        if units == ["rad", "rad"]:
            return "density [1/sr]"
        alike = domain.isometric and units[0] and len(set(units)) == 1
        return f"density [1/{units[0]}$^{{{len(units)}}}$]" if alike else "density"
    units = [unit for unit in units if unit]
    if not units:
        return "density"
    if len(units) == 1:
        return f"density [1/{units[0]}]"
    return f"density [1/{units[0]}²]" if units[0] == units[1] else f"density [1/({units[0]} {units[1]})]"


def unit_of(name: str) -> str:
    """The unit in the brackets at the end of a label, or nothing."""
    return name.rpartition("[")[2].removesuffix("]") if name.endswith("]") else ""


def check_drawable(domain: Domain) -> None:
    """**Raises** `ValueError` for what is no domain, and for domains of more than two dimensions."""
    require_domain(domain)
    if domain.dim > 2:
        raise ValueError(f"figures show one or two dimensions, and {domain!r} has {domain.dim}")


def ranges(domain: Domain, extent: Extent) -> list[tuple[float, float] | None]:
    """The interval of each coordinate that is drawn: `extent`, or the ends of its axis, `None` if endless."""
    if extent is None:
        ends = lambda axis: _floats((known(axis.lower), known(axis.upper)))
        return [None if axis.endless else ends(axis) for axis in domain.axes]
    if len(extent) != domain.dim:
        raise ValueError(f"extent must hold {domain.dim} pairs, one per coordinate, got {extent!r}")
    return [_floats(pair) for pair in extent]


def _floats(pair: tuple[ScalarLike, ScalarLike]) -> tuple[float, float]:
    low, high = (float(np.asarray(end)) for end in pair)
    return low, high


def coordinates(domain: Domain, points: Any, extent: Extent = None) -> np.ndarray:
    """Coordinates (M, dim) of `points` (M, ambient), on closed axes in the period that `extent` begins."""
    points = jnp.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != domain.ambient:
        raise ValueError(f"points must have shape (M, {domain.ambient}) on {domain!r}, got {points.shape}")
    q = np.array(jax.jit(jax.vmap(domain.coordinates))(points), float)
    if extent is None:
        return q
    for i, (axis, (low, _)) in enumerate(zip(domain.axes, map(known, ranges(domain, extent)), strict=True)):
        if axis.closed:
            q[:, i] = low + np.mod(q[:, i] - low, float(axis.length))
    return q


def mapped(domain: Domain, q: np.ndarray) -> np.ndarray:
    """Where coordinates (..., dim) lie in the figure."""
    flat = jnp.asarray(q.reshape(-1, domain.dim))
    return np.asarray(jax.jit(jax.vmap(domain.drawn))(flat), float).reshape(q.shape)


def frame(ax: Any, domain: Domain, extent: Extent, symbol: str, *, light: bool = False) -> None:
    """The labels and limits of `ax`, or a graticule where coordinates do not measure lengths."""
    if domain.dim == 2 and not domain.isometric:
        graticule(ax, domain, light)
        return
    labels, shown = names(domain, symbol), ranges(domain, extent)
    sides = [ax.xaxis] if domain.dim == 1 else [ax.xaxis, ax.yaxis]
    for side, axis, label, limits in zip(sides, domain.axes, labels, shown, strict=True):
        side.set_label_text(label)
        if limits is not None:
            (ax.set_xlim if side is ax.xaxis else ax.set_ylim)(*limits)
            if _is_angle(axis) and np.isclose(limits[1] - limits[0], 2 * np.pi):
                quarters = np.arange(np.ceil(2 * limits[0] / np.pi), np.floor(2 * limits[1] / np.pi) + 1)
                side.set_ticks(np.pi / 2 * quarters, [_in_quarters(int(k)) for k in quarters])
    if domain.dim == 2 and len({unit_of(label) for label in labels}) == 1:
        sides = np.abs(np.diff([ax.get_xlim(), ax.get_ylim()]))
        ax.set_aspect("equal" if sides.max() <= TO_SCALE * sides.min() else "auto")


def graticule(ax: Any, domain: Domain, light: bool = False) -> None:
    """Lines of constant coordinates, with their values at the margin, once for each `ax`."""
    if any(line.get_gid() == "graticule" for line in ax.lines):
        return
    shown = ranges(domain, None)
    if any(limits is None for limits in shown):
        ax.set_xlabel(names(domain)[0])
        ax.set_ylabel(names(domain)[1])
        return
    ends = [known(limits) for limits in shown]
    steps = [np.linspace(low, high, PARTS + 1) for low, high in ends]
    along = [np.linspace(low, high, 181) for low, high in ends]
    for i in (0, 1):
        for k, value in enumerate(steps[i]):
            q = np.stack([np.full(181, value), along[1 - i]], axis=-1)[:, [0, 1] if i == 0 else [1, 0]]
            outer = k in (0, PARTS)
            color = "0.4" if outer else ("1" if light else "0.85")
            style = {"color": color, "linewidth": 0.8 if outer else 0.5, "gid": "graticule"}
            ax.plot(*mapped(domain, q).T, **style, zorder=3 if light or outer else 0)
    bottom = mapped(domain, np.array([[a, ends[1][0]] for a in steps[0]]))
    # Where the second axis ends at a single point there is no room for values.
    pole = np.ptp(bottom, axis=0).max() < 1e-5
    for k in range(1, PARTS):
        left = mapped(domain, np.array([ends[0][0], steps[1][k]]))
        # Away from a margin that is curved.
        side = np.sign(2 * k - PARTS)
        va = {-1: "top", 0: "center", 1: "bottom"}[int(side)] if pole else "center"
        _note(ax, left, _value(domain.axes[1], steps[1][k]), ha="right", va=va, offset=(-3, 0))
        if not pole:
            _note(ax, bottom[k], _value(domain.axes[0], steps[0][k]), ha="center", va="top", offset=(0, -3))
    ax.set_aspect("equal")
    # Room for the outline, and for dots at it.
    ax.use_sticky_edges = False
    ax.margins(0.02)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    # Values are at the lines, angles in degrees.
    across, up = (name.replace("[rad]", "").strip() for name in names(domain))
    if pole:
        low, high = (_value(domain.axes[0], end) for end in ends[0])
        ax.set_xlabel(f"{across}, {low} to {high}", labelpad=4)
    else:
        ax.set_xlabel(across, labelpad=14)
    ax.set_ylabel(up, labelpad=20)


def _note(ax: Any, place: np.ndarray, text: str, *, offset: tuple[int, int], **alignment: str) -> None:
    style = {"fontsize": 8, "color": "0.3", "annotation_clip": False} | alignment
    ax.annotate(text, place, xytext=offset, textcoords="offset points", **style)


def _is_angle(axis: Axis) -> bool:
    return unit_of(axis.label or "") == "rad"


def _value(axis: Axis, value: float) -> str:
    if _is_angle(axis):
        return f"{np.degrees(value):.0f}°".replace("-", "−")
    return f"{value:.3g}".replace("-", "−")


def _in_quarters(k: int) -> str:
    """k pi / 2 as a formula."""
    if k == 0:
        return "0"
    sign, k = ("-" if k < 0 else ""), abs(k)
    number = "" if k in (1, 2) else str(k // 2 if k % 2 == 0 else k)
    return f"${sign}{number}\\pi{'' if k % 2 == 0 else '/2'}$"
