"""Kernels k(x, y) of two points for discrepancies and interactions, written for one pair."""

from mfjax.kernels.arc_cosine import ArcCosine as ArcCosine
from mfjax.kernels.arc_sine import ArcSine as ArcSine
from mfjax.kernels.base import Kernel as Kernel
from mfjax.kernels.radial import Energy as Energy
from mfjax.kernels.radial import Gaussian as Gaussian
from mfjax.kernels.radial import Laplace as Laplace
from mfjax.kernels.radial import Matern as Matern
from mfjax.kernels.radial import Riesz as Riesz
from mfjax.kernels.signed import Signed as Signed
from mfjax.kernels.smoothed import SmoothedGaussian as SmoothedGaussian
from mfjax.kernels.sobolev import Sobolev as Sobolev
from mfjax.kernels.sums import kernel_slopes as kernel_slopes
from mfjax.kernels.sums import kernel_sums as kernel_sums
