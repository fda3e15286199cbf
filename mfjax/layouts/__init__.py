"""How the cells of a sweep are laid out on a machine: programs, the memory they need, the choice by time."""

from mfjax.layouts.layout import METHODS as METHODS
from mfjax.layouts.layout import Layout as Layout
from mfjax.layouts.layout import groups_of as groups_of
from mfjax.layouts.layout import spans_processes as spans_processes
from mfjax.layouts.layout import whole_mesh as whole_mesh
from mfjax.layouts.plan import Bucket as Bucket
from mfjax.layouts.plan import Request as Request
from mfjax.layouts.plan import plan as plan
from mfjax.layouts.plan import plan_arrays as plan_arrays
from mfjax.layouts.program import along as along
from mfjax.layouts.program import batched as batched
from mfjax.layouts.program import placed as placed
from mfjax.layouts.program import split as split
