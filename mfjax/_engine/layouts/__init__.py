"""How the cells of a sweep are laid out on a machine: programs, the memory they need, the choice by time."""

from mfjax._engine.layouts.layout import METHODS, Layout, groups_of, spans_processes, whole_mesh
from mfjax._engine.layouts.plan import Bucket, Request, plan, plan_arrays
from mfjax._engine.layouts.program import along, batched, placed, split

__all__ = [
    "METHODS",
    "Bucket",
    "Layout",
    "Request",
    "along",
    "batched",
    "groups_of",
    "placed",
    "plan",
    "plan_arrays",
    "spans_processes",
    "split",
    "whole_mesh",
]
