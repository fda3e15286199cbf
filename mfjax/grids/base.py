"""How a density on a `Grid` is discretized in space."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import is_traced, known
from mfjax.domains import Domain
from mfjax.energies.base import Energy, Sum
from mfjax.energies.internal import InternalEnergy
from mfjax.grids.diffusion import Part
from mfjax.grids.evaluation import Evaluation
from mfjax.grids.rates import Pairs
from mfjax.measures import Grid, Measure


class Discretization(eqx.Module):
    """The Wasserstein gradient flow of an energy in the masses of cells. A new one is `evaluate`."""

    @abstractmethod
    def evaluate(self, energy: Energy, mu: Grid, carry: Any = None) -> Evaluation:
        """Mass rates of d_t mu = div(mu grad V), V the first variation of `energy`."""

    def validate(self, energy: Energy, mu: Measure, domain: Domain) -> None:
        """**Raises** `ValueError` unless `mu` is a measure on the cells of `domain` that this can move."""
        require_grid(mu, domain)

    def init(self, energy: Energy, mu: Grid) -> Any:
        """The `carry` of the first evaluation."""
        return transport_part(energy).init(mu)

    def diffusion(self, energy: Energy) -> tuple[Part, ...]:
        """The internal energies whose fluxes `linearize` holds; none where implicit steps have no form."""
        return ()

    def linearize(self, energy: Energy, mu: Grid, potential: Float[Array, " K"] | None) -> Pairs:
        """The stiff fluxes, linear in the masses, at the frozen `potential` of an `Evaluation`."""
        raise NotImplementedError(f"{type(self).__name__} has no implicit steps")


def internal_parts(energy: Energy) -> tuple[Part, ...]:
    """The terms (coefficient, internal energy) of `energy`, which diffuse."""
    return tuple((c, term) for c, term in energy.parts() if isinstance(term, InternalEnergy))


def transport_part(energy: Energy) -> Energy:
    """The rest of `energy`, which has a potential and transports; without terms if there is no rest."""
    rest = tuple(part for part in energy.parts() if not isinstance(part[1], InternalEnergy))
    if len(rest) == 1 and rest[0][1] is energy:
        return energy
    return Sum(rest)


def internal_energy(parts: tuple[Part, ...], mu: Grid) -> tuple[Float[Array, ""], Float[Array, " K"]]:
    """The value of the internal energies of `parts`, and their first variation in the cells.

    (value, first variation in the cells) of sum_k c_k F_k over the internal energies of `parts`.
    """
    value, variation = jnp.zeros((), mu.dtype), jnp.zeros((mu.size,), mu.dtype)
    for coefficient, term in parts:
        coefficient = jnp.asarray(coefficient).astype(mu.dtype)
        value = value + coefficient * known(term.solve(mu).value)
        variation = variation + coefficient * term.first_variation(mu)
    return value, variation


def first_variation(energy: Energy, mu: Grid, now: Evaluation) -> Float[Array, " K"]:
    """V in the cells of `mu`, internal energies included, from the evaluation `now` there."""
    variation = internal_energy(internal_parts(energy), mu)[1]
    return variation if now.potential is None else variation + now.potential


def require_grid(mu: Measure, domain: Domain) -> None:
    """Refuse a measure that is not on the cells of `domain`.

    **Raises** `ValueError` unless `mu` is a measure on the cells of `domain`.

    >>> from mfjax.domains import Interval, Torus
    >>> require_grid(Grid.uniform(Torus(1), 8), Torus(1))
    >>> require_grid(Grid.uniform(Torus(1), 8), Interval(0.0, 1.0))
    Traceback (most recent call last):
    ValueError: the measure lives on another grid than ...: make it with Grid.uniform(domain, n)
    """
    if not isinstance(mu, Grid):
        raise ValueError(f"grids discretize a Grid, got {type(mu).__name__}")
    # Axes that number copies of a domain come first, and are none of its own.
    n = mu.shape[max(len(mu.shape) - domain.dim, 0) :]
    if is_traced((mu, domain)):
        cells = domain.cells(n)
    else:
        # Inside jit, too, the cells of a constant domain are constants that can be compared.
        with jax.ensure_compile_time_eval():
            cells = domain.cells(n)
    kind = lambda grid: (grid.shape, grid.periodic, grid.frozen, grid.noiseless, grid.points.shape)
    same = kind(cells) == kind(mu)
    if same and not is_traced((mu, domain)):
        expected, points = np.asarray(cells.points), np.asarray(mu.points)
        rounding = 100 * float(jnp.finfo(mu.dtype).eps) * max(float(np.max(np.abs(expected))), 1e-30)
        # Domains may share the places of their cells, and not the sizes.
        with jax.ensure_compile_time_eval():
            pairs = ((mu.spacing, cells.spacing), (mu.volume, cells.volume))
        same = np.allclose(points, expected, rtol=0, atol=rounding) and all(
            np.allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=0) for a, b in pairs
        )
    if not same:
        raise ValueError(
            f"the measure lives on another grid than {domain!r}: make it with Grid.uniform(domain, n)"
        )
