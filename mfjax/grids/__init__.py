"""Space discretization of Wasserstein flows on a `Grid`: (energy, Grid) to mass rates.

A `Discretization` is what a flow calls; `FiniteVolume` is the default. The terms of an energy are of two
kinds: those with a potential move mass by transport (`transport`), internal energies by diffusion
(`diffusion`, `fitting`), whose linearization (`linear`) is what implicit steppers solve with.

- `FiniteVolume`; `Spectral`, for smooth densities on periodic grids.
- To write one: `Discretization`, `require_grid`; rates of masses `mass_rate`, `transport_rate`,
  `diffusion_rate`, and of values that ride on a velocity, `riding_rate`; at faces (`Faces`) `face_slopes`,
  `face_velocities`, `partial_slopes`; the parts of an energy, `internal_parts`, `transport_part`,
  `internal_energy`, `first_variation`; for implicit steps `linearized` and `ShiftedFluxes`.
"""

from mfjax.grids.base import (
    Discretization,
    first_variation,
    internal_energy,
    internal_parts,
    require_grid,
    transport_part,
)
from mfjax.grids.diffusion import diffusion_rate
from mfjax.grids.faces import Faces, face_slopes
from mfjax.grids.finite_volume import FiniteVolume
from mfjax.grids.linear import ShiftedFluxes
from mfjax.grids.rates import linearized, mass_rate
from mfjax.grids.riding import face_velocities, partial_slopes, riding_rate
from mfjax.grids.spectral import Spectral
from mfjax.grids.transport import transport_rate

__all__ = [
    "Discretization",
    "Faces",
    "FiniteVolume",
    "ShiftedFluxes",
    "Spectral",
    "diffusion_rate",
    "face_slopes",
    "face_velocities",
    "first_variation",
    "internal_energy",
    "internal_parts",
    "linearized",
    "mass_rate",
    "partial_slopes",
    "require_grid",
    "riding_rate",
    "transport_part",
    "transport_rate",
]
