"""Space discretisation of Wasserstein flows on a `Grid`: (energy, Grid) to mass rates.

A `Discretisation` is what a flow calls; `FiniteVolume` is the default. The terms of an energy are of two
kinds: those with a potential move mass by transport (`transport`), internal energies by diffusion
(`diffusion`, `fitting`), whose linearisation (`linear`) is what implicit steppers solve with.
"""

from mfjax.grids.base import Discretisation as Discretisation
from mfjax.grids.base import first_variation as first_variation
from mfjax.grids.base import internal_energy as internal_energy
from mfjax.grids.base import internal_parts as internal_parts
from mfjax.grids.base import transport_part as transport_part
from mfjax.grids.base import validate as validate
from mfjax.grids.diffusion import diffusion_rate as diffusion_rate
from mfjax.grids.faces import slopes as slopes
from mfjax.grids.finite_volume import FiniteVolume as FiniteVolume
from mfjax.grids.linear import ShiftedFluxes as ShiftedFluxes
from mfjax.grids.rates import linearised as linearised
from mfjax.grids.rates import mass_rate as mass_rate
from mfjax.grids.riding import partial_slopes as partial_slopes
from mfjax.grids.riding import riding_rate as riding_rate
from mfjax.grids.riding import velocity as velocity
from mfjax.grids.spectral import Spectral as Spectral
from mfjax.grids.transport import transport_rate as transport_rate
