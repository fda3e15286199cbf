"""Feature maps phi(omega, x), written for one particle `omega` and one input `x`.

- `ReLU`, `Ridge` (any activation), `RBF`, `Function` (any function); `CircleModes` of circle kernels,
  `ZonalModes` of those of spheres.
- Made of others: `Weighted` (the outer weight moves too), `SignedFeatures`, `Symmetrized` (under a group),
  `Interpolated` (compressed data).
- To write one: `FeatureMap`, its `Operator` on data, `Dense` unless a faster one is known; `check_features`,
  `require_features`.
"""

from mfjax._numerics.operators import Dense, Operator
from mfjax.features.base import FeatureMap, check_features, require_features
from mfjax.features.circle_modes import CircleModes
from mfjax.features.function import Function
from mfjax.features.interpolated import Interpolated
from mfjax.features.rbf import RBF
from mfjax.features.relu import ReLU
from mfjax.features.ridge import Ridge
from mfjax.features.symmetrized import Symmetrized
from mfjax.features.weighted import SignedFeatures, Weighted
from mfjax.features.zonal_modes import ZonalModes

__all__ = [
    "RBF",
    "CircleModes",
    "Dense",
    "FeatureMap",
    "Function",
    "Interpolated",
    "Operator",
    "ReLU",
    "Ridge",
    "SignedFeatures",
    "Symmetrized",
    "Weighted",
    "ZonalModes",
    "check_features",
    "require_features",
]
