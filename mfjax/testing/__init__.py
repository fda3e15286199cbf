"""Generic checks for energies, feature maps, domains, flows and steppers, including those of users.

Each check raises `AssertionError` with the numbers that disagree, and returns those it measured. The
tests of the library run the same checks on everything it offers. They run in the precision of the measure
they are given; bars are relative to the largest entry.

- One for each noun: `check_domain`, `check_feature_map`, `check_energy`, `check_flow`, `check_stepper_order`.
- `check_traces` counts compilations; `finished` is a run that must complete.
"""

from mfjax.testing.base import check_traces, finished
from mfjax.testing.domain import check_domain
from mfjax.testing.energy import check_energy
from mfjax.testing.features import check_feature_map
from mfjax.testing.flow import check_flow
from mfjax.testing.stepper import check_stepper_order

__all__ = [
    "check_domain",
    "check_energy",
    "check_feature_map",
    "check_flow",
    "check_stepper_order",
    "check_traces",
    "finished",
]
