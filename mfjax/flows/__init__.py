"""Flows: an energy seen through a geometry. A flow knows its rate; it never loops over time.

- `Wasserstein`, `WassersteinFisherRao` (masses grow too).
- Outer weights that move: `TwoTimescale` (at a rate), `OuterMomentum` (averages of projections).
- Pairs (rho, H) of features and heights: `SeparatedVariables`, `Transported`, `PropagationOfChaos`.
- `TwoHiddenLayers`: both layers of a deeper network, the first as a measure.
- `BatchExpansion`: what batches do to particles in the mean, to first order in the step.
- `VarianceReduced`: batches whose noise vanishes at a minimum; `Averaged`: points averaged along a run.
- `Scheduled`: numbers of any of them that depend on time.
- To write one: `Flow`, `HeightFlow` of pairs, `OuterWeightFlow` by its `Drive`, `WrapperFlow` of another
  flow; the `State` it moves; `Evaluation`, made by `evaluation`.
"""

from mfjax.flows.averaged import Averaged
from mfjax.flows.base import Evaluation, Flow, State, evaluation
from mfjax.flows.batch_expansion import BatchExpansion
from mfjax.flows.fisher_rao import WassersteinFisherRao
from mfjax.flows.heights import HeightFlow
from mfjax.flows.outer_momentum import OuterMomentum
from mfjax.flows.outer_weights import Drive, OuterWeightFlow
from mfjax.flows.propagation_of_chaos import PropagationOfChaos
from mfjax.flows.scheduled import Scheduled
from mfjax.flows.separated_variables import SeparatedVariables
from mfjax.flows.transported import Transported
from mfjax.flows.two_hidden_layers import TwoHiddenLayers
from mfjax.flows.two_timescale import TwoTimescale
from mfjax.flows.variance_reduced import VarianceReduced
from mfjax.flows.wasserstein import Wasserstein
from mfjax.flows.wrapper import WrapperFlow

__all__ = [
    "Averaged",
    "BatchExpansion",
    "Drive",
    "Evaluation",
    "Flow",
    "HeightFlow",
    "OuterMomentum",
    "OuterWeightFlow",
    "PropagationOfChaos",
    "Scheduled",
    "SeparatedVariables",
    "State",
    "Transported",
    "TwoHiddenLayers",
    "TwoTimescale",
    "VarianceReduced",
    "Wasserstein",
    "WassersteinFisherRao",
    "WrapperFlow",
    "evaluation",
]
