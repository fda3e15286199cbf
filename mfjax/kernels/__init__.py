"""Kernels k(x, y) of two points for discrepancies and interactions, written for one pair."""

from mfjax.kernels.arc_cosine import ArcCosine
from mfjax.kernels.arc_sine import ArcSine
from mfjax.kernels.base import Kernel
from mfjax.kernels.radial import Distance, Gaussian, Laplace, Matern, Riesz
from mfjax.kernels.signed import SignedKernel
from mfjax.kernels.smoothed import SmoothedGaussian
from mfjax.kernels.sobolev import NegativeSobolev
from mfjax.kernels.sums import kernel_slopes, kernel_sums

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
    "kernel_slopes",
    "kernel_sums",
]
