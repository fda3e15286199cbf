"""Linear maps from the outer weights of particles to the outputs at the data, with or without a matrix."""

from mfjax._numerics.operators.arcs import Arcs
from mfjax._numerics.operators.base import Operator
from mfjax._numerics.operators.combined import Combined
from mfjax._numerics.operators.dense import Dense, as_operator
from mfjax._numerics.operators.scaled import Scaled
from mfjax._numerics.operators.sectors import Sectors
from mfjax._numerics.operators.tiled import Tiled
from mfjax._numerics.operators.windows import Windows, near_circle

__all__ = [
    "Arcs",
    "Combined",
    "Dense",
    "Operator",
    "Scaled",
    "Sectors",
    "Tiled",
    "Windows",
    "as_operator",
    "near_circle",
]
