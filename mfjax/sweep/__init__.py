"""The only loop over cells: a function of named parameters over a product of axes, as one labelled table."""

from mfjax.sweep.cells import METHODS as METHODS
from mfjax.sweep.cells import sweep as sweep
from mfjax.table import Table as Table
