"""First variations of discrepancies on a torus, as functions of one point."""

from jaxtyping import Array, Float

from mfjax.energies.convolution import convolution, convolution_at, convolution_slopes
from mfjax.energies.field import Field
from mfjax.energies.fourier import Series
from mfjax.kernels import NegativeSobolev
from mfjax.measures import Particles


class CellPotential(Field):
    """A Fourier series of the modes of a grid, and its `values` (K,) in the cells."""

    series: Series
    values: Float[Array, " K"]

    def __call__(self, point):
        return self.series(point)

    def at(self, points):
        return self.series.at(points)

    def slopes(self, points):
        return self.series.slopes(points)


class ClosedPotential(Field):
    """x -> int K(x, y) d(mu - atoms)(y) + series(x)."""

    kernel: NegativeSobolev
    mu: Particles
    atoms: Particles | None
    series: Series

    def __call__(self, point):
        value = convolution_at(self.kernel, self.mu, point) + self.series(point)
        return value if self.atoms is None else value - convolution_at(self.kernel, self.atoms, point)

    def at(self, points):
        value = convolution(self.kernel, self.mu, points) + self.series.at(points)
        return value if self.atoms is None else value - convolution(self.kernel, self.atoms, points)

    def slopes(self, points):
        slope = convolution_slopes(self.kernel, self.mu, points) + self.series.slopes(points)
        return slope if self.atoms is None else slope - convolution_slopes(self.kernel, self.atoms, points)
