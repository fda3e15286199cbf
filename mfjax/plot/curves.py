"""Curves over flow time, each a mean over repetitions in a band of their spread."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Real

from mfjax._numerics.arrays import kind
from mfjax.plot.canvas import STYLE, Numbers, check_axes, color
from mfjax.plot.canvas import legend as draw_legend

SPREADS = ("range", "deviation", "none")


def repetitions(values: Any, name: str, x: np.ndarray, axis: str) -> np.ndarray:
    """`values` (R, S) or (S,) of the curve `name` as (R, S).

    **Raises** `ValueError` if S is not the size of `x`, the numbers of the `axis` so called.
    """
    values = np.atleast_2d(np.asarray(values, float))
    if x.ndim != 1 or values.shape[1:] != x.shape:
        raise ValueError(f"{name} must have shape (R, {x.size}) to match {axis}, got {values.shape}")
    return values


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

    >>> from mfjax.plot import figure
    >>> _, axes = figure()
    >>> drawn = band(axes[0, 0], np.arange(3.0), np.ones((2, 3)), label="width 32")
    >>> drawn.get_label(), drawn.get_ydata().tolist()
    ('width 32', [1.0, 1.0, 1.0])
    """
    check_axes(ax)
    x = np.asarray(x, float)
    values = repetitions(values, "values", x, "x")
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
    legend: bool = True,
) -> Any:
    """Positive curves over flow time with seed bands, a logarithmic y axis, and a legend of their labels.

    - `times` (S,) in flow time; with `log_time` the time axis is logarithmic and t = 0 is left out.
    - `curves`: labels to arrays (R, S) or (S,); `ylabel` names what they are.
    - `step`: flow time of one iteration; adds a second axis above with the iteration number t / step.
    - `colors`, `styles`: labels to colors and dash patterns, otherwise `PALETTE` and solid lines.
    - `legend=False`: none, for panels that share one; `legend(ax, ...)` replaces it by another.

    **Raises** `ValueError` for curves without labels, and for mismatched shapes.

    >>> from mfjax.plot import figure
    >>> _, axes = figure()
    >>> ax = distances(axes[0, 0], np.arange(4.0), {"M = 32": np.ones((2, 4))})
    >>> ax.get_xlabel(), ax.get_yscale(), ax.get_legend().get_texts()[0].get_text()
    ('flow time t', 'log', 'M = 32')
    """
    check_axes(ax)
    if not isinstance(curves, Mapping):
        raise ValueError(f'curves must map labels to arrays, {{"M = 32": values}}, got {kind(curves)}')
    times = np.asarray(times, float)
    shown = times > 0 if log_time else np.ones(times.shape, bool)
    for i, (label, values) in enumerate(curves.items()):
        values = repetitions(values, f"the curve {label!r}", times, "times")
        # A mean that is not positive has no logarithm; zeros of some runs are part of it.
        seen = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)
        values = np.where(seen > 0, values, np.nan)
        drawn = (colors or {}).get(label, color(i))
        dash = (styles or {}).get(label, "-")
        band(ax, times[shown], values[:, shown], label=label, spread=spread, color=drawn, linestyle=dash)
    ax.set_yscale("log")
    plain_log_ticks(ax.yaxis)
    time_axis(ax, step=step, log=log_time)
    ax.set_ylabel(ylabel)
    if legend and curves:
        draw_legend(ax)
    return ax


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis that spans little more than a decade at 1, 2 and 5 as well, less at steps."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    if low > 0 and high / low < 80:
        few = high / low < 5
        axis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def time_axis(ax: Any, *, step: float | None = None, log: bool = True) -> None:
    """Label the x axis as flow time, and a second one above as iterations, t / `step`, if a step is given."""
    if log:
        ax.set_xscale("log")
    ax.set_xlabel("flow time t")
    if step is not None:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            above = ax.secondary_xaxis("top", functions=(lambda t: t / step, lambda k: k * step))
            above.set_xlabel("iterations k")
