"""The abstract kernel."""

from abc import abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from mfjax._numerics.arrays import kind
from mfjax.domains import Domain


def require_kernel(kernel: Any) -> None:
    """**Raises** `ValueError` unless `kernel` is a function of two points."""
    if isinstance(kernel, type) or not callable(kernel):
        raise ValueError(f"kernel must be a Kernel or callable on two points, got {kind(kernel)}")


class Kernel(eqx.Module):
    """A symmetric function of two points, conditionally positive definite.

    Distances are chordal: between `domain.embed` of the points (the wrapped distance of a torus is
    not negative definite).
    """

    # Whether discrepancies are squares between measures of one mass alone.
    conditional: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """k(x, y)."""

    def sums(
        self, points: Float[Array, "M d"], sources: Float[Array, "K d"], weights: Float[Array, " K"]
    ) -> Float[Array, " M"] | None:
        """sum_j weights_j k(points_i, sources_j) without going through all pairs; `None` if there is no way.

        To rounding, or to the accuracy that the kernel states, with the derivatives along the domain of the
        dense sum away from coincident points, and no force between coincident ones. `mf.kernels.kernel_sums`
        asks for it where it pays.
        """
        return None

    def validate(self, domain: Domain) -> None:
        """**Raises** `ValueError` if this is no kernel on `domain`, where points are to move.

        Unless overridden it is one of flat space: of coordinates, which jump where a torus is closed.
        """
        self.check_place(None, domain)

    def mass(self, points: Any, weights: Any) -> Any:
        """What two measures must share where the kernel is only conditionally positive definite."""
        return weights.sum()

    def check_place(self, own: Domain | None, domain: Domain) -> None:
        """**Raises** `ValueError` unless distances taken on `own` are those of `domain`.

        `None` is flat space. On a flat domain every kernel is a function, a periodic one too; elsewhere a
        foreign distance jumps where points are identified, and forces across that seam are wrong.
        """
        if not (domain.flat or (own is not None and own.agrees(domain))):
            place = "flat space" if own is None else repr(own)
            remedy = "pass domain= to the kernel"
            if not any(field.name == "domain" for field in fields(self)):
                remedy = "a kernel that is one of that domain overrides validate"
            raise ValueError(
                f"kernels.{type(self).__name__} takes distances in {place} and the measure moves on "
                f"{domain!r}: {remedy}"
            )
