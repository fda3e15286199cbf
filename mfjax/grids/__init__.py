"""Space discretisation of Wasserstein flows on a `Grid`: (energy, Grid) to mass rates.

`evaluate` is what a flow calls. The terms of an energy are of two kinds: those with a potential move
mass by transport (`transport`), internal energies by diffusion (`diffusion`), whose linearisation
(`linear`) is what implicit steppers solve with.
"""

from mfjax.grids.diffusion import diffusion_rate as diffusion_rate
from mfjax.grids.linear import ShiftedStiffness as ShiftedStiffness
from mfjax.grids.transport import transport_rate as transport_rate
from mfjax.grids.wasserstein import evaluate as evaluate
from mfjax.grids.wasserstein import internal_parts as internal_parts
from mfjax.grids.wasserstein import transport_part as transport_part
from mfjax.grids.wasserstein import validate as validate
