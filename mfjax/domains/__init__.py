"""Domains on which measures live: how to sample, measure displacements, move, and cut into cells.

Every domain is written for one point `x` of shape `(ambient,)`; callers batch with `jax.vmap`. Points are
stored in ambient coordinates: unit vectors on a sphere, coordinates in one period on a torus.
"""

from mfjax.domains.base import Cells as Cells
from mfjax.domains.base import Domain as Domain
from mfjax.domains.box import Box as Box
from mfjax.domains.box import Interval as Interval
from mfjax.domains.euclidean import Euclidean as Euclidean
from mfjax.domains.signed import Signed as Signed
from mfjax.domains.sphere import Sphere as Sphere
from mfjax.domains.torus import Torus as Torus
