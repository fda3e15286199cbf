"""First variations of discrepancies on a torus, as functions of one point."""

import equinox as eqx
from jaxtyping import Array, Float

from mfjax.energies.convolution import convolution_at
from mfjax.energies.fourier import Series
from mfjax.kernels import Sobolev as SobolevKernel
from mfjax.measures import Particles


class CellPotential(eqx.Module):
    """A Fourier series of the modes of a grid, and its `values` (K,) in the cells."""

    series: Series
    values: Float[Array, " K"]

    def __call__(self, point):
        return self.series(point)


class ClosedPotential(eqx.Module):
    """x -> int K(x, y) d(mu - atoms)(y) + series(x)."""

    kernel: SobolevKernel
    mu: Particles
    atoms: Particles | None
    series: Series

    def __call__(self, point):
        value = convolution_at(self.kernel, self.mu, point) + self.series(point)
        return value if self.atoms is None else value - convolution_at(self.kernel, self.atoms, point)
