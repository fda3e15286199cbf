"""Observables: what a run records of its measure. Each is called as `obs(mu, flow)`."""

from mfjax.observables.base import Observable as Observable
from mfjax.observables.compression import CompressionError as CompressionError
from mfjax.observables.coupling import optimal_coupling as optimal_coupling
from mfjax.observables.divergences import KL as KL
from mfjax.observables.divergences import ChiSquare as ChiSquare
from mfjax.observables.divergences import MaxRatio as MaxRatio
from mfjax.observables.energy_distance import EnergyDistance as EnergyDistance
from mfjax.observables.heights import HeightDistance as HeightDistance
from mfjax.observables.information import FisherInformation as FisherInformation
from mfjax.observables.information import FreeEnergy as FreeEnergy
from mfjax.observables.kernel_density import KernelDensity as KernelDensity
from mfjax.observables.moments import FourierModes as FourierModes
from mfjax.observables.moments import Moments as Moments
from mfjax.observables.network import KernelSpectrum as KernelSpectrum
from mfjax.observables.network import Prediction as Prediction
from mfjax.observables.network import TestRisk as TestRisk
from mfjax.observables.rates import Rate as Rate
from mfjax.observables.rates import fit_rate as fit_rate
from mfjax.observables.sliced_energy import SlicedEnergyDistance as SlicedEnergyDistance
from mfjax.observables.sobolev import NegativeSobolev as NegativeSobolev
from mfjax.observables.wasserstein import Wasserstein1D as Wasserstein1D
