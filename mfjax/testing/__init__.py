"""Generic checks for energies, feature maps, domains, flows and steppers, one's own included.

Each check raises `AssertionError` with the numbers that disagree, and returns those it measured. The
tests of the library run the same checks on everything it offers. They run in the precision of the measure
they are given; bars are relative to the largest entry.
"""

from mfjax.testing.base import check_traces as check_traces
from mfjax.testing.base import finished as finished
from mfjax.testing.domain import check_domain as check_domain
from mfjax.testing.energy import check_energy as check_energy
from mfjax.testing.features import check_feature_map as check_feature_map
from mfjax.testing.flow import check_flow as check_flow
from mfjax.testing.stepper import check_stepper_order as check_stepper_order
