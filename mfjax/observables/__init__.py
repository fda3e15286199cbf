"""Observables: what a run records of its measure. Each is called as `obs(mu, flow)`.

- Distances to a target: `EnergyDistance`, `SlicedEnergyDistance`, `WassersteinDistance` (in one dimension
  `Wasserstein1D`), `SinkhornDivergence`, `SobolevDistance`, `SobolevNorm` of any order; of networks with
  heights, `HeightDistance`; their `ClosureDefect` and `HeightMoments`.
- Divergences on a grid: `KL`, `ChiSquare`, `MaxRatio`, `MaxLogRatio`, `FisherInformation`; `FreeEnergy`,
  also of particles.
- Of the measure: `Moments`, `Histogram`, `FourierModes`, `KernelDensity`, `KernelSpectrum`.
- Of the network: `Prediction`, `HeldOutRisk`, `Accuracy`, `CompressionError`, `PathNorm`, `TangentKernel`; of
  its dual variable, `DualNorm`, `SourceNorm`.
- Of averages along a run: `AtAverage` of any of them.
- To write one: `Observable`, `Divergence` of densities, or any function of a measure and a flow.
"""

from mfjax.observables.average import AtAverage
from mfjax.observables.base import Observable
from mfjax.observables.compression import CompressionError
from mfjax.observables.divergences import KL, ChiSquare, Divergence, MaxLogRatio, MaxRatio
from mfjax.observables.dual import DualNorm, SourceNorm
from mfjax.observables.energy_distance import EnergyDistance
from mfjax.observables.heights import HeightDistance
from mfjax.observables.histogram import Histogram
from mfjax.observables.information import FisherInformation, FreeEnergy
from mfjax.observables.kernel_density import KernelDensity
from mfjax.observables.moments import FourierModes, Moments
from mfjax.observables.network import Accuracy, HeldOutRisk, KernelSpectrum, Prediction
from mfjax.observables.path_norm import PathNorm
from mfjax.observables.sheets import ClosureDefect, HeightMoments
from mfjax.observables.sinkhorn import SinkhornDivergence
from mfjax.observables.sliced_energy import SlicedEnergyDistance
from mfjax.observables.sobolev import SobolevDistance
from mfjax.observables.sobolev_norm import SobolevNorm
from mfjax.observables.tangent_kernel import TangentKernel
from mfjax.observables.transport import WassersteinDistance
from mfjax.observables.wasserstein import Wasserstein1D

__all__ = [
    "KL",
    "Accuracy",
    "AtAverage",
    "ChiSquare",
    "ClosureDefect",
    "CompressionError",
    "Divergence",
    "DualNorm",
    "EnergyDistance",
    "FisherInformation",
    "FourierModes",
    "FreeEnergy",
    "HeightDistance",
    "HeightMoments",
    "HeldOutRisk",
    "Histogram",
    "KernelDensity",
    "KernelSpectrum",
    "MaxLogRatio",
    "MaxRatio",
    "Moments",
    "Observable",
    "PathNorm",
    "Prediction",
    "SinkhornDivergence",
    "SlicedEnergyDistance",
    "SobolevDistance",
    "SobolevNorm",
    "SourceNorm",
    "TangentKernel",
    "Wasserstein1D",
    "WassersteinDistance",
]
