"""The abstract operator."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, Int

from mfjax._numerics.arrays import inner

# Bytes beyond which a matrix of features is not stored.
LARGEST = 2**29


class Operator(eqx.Module):
    """The features of all particles at all data as one linear map.

    A (N, M), A_ji = sqrt(p_j) phi(omega_i, x_j), for data masses p_j: known by its products.

    Solvers ask for no more than this, so that a feature map may replace the matrix by something faster.
    Products are differentiable in everything the operator was made from, and take a vector or a block of c
    columns, one for each output of a network. Where features are vectors (c,) themselves, A is (N, M, c),
    takes masses (M,) to outputs (N, c), and its transposed a block (N, c) to scores (M,).
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(N, M)."""

    @property
    def quick_gram(self) -> bool:
        """Whether A^T A costs less than a product of matrices."""
        return False

    @property
    def fits(self) -> bool:
        """Whether the matrix may be stored."""
        return True

    @property
    def variables(self) -> int:
        """How many numbers a feature depends on, of a datum or of a particle: no few span those of many."""
        return 1

    @property
    def span(self) -> int:
        """How many functions of the data nearly span the columns."""
        return 128

    @abstractmethod
    def output(self, v: Float[Array, "M *c"]) -> Float[Array, "N *c"]:
        """A v."""

    @abstractmethod
    def scores(self, alpha: Float[Array, "N *c"]) -> Float[Array, "M *c"]:
        """A^T alpha."""

    @abstractmethod
    def rows(self, index: Int[Array, " J"]) -> Float[Array, "J M"]:
        """Some rows of A: all particles at a few data."""

    @abstractmethod
    def columns(self, index: Int[Array, " C"]) -> Float[Array, "N C"]:
        """Some columns of A: a few particles at all data."""

    def gram(self) -> Float[Array, "M M"]:
        """A^T A; not to be differentiated, and with the absolute error of a product of matrices."""
        matrix = self.matrix()
        return inner(matrix.T, matrix)

    @abstractmethod
    def matrix(self) -> Float[Array, "N M"]:
        """A itself, for methods that factorize it."""
