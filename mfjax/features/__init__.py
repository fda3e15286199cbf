"""Feature maps phi(omega, x), written for one particle `omega` and one input `x`."""

from mfjax._numerics.operators import Dense, Operator
from mfjax.features.base import FeatureMap, check_features, require_features
from mfjax.features.circle_modes import CircleModes
from mfjax.features.function import Function
from mfjax.features.interpolated import Interpolated
from mfjax.features.rbf import RBF
from mfjax.features.relu import ReLU
from mfjax.features.ridge import Ridge
from mfjax.features.weighted import SignedFeatures, Weighted

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
    "Weighted",
    "check_features",
    "require_features",
]
