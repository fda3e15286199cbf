"""Energies F(mu) of a measure, one per file. A new energy is one subclass of `Energy` with `solve`.

- Networks: `ReducedRisk` (variable projection), `PopulationReducedRisk` (infinitely many data), `Risk` (all
  weights move), with a `SecondLayer` of two hidden layers; `compress` makes `Compressed` data; `Predictor` is
  a network without its data.
- What a step sees of the data: `Batches`, `GaussianBatches`, `Stream`; to write one: `Sampling`.
- Distances to a target: `MMD`, `Sobolev`, `PowerDivergence` (ultra-fast diffusion).
- External and of pairs: `Potential`, `Interaction`.
- Of the density: `Entropy` (noise), `PorousMedium`; on particles by an estimate: `Blob`, `Spacings`.
- Of points that stand for a density: `Quantization`, whose limit is a `PowerDivergence`.
- Added and scaled: `Sum`, as `F + 0.1 * G` makes it.
- To write one: `Energy` and the `Solution` it returns, `Field` (a potential that knows many points at once),
  `Reduced` with its `Score`, `InternalEnergy` and `DensityEstimate`, `Dual` (for Gibbs measures), `Data`.
"""

from mfjax.energies.base import Energy, Solution, Sum
from mfjax.energies.batches import Batches, GaussianBatches, Sampling, Stream
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
from mfjax.energies.quantization import Quantization
from mfjax.energies.reduced import Reduced, Score
from mfjax.energies.reduced_risk import ReducedRisk
from mfjax.energies.risk import Risk
from mfjax.energies.second_layer import SecondLayer
from mfjax.energies.sobolev import Sobolev
from mfjax.energies.spacings import Spacings

__all__ = [
    "MMD",
    "Batches",
    "Blob",
    "Compressed",
    "Data",
    "DensityEstimate",
    "Dual",
    "Energy",
    "Entropy",
    "Field",
    "GaussianBatches",
    "Interaction",
    "InternalEnergy",
    "PopulationReducedRisk",
    "PorousMedium",
    "Potential",
    "PowerDivergence",
    "Predictor",
    "Quantization",
    "Reduced",
    "ReducedRisk",
    "Risk",
    "Sampling",
    "Score",
    "SecondLayer",
    "Sobolev",
    "Solution",
    "Spacings",
    "Stream",
    "Sum",
    "compress",
]
