"""What a measure on a torus is compared with: the uniform measure, a density, a grid, or particles."""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from mfjax._numerics.arrays import as_floats, is_traced, known, shown
from mfjax._numerics.sums.waves import grid_waves, half_space
from mfjax.domains import Domain, torus_period
from mfjax.energies.fourier import cell_transform
from mfjax.measures import Grid, Measure, Particles, require_same_cells

SAMPLES = 256


class TorusTarget(eqx.Module):
    """The target nu on `domain`: `source` is `None` for uniform, a density of one point, or a measure.

    A density counts as it is, without being scaled to a mass; it may change sign.
    """

    source: Measure | Callable | None
    domain: Domain

    def __init__(self, source: Any, domain: Domain):
        if isinstance(source, str) and source == "uniform":
            source = None
        if not (source is None or isinstance(source, Measure) or callable(source)):
            if np.ndim(source) != 2:
                raise ValueError(
                    'target must be "uniform", a density of one point, a measure or points (K, d), got '
                    f"{shown(source)}"
                )
            source = Particles(source)
        self.source, self.domain = source, domain
        if isinstance(source, Measure):
            self.check_place(source, "the target")

    @property
    def period(self) -> Float[Array, ""]:
        """The period of the torus."""
        return known(torus_period(self.domain))

    @property
    def atoms(self) -> Particles | None:
        """The target, if it is particles."""
        return self.source if isinstance(self.source, Particles) else None

    def check_place(self, mu: Measure, name: str) -> None:
        """**Raises** `ValueError` unless `mu` lies on the domain."""
        dim = self.domain.dim
        if mu.points.shape[-1] != dim:
            raise ValueError(f"{name} must have points of dimension {dim}, got {mu.points.shape[-1]}")
        if isinstance(mu, Grid) and not is_traced((mu.spacing, self.period)):
            sides = np.asarray(mu.spacing) * np.asarray(mu.shape)
            if not all(mu.periodic) or not np.allclose(sides, float(self.period), rtol=1e-5):
                raise ValueError(f"{name} lives on another grid than {self.domain!r}: use Grid.uniform")

    def sampled(self, mu: Grid) -> Grid:
        """The target, a density or a grid, on the cells of `mu`."""
        if isinstance(self.source, Grid):
            require_same_cells(self.source, mu, "target")
            return self.source
        density = as_floats(jax.vmap(cast(Callable, self.source))(mu.points), "target density")
        if density.shape != (mu.size,):
            raise ValueError(f"target must return one number per point, got {density.shape[1:]}")
        return mu.with_weights(density.astype(mu.dtype) * mu.volume)

    def seen_on_cells(self, mu: Grid, period: Float[Array, ""]) -> Complex[Array, " n"]:
        """The coefficients of mu - nu at the waves of the cells of `mu`."""
        if self.source is None:
            return cell_transform(mu, mu.weights)
        if self.atoms is not None:
            atoms = grid_waves(mu.shape).transform(
                (self.atoms.points - mu.points[0]) / period, self.atoms.weights
            )
            return cell_transform(mu, mu.weights) - atoms
        return cell_transform(mu, mu.weights - self.sampled(mu).weights.astype(mu.dtype))

    def spectrum(self, modes: int | None) -> tuple[int, Complex[Array, " n"] | None]:
        """(m, coefficients of nu at `half_space(m)`), for particles; m = `modes`, or what the cells carry."""
        source = self.source
        if source is None:
            return modes or 0, None
        if not isinstance(source, Measure):
            source = self.sampled(Grid.uniform(self.domain, SAMPLES if modes is None else max(4 * modes, 16)))
        source = cast(Grid, source)
        resolution = (min(source.shape) - 1) // 2 if modes is None else modes
        waves = half_space(resolution, self.domain.dim)
        coefficients = waves.transform(source.points / self.period.astype(source.dtype), source.weights)
        if isinstance(source, Grid):
            # Modes that the cells do not carry would repeat others.
            carried = np.all(2 * np.abs(waves.k) < np.asarray(source.shape), axis=-1)
            coefficients = jnp.where(carried, coefficients, 0)
        return resolution, coefficients
