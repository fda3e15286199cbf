"""The axes of a sweep, its function traced once for many cells, and the labelled results of all."""

from mfjax.table.results import Table as Table
from mfjax.table.results import check_names as check_names
from mfjax.table.results import check_representable as check_representable
from mfjax.table.results import checked_axes as checked_axes
from mfjax.table.results import is_numeric as is_numeric
from mfjax.table.results import report as report
from mfjax.table.results import tabulate as tabulate
from mfjax.table.trace import Traced as Traced
from mfjax.table.trace import check_ends as check_ends
from mfjax.table.trace import trace as trace
