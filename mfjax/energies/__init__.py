"""Energies F(mu) of a measure, one per file. A new energy is one subclass of `Energy` with `solve`."""

from mfjax.energies.base import Energy, Solution, Sum
from mfjax.energies.blob import Blob
from mfjax.energies.compression import Compressed, compress
from mfjax.energies.data import Data
from mfjax.energies.discrepancy import MMD
from mfjax.energies.dual import Dual
from mfjax.energies.entropy import Entropy
from mfjax.energies.field import Field
from mfjax.energies.interaction import Interaction
from mfjax.energies.internal import DensityEstimate, InternalEnergy
from mfjax.energies.population_risk import PopulationReducedRisk
from mfjax.energies.porous_medium import PorousMedium
from mfjax.energies.potential import Potential
from mfjax.energies.power_divergence import PowerDivergence
from mfjax.energies.predictor import Predictor
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.energies.risk import Risk
from mfjax.energies.sobolev import Sobolev
from mfjax.energies.spacings import Spacings

__all__ = [
    "MMD",
    "Blob",
    "Compressed",
    "Data",
    "DensityEstimate",
    "Dual",
    "Energy",
    "Entropy",
    "Field",
    "Interaction",
    "InternalEnergy",
    "PopulationReducedRisk",
    "PorousMedium",
    "Potential",
    "PowerDivergence",
    "Predictor",
    "ReducedRisk",
    "Risk",
    "Sobolev",
    "Solution",
    "Spacings",
    "Sum",
    "compress",
]
