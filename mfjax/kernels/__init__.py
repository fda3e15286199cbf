"""Kernels k(x, y) of two points for discrepancies and interactions, written for one pair.

- Smooth: `Gaussian`, `Matern`; with a kink: `Laplace`, `Distance` (that of the energy distance), `Riesz`,
  `NegativeSobolev`.
- Of layers of neurons: `ArcCosine` (ReLU), `ArcSine` (erf), `SmoothedGaussian`.
- For signed measures: `SignedKernel`; of a sphere, between its zones: `ZonalKernel`.
- To write one: `Kernel`; `kernel_sums` and `kernel_slopes` add it up.
"""

from mfjax.kernels.arc_cosine import ArcCosine
from mfjax.kernels.arc_sine import ArcSine
from mfjax.kernels.base import Kernel
from mfjax.kernels.radial import Distance, Gaussian, Laplace, Matern, Riesz
from mfjax.kernels.signed import SignedKernel
from mfjax.kernels.smoothed import SmoothedGaussian
from mfjax.kernels.sobolev import NegativeSobolev
from mfjax.kernels.sums import kernel_slopes, kernel_sums
from mfjax.kernels.zonal import ZonalKernel

__all__ = [
    "ArcCosine",
    "ArcSine",
    "Distance",
    "Gaussian",
    "Kernel",
    "Laplace",
    "Matern",
    "NegativeSobolev",
    "Riesz",
    "SignedKernel",
    "SmoothedGaussian",
    "ZonalKernel",
    "kernel_slopes",
    "kernel_sums",
]
