"""The axes of a sweep, its function traced once for many cells, and the labeled results of all."""

from mfjax._engine.table.results import (
    Table,
    check_names,
    check_representable,
    checked_axes,
    is_numeric,
    report,
    tabulate,
)
from mfjax._engine.table.trace import Traced, check_ends, trace

__all__ = [
    "Table",
    "Traced",
    "check_ends",
    "check_names",
    "check_representable",
    "checked_axes",
    "is_numeric",
    "report",
    "tabulate",
    "trace",
]
