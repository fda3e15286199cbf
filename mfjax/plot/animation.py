"""Pictures in a row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from jaxtyping import ScalarLike

from mfjax._numerics.arrays import count
from mfjax.plot.canvas import SINGLE, STYLE, figure


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        fig, axes = figure(width=width, height=height)
        FigureCanvasAgg(fig)
        writer = PillowWriter(fps=cast(int, rate))
        with writer.saving(fig, str(path), dpi=110):
            for i in range(count(frames, "frames")):
                axes[0, 0].clear()
                draw(axes[0, 0], i)
                writer.grab_frame()
    return path
