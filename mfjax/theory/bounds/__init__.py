"""Bounds as certificates: from declared data to a curve that a run must stay below.

- Decay: `algebraic_decay` (reduced risk), `convex_decay` (any convex energy), `tangent_decay` (risk of a
  network by its tangent kernel), `diffusion_decay` (ultra-fast diffusion), `entropy_decay` and
  `entropy_decay_along` (Langevin), `proximal_contraction` (minimizing movements).
- How far two runs part: `stability`. Entropy below distance and information: `hwi`.
- Constants of theory: `log_sobolev`, `semiconvexity`, `spectral_gap`; `contraction_rate` of copies under one
  noise, and `contraction_threshold`, a `Threshold` of noise from which on they draw together.
- Shapes of curves: `Exponential`, `Algebraic`, `Geometric`, `Integrated`, `Recorded`; to write one, `Bound`.

>>> bound = Exponential(2.0, 1.0, name="decay")
>>> bound.row([0.0, 1.0], [2.0, 0.5])
{'margin of decay': 0.32...}
"""

from mfjax.theory.bounds.base import Algebraic, Bound, Exponential, Geometric, Integrated, Recorded
from mfjax.theory.bounds.contraction import semiconvexity, stability
from mfjax.theory.bounds.convex import convex_decay, tangent_decay
from mfjax.theory.bounds.diffusion import diffusion_decay, proximal_contraction, spectral_gap
from mfjax.theory.bounds.entropy import entropy_decay, entropy_decay_along, log_sobolev
from mfjax.theory.bounds.reduced_risk import algebraic_decay
from mfjax.theory.bounds.synchronous import Threshold, contraction_rate, contraction_threshold
from mfjax.theory.bounds.transport import hwi

__all__ = [
    "Algebraic",
    "Bound",
    "Exponential",
    "Geometric",
    "Integrated",
    "Recorded",
    "Threshold",
    "algebraic_decay",
    "contraction_rate",
    "contraction_threshold",
    "convex_decay",
    "diffusion_decay",
    "entropy_decay",
    "entropy_decay_along",
    "hwi",
    "log_sobolev",
    "proximal_contraction",
    "semiconvexity",
    "spectral_gap",
    "stability",
    "tangent_decay",
]
