"""Figures of measures and runs: plain functions that draw arrays on axes.

Every function takes and returns matplotlib axes; `figure` makes them without `pyplot`, so nothing depends
on a display, on global state or on the order of calls. Matplotlib is imported on first use.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Real, ScalarLike

from mfjax._arrays import count

Numbers = Array | np.ndarray
# Widths in inches of one and of two columns of a printed page.
SINGLE, DOUBLE = 3.4, 6.9
# Okabe and Ito's colours, told apart by all common forms of colour vision; yellow, faint as a line, last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "mathtext.fontset": "dejavusans",
}
SPREADS = ("range", "deviation", "none")


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = DOUBLE,
    height: float = 2.4,
    projections: Mapping[int, str] | None = None,
    **options: Any,
) -> tuple[Any, Any]:
    """A figure of `width` by `height` inches and its (rows, columns) object array of axes.

    `projections` maps the number of a panel, counted along rows, to a matplotlib projection; `options`
    such as `sharey="row"` go to `Figure.subplots` where all panels are plain.

    >>> fig, axes = figure(1, 2)
    >>> axes.shape, [round(float(inches), 1) for inches in fig.get_size_inches()]
    ((1, 2), [6.9, 2.4])
    """
    import matplotlib
    from matplotlib.figure import Figure

    count(rows, "rows"), count(columns, "columns")
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        if projections:
            axes = np.empty((rows, columns), object)
            for i in range(rows * columns):
                axes.flat[i] = fig.add_subplot(rows, columns, i + 1, projection=projections.get(i))
        else:
            axes = fig.subplots(rows, columns, squeeze=False, **options)
    return fig, axes


def save(fig: Any, stem: str | Path) -> tuple[Path, Path]:
    """Write `fig` as `stem`.png (200 dots per inch) and `stem`.pdf; folders are made as needed.

    The files are the same, byte for byte, for the same figure.
    """
    import matplotlib

    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with matplotlib.rc_context(STYLE | {"pdf.fonttype": 42}):
        fig.savefig(png, dpi=200, metadata={"Software": None})
        fig.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf


def color(index: int) -> str:
    """The colour of series number `index`; they repeat after eight."""
    return PALETTE[index % len(PALETTE)]


def shade(index: int, total: int) -> Any:
    """Colour number `index` of `total` of an ordered family, dark blue to yellow-green, readable in grey."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * index / max(total - 1, 1))


def band(
    ax: Any,
    x: Real[Numbers, " S"],
    values: Real[Numbers, "*runs T"],
    *,
    label: str | None = None,
    spread: str = "range",
    **line: Any,
) -> Any:
    """The mean over R repetitions (seeds) of curves `values` (R, S) at `x` (S,), in a band of their spread.

    `spread`: "range" shades least to greatest, "deviation" one standard deviation either side, or "none".
    Entries that are not finite (a failed run) are left out of mean and band. `line` goes to `ax.plot`.

    **Raises** `ValueError` for mismatched shapes and unknown `spread`.

    >>> _, axes = figure()
    >>> drawn = band(axes[0, 0], np.arange(3.0), np.ones((2, 3)), label="width 32")
    >>> drawn.get_label(), drawn.get_ydata().tolist()
    ('width 32', [1.0, 1.0, 1.0])
    """
    x, values = np.asarray(x, float), np.atleast_2d(np.asarray(values, float))
    if x.ndim != 1 or values.shape[1:] != x.shape:
        raise ValueError(f"values must have shape (R, {x.size}) to match x, got {values.shape}")
    if spread not in SPREADS:
        raise ValueError(f"spread must be one of {', '.join(SPREADS)}, got {spread!r}")
    seen = np.ma.masked_invalid(values)
    middle = seen.mean(axis=0)
    (drawn,) = ax.plot(x, middle.filled(np.nan), label=label, **line)
    if spread != "none" and len(values) > 1:
        if spread == "range":
            low, high = seen.min(axis=0), seen.max(axis=0)
        else:
            deviation = seen.std(axis=0)
            low, high = middle - deviation, middle + deviation
        low, high = low.filled(np.nan), high.filled(np.nan)
        ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.18, linewidth=0)
    return drawn


def distances(
    ax: Any,
    times: Real[Numbers, " S"],
    curves: Mapping[str, Real[Numbers, "..."]],
    *,
    ylabel: str = "MMD to teacher",
    spread: str = "range",
    step: float | None = None,
    log_time: bool = True,
    colors: Mapping[str, Any] | None = None,
    styles: Mapping[str, str] | None = None,
) -> Any:
    """Positive curves over flow time with seed bands, a logarithmic y axis, and one legend entry each.

    - `times` (S,) in flow time; with `log_time` the time axis is logarithmic and t = 0 is left out.
    - `curves`: labels to arrays (R, S) or (S,); `ylabel` names what they are.
    - `step`: flow time of one iteration; adds a second axis above with the iteration number t / step.
    - `colors`, `styles`: labels to colours and dash patterns, otherwise `PALETTE` and solid lines.

    >>> _, axes = figure()
    >>> ax = distances(axes[0, 0], np.arange(4.0), {"M = 32": np.ones((2, 4))})
    >>> ax.get_xlabel(), ax.get_yscale()
    ('flow time t', 'log')
    """
    times = np.asarray(times, float)
    shown = times > 0 if log_time else np.ones(times.shape, bool)
    for i, (label, values) in enumerate(curves.items()):
        values = np.atleast_2d(np.asarray(values, float))
        if values.shape[1:] != times.shape:
            raise ValueError(
                f"the curve {label!r} has shape {values.shape}, expected (R, {times.size}) to match times"
            )
        values = np.where(values > 0, values, np.nan)
        drawn = (colors or {}).get(label, color(i))
        dash = (styles or {}).get(label, "-")
        band(ax, times[shown], values[:, shown], label=label, spread=spread, color=drawn, linestyle=dash)
    ax.set_yscale("log")
    plain_log_ticks(ax.yaxis)
    time_axis(ax, step=step, log=log_time)
    ax.set_ylabel(ylabel)
    return ax


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis that spans little more than a decade at 1, 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    if low > 0 and high / low < 80:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def time_axis(ax: Any, *, step: float | None = None, log: bool = True) -> None:
    """Label the x axis as flow time, and with `step` a second one above as iterations k = t / step."""
    if log:
        ax.set_xscale("log")
    ax.set_xlabel("flow time t")
    if step is not None:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            above = ax.secondary_xaxis("top", functions=(lambda t: t / step, lambda k: k * step))
            above.set_xlabel("iterations k")


def title(ax: Any, text: str) -> None:
    """A title in the size of the labels."""
    ax.set_title(text, fontsize=STYLE["axes.titlesize"])


def legend(ax: Any, entries: Sequence[tuple[str, Mapping[str, Any]]] | None = None, **options: Any) -> Any:
    """The legend of `ax`; or one of `entries`, (label, line properties), for what colour and dash mean.

    >>> _, axes = figure()
    >>> [text.get_text() for text in legend(axes[0, 0], [("biased", {"linestyle": "--"})]).get_texts()]
    ['biased']
    """
    from matplotlib.lines import Line2D

    options = {"frameon": False, "fontsize": STYLE["legend.fontsize"], "handlelength": 1.7} | options
    if entries is None:
        return ax.legend(**options)
    handles = [Line2D([], [], label=label, **({"color": "0.3"} | dict(line))) for label, line in entries]
    return ax.legend(handles=handles, **options)


def density_lines(
    ax: Any,
    angle: Real[Numbers, " B"],
    densities: Mapping[str, Real[Numbers, "..."]],
    *,
    target: Real[Numbers, " B"] | None = None,
    spread: str = "none",
) -> Any:
    """Densities on the circle over the angle, coloured in the order of time, and the target as a dotted line.

    `angle` (B,) in radians; `densities` maps labels such as "t = 1" to arrays (B,), or (R, B) whose mean
    over R seeds is drawn (`spread` as in `band`); per radian.

    >>> _, axes = figure()
    >>> ax = density_lines(axes[0, 0], np.linspace(-3, 3, 5), {"t = 0": np.ones(5), "t = 1": np.ones(5)})
    >>> ax.get_xlabel(), len(ax.lines)
    ('angle [rad]', 2)
    """
    angle = np.asarray(angle, float)
    order = np.argsort(angle)
    for i, (label, values) in enumerate(densities.items()):
        values = np.atleast_2d(np.asarray(values, float))
        if values.shape[1:] != angle.shape:
            raise ValueError(
                f"the density {label!r} has shape {values.shape}, expected (R, {angle.size}) to match angle"
            )
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
    """A density on the circle as a heat map, angle across and flow time upwards, with its colour bar.

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
    _colorbar(ax, mesh, "density [1/rad]")
    return ax


def angle_axis(ax: Any) -> None:
    """The x axis as an angle in radians from -pi to pi."""
    ax.set_xlim(-np.pi, np.pi)
    ax.set_xticks(
        np.pi * np.array([-1, -0.5, 0, 0.5, 1]), [r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"]
    )
    ax.set_xlabel("angle [rad]")


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
    options = {"alpha": 0.5, "linewidths": 0} | marks
    ax.scatter(*(radius * points.T), s=area, label=label, **options)
    ax.set_aspect("equal")
    ax.set_xlabel("ω₁")
    ax.set_ylabel("ω₂")
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
    """Particles on the 2-torus, drawn in the period centred at the origin; dots as in `circle`.

    `points` (M, 2) coordinates, `period` the side of the square.
    """
    points, area = _dots(points, weights)
    points = points - period * np.round(points / period)
    options = {"alpha": 0.6, "linewidths": 0} | marks
    ax.scatter(*points.T, s=area, label=label, **options)
    ax.set_xlim(-period / 2, period / 2)
    ax.set_ylim(-period / 2, period / 2)
    ax.set_aspect("equal")
    ax.set_xlabel("ω₁")
    ax.set_ylabel("ω₂")
    return ax


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
    """A function of inputs (B, 2) to values (B,) as an image on [-extent, extent]^2 with its colour bar."""
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
    _colorbar(ax, image, label)
    return ax


def _colorbar(ax: Any, image: Any, label: str) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9)


def animate(
    draw: Callable[[Any, int], Any],
    frames: int,
    path: str | Path,
    *,
    width: float = SINGLE,
    height: float = SINGLE,
    rate: ScalarLike = 12.0,
) -> Path:
    """Write a GIF of `frames` pictures, `rate` a second: `draw(ax, i)` draws picture i on cleared axes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = animate(lambda ax, i: circle(ax, np.array([[1.0, 0.0]])), 2, f"{folder}/run.gif")
    ...     path.read_bytes()[:3]
    b'GIF'
    """
    import matplotlib
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        fig, axes = figure(width=width, height=height)
        FigureCanvasAgg(fig)
        writer = PillowWriter(fps=rate)
        with writer.saving(fig, str(path), dpi=110):
            for i in range(count(frames, "frames")):
                axes[0, 0].clear()
                draw(axes[0, 0], i)
                writer.grab_frame()
    return path
