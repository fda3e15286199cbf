"""Figures and their panels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mfjax._numerics.arrays import count
from mfjax.plot.canvas import STYLE

# Widths in inches of one and of two columns of a printed page.
SINGLE, DOUBLE = 3.4, 6.9


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

    In a notebook the figure is shown where it is the last line of a cell, or by `display(fig)`.

    `projections` maps the number of a panel, counted along rows, to a matplotlib projection; `options`
    such as `sharey="row"` go to `Figure.subplots` where all panels are plain.

    >>> fig, axes = figure(1, 2)
    >>> axes.shape, [round(float(inches), 1) for inches in fig.get_size_inches()]
    ((1, 2), [6.9, 2.4])
    """
    import matplotlib

    from mfjax.plot.shown import ShownFigure

    count(rows, "rows")
    count(columns, "columns")
    with matplotlib.rc_context(STYLE):
        fig = ShownFigure(figsize=(width, height), layout="constrained")
    return fig, panels(fig, rows, columns, projections, **options)


def panels(
    fig: Any, rows: int, columns: int, projections: Mapping[int, str] | None = None, **options: Any
) -> Any:
    """The (rows, columns) object array of new axes of `fig`, as in `figure`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        if not projections:
            return fig.subplots(rows, columns, squeeze=False, **options)
        axes = np.empty((rows, columns), object)
        for i in range(rows * columns):
            axes.flat[i] = fig.add_subplot(rows, columns, i + 1, projection=projections.get(i))
    return axes
