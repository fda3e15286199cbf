"""Energies F(mu) of a measure, one per file. A new energy is one subclass of `Energy` with `solve`."""

from mfjax.energies.base import Energy as Energy
from mfjax.energies.base import Scaled as Scaled
from mfjax.energies.base import Solution as Solution
from mfjax.energies.base import Sum as Sum
from mfjax.energies.blob import Blob as Blob
from mfjax.energies.discrepancy import MMD as MMD
from mfjax.energies.entropy import Entropy as Entropy
from mfjax.energies.interaction import Interaction as Interaction
from mfjax.energies.internal import InternalEnergy as InternalEnergy
from mfjax.energies.population_risk import PopulationReducedRisk as PopulationReducedRisk
from mfjax.energies.porous_medium import PorousMedium as PorousMedium
from mfjax.energies.potential import Potential as Potential
from mfjax.energies.power_divergence import PowerDivergence as PowerDivergence
from mfjax.energies.reduced_risk import ReducedRisk as ReducedRisk
from mfjax.energies.risk import Risk as Risk
from mfjax.energies.sobolev import Sobolev as Sobolev
from mfjax.energies.spacings import Spacings as Spacings
