"""Domains on which measures live: how to sample, measure displacements, move, and cut into cells.

Every domain is written for one point `x` of shape `(ambient,)`; callers batch with `jax.vmap`. Points are
stored in ambient coordinates: unit vectors on a sphere, coordinates in one period on a torus. Intrinsic
coordinates, lengths, walls and closed axes are asked of the domain, never of its class.

- `Euclidean`, `Interval`, `Box`, `Torus`, `Sphere`; `Zonal`, the orbits of a sphere of any dimension about an
  axis; `Signed` copies of any of them for a signed measure.
- `Product` of any of them; of its factors some may be `Frozen`, along which nothing moves, or `Noiseless`.
- To write one: `Domain`, its coordinates `Axis`, the `Cells` of a grid and their `Metric`; `Wrapped`, which
  answers as another domain but for what differs; `require_domain`, `torus_period`.
"""

from mfjax.domains.axis import Axis
from mfjax.domains.base import Domain, require_domain, torus_period
from mfjax.domains.box import Box, Interval
from mfjax.domains.cells import Cells, Metric
from mfjax.domains.euclidean import Euclidean
from mfjax.domains.frozen import Frozen
from mfjax.domains.noiseless import Noiseless
from mfjax.domains.product import Product
from mfjax.domains.signed import Signed
from mfjax.domains.sphere import Sphere
from mfjax.domains.torus import Torus
from mfjax.domains.wrapped import Wrapped
from mfjax.domains.zonal import Zonal

__all__ = [
    "Axis",
    "Box",
    "Cells",
    "Domain",
    "Euclidean",
    "Frozen",
    "Interval",
    "Metric",
    "Noiseless",
    "Product",
    "Signed",
    "Sphere",
    "Torus",
    "Wrapped",
    "Zonal",
    "require_domain",
    "torus_period",
]
