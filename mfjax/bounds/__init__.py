"""Bounds as certificates: from declared data to a curve that a run must stay below.

>>> bound = Exponential(2.0, 1.0, name="decay")
>>> bound.row([0.0, 1.0], [2.0, 0.5])
{'margin of decay': 0.32...}
"""

from mfjax.bounds.base import Algebraic as Algebraic
from mfjax.bounds.base import Bound as Bound
from mfjax.bounds.base import Exponential as Exponential
from mfjax.bounds.base import Geometric as Geometric
from mfjax.bounds.base import Integrated as Integrated
from mfjax.bounds.diffusion import diffusion_decay as diffusion_decay
from mfjax.bounds.diffusion import proximal_contraction as proximal_contraction
from mfjax.bounds.diffusion import spectral_gap as spectral_gap
from mfjax.bounds.log_sobolev import entropy_decay as entropy_decay
from mfjax.bounds.log_sobolev import entropy_decay_along as entropy_decay_along
from mfjax.bounds.log_sobolev import log_sobolev as log_sobolev
from mfjax.bounds.reduced_risk import algebraic_decay as algebraic_decay
from mfjax.bounds.stability import semiconvexity as semiconvexity
from mfjax.bounds.stability import stability as stability
