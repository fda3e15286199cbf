"""Flows: an energy seen through a geometry. A flow knows its rate; it never loops over time."""

from mfjax.flows.base import Evaluation as Evaluation
from mfjax.flows.base import Flow as Flow
from mfjax.flows.base import State as State
from mfjax.flows.fisher_rao import WassersteinFisherRao as WassersteinFisherRao
from mfjax.flows.heights import HeightFlow as HeightFlow
from mfjax.flows.propagation_of_chaos import PropagationOfChaos as PropagationOfChaos
from mfjax.flows.scheduled import Scheduled as Scheduled
from mfjax.flows.separated_variables import SeparatedVariables as SeparatedVariables
from mfjax.flows.transported import Transported as Transported
from mfjax.flows.two_timescale import TwoTimescale as TwoTimescale
from mfjax.flows.wasserstein import Wasserstein as Wasserstein
