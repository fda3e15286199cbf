"""Figures of measures and runs: plain functions that draw arrays on axes.

Every function takes and returns matplotlib axes; `figure` makes them without `pyplot`, so nothing depends
on a display, on global state or on the order of calls. Matplotlib is imported on first use.
"""

from mfjax.plot.animation import animate as animate
from mfjax.plot.canvas import DASHES as DASHES
from mfjax.plot.canvas import DOUBLE as DOUBLE
from mfjax.plot.canvas import PALETTE as PALETTE
from mfjax.plot.canvas import SINGLE as SINGLE
from mfjax.plot.canvas import STYLE as STYLE
from mfjax.plot.canvas import Numbers as Numbers
from mfjax.plot.canvas import color as color
from mfjax.plot.canvas import figure as figure
from mfjax.plot.canvas import legend as legend
from mfjax.plot.canvas import save as save
from mfjax.plot.canvas import shade as shade
from mfjax.plot.canvas import title as title
from mfjax.plot.curves import SPREADS as SPREADS
from mfjax.plot.curves import band as band
from mfjax.plot.curves import distances as distances
from mfjax.plot.curves import plain_log_ticks as plain_log_ticks
from mfjax.plot.curves import time_axis as time_axis
from mfjax.plot.densities import angle_axis as angle_axis
from mfjax.plot.densities import density_lines as density_lines
from mfjax.plot.densities import density_map as density_map
from mfjax.plot.particles import circle as circle
from mfjax.plot.particles import signal as signal
from mfjax.plot.particles import torus as torus
