"""Figures of measures and runs: plain functions that draw arrays on axes.

Every function takes and returns matplotlib axes; `figure` makes them without `pyplot`, so nothing depends
on a display, on global state or on the order of calls. Matplotlib is imported on first use.

- `figure`, `save`, `animate`.
- What is drawn: `density`, `particles`, `signal`, `distances`, `band`.
- Around it: `legend`, `title`, `time_axis`, `angle_axis`, `plain_log_ticks`.
- The look: `color`, `shade`, `PALETTE`, `DASHES`, `STYLE`, `SPREADS`, the widths `SINGLE` and `DOUBLE` of
  columns; `Numbers` is a type.
"""

from mfjax.plot.animation import animate
from mfjax.plot.canvas import DASHES, PALETTE, STYLE, Numbers, color, legend, save, shade, title
from mfjax.plot.curves import SPREADS, band, distances, plain_log_ticks, time_axis
from mfjax.plot.densities import angle_axis, density
from mfjax.plot.dots import particles, signal
from mfjax.plot.page import DOUBLE, SINGLE, figure

__all__ = [
    "DASHES",
    "DOUBLE",
    "PALETTE",
    "SINGLE",
    "SPREADS",
    "STYLE",
    "Numbers",
    "angle_axis",
    "animate",
    "band",
    "color",
    "density",
    "distances",
    "figure",
    "legend",
    "particles",
    "plain_log_ticks",
    "save",
    "shade",
    "signal",
    "time_axis",
    "title",
]
