"""Feature maps phi(omega, x), written for one particle `omega` and one input `x`."""

from mfjax.features.base import FeatureMap as FeatureMap
from mfjax.features.base import check_features as check_features
from mfjax.features.base import require_features as require_features
from mfjax.features.circle_modes import CircleModes as CircleModes
from mfjax.features.function import Function as Function
from mfjax.features.interpolated import Interpolated as Interpolated
from mfjax.features.rbf import RBF as RBF
from mfjax.features.relu import ReLU as ReLU
from mfjax.features.ridge import Ridge as Ridge
from mfjax.features.weighted import Signed as Signed
from mfjax.features.weighted import Weighted as Weighted
