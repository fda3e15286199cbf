"""Linear maps from the outer weights of particles to the outputs at the data, with or without a matrix."""

from mfjax.operators.arcs import Arcs as Arcs
from mfjax.operators.base import Operator as Operator
from mfjax.operators.combined import Combined as Combined
from mfjax.operators.dense import Dense as Dense
from mfjax.operators.dense import as_operator as as_operator
from mfjax.operators.scaled import Scaled as Scaled
from mfjax.operators.sectors import Sectors as Sectors
from mfjax.operators.tiled import Tiled as Tiled
from mfjax.operators.windows import Windows as Windows
from mfjax.operators.windows import near_circle as near_circle
