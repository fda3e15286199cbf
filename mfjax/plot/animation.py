"""Pictures in a row."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from jaxtyping import ScalarLike

from mfjax._numerics.arrays import count, scalar
from mfjax.plot.canvas import STYLE
from mfjax.plot.page import SINGLE, figure, panels

# Endings of pictures and films that are asked for at times, and are no part of a name.
OTHERS = (".mp4", ".mov", ".avi", ".webm", ".mkv", ".png", ".apng", ".webp", ".pdf", ".svg", ".jpg", ".jpeg")


def animate(
    draw: Callable[[Any, int], Any],
    frames: int,
    path: str | Path,
    *,
    rows: int = 1,
    columns: int = 1,
    width: float = SINGLE,
    height: float = SINGLE,
    projections: Mapping[int, str] | None = None,
    fig: Any = None,
    dpi: ScalarLike = 150.0,
    rate: ScalarLike = 12.0,
    **options: Any,
) -> Path:
    """Write a GIF of `frames` pictures, `rate` a second; the ending .gif is added where it lacks.

    - `draw(ax, i)` draws picture i = 0, 1, ... on new axes; with `rows` or `columns` above one it is given
      their (rows, columns) array. Set their limits in `draw`, or axes move as ticks change.
    - `rows`, `columns`, `width`, `height` (inches), `projections`, `options`: as in `figure`; `dpi` dots per
      inch.
    - `fig`: a figure of your own, such as one with panels of several sizes, in place of these:
      `draw(fig, i)` changes it, and nothing is cleared between pictures.

    **Raises** `ValueError` for another ending, no frames, `dpi` or `rate` that are not positive, and `fig`
    together with a layout.

    >>> import tempfile
    >>> import numpy as np
    >>> import mfjax as mf
    >>> circle, dot = mf.domains.Sphere(1), np.array([[1.0, 0.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = animate(lambda ax, i: mf.plot.particles(ax, dot, circle), 2, f"{folder}/run.gif")
    ...     path.read_bytes()[:3]
    b'GIF'
    """
    import matplotlib
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    if path.suffix.lower() in OTHERS:
        raise ValueError(f"animate writes .gif, got {path.name}: for a film convert it, or use matplotlib")
    if path.suffix.lower() != ".gif":
        path = path.with_name(f"{path.name}.gif")
    count(frames, "frames")
    fps, dots = (float(scalar(value, name, above=0)) for value, name in ((rate, "rate"), (dpi, "dpi")))
    own = fig is not None
    if own and (projections or options or (rows, columns, width, height) != (1, 1, SINGLE, SINGLE)):
        raise ValueError("fig has its own layout: leave out rows, columns, width, height and options")
    if not own:
        fig, _ = figure(rows, columns, width=width, height=height, projections=projections, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = fig.canvas
    try:
        with matplotlib.rc_context(STYLE):
            FigureCanvasAgg(fig)
            writer = PillowWriter(fps=cast(int, fps))
            with writer.saving(fig, str(path), dpi=dots):
                for i in range(frames):
                    if own:
                        draw(fig, i)
                    else:
                        # Color bars and legends go with the axes that they belong to.
                        fig.clear()
                        axes = panels(fig, rows, columns, projections, **options)
                        draw(axes[0, 0] if axes.size == 1 else axes, i)
                    writer.grab_frame()
    finally:
        fig.set_canvas(canvas)
    return path
