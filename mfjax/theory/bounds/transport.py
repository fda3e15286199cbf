"""Entropy below transport distance and Fisher information: the HWI inequality."""

from typing import Any

import numpy as np
from jaxtyping import ScalarLike

from mfjax._numerics.arrays import as_floats, is_traced, safe_sqrt, scalar
from mfjax.theory.bounds.base import Recorded


def hwi(times: Any, distances: Any, information: Any, *, convexity: ScalarLike) -> Recorded:
    """The bound of the relative entropy by distance and Fisher information along a run.

    KL(m | m*) <= W_2(m, m*) (I(m | m*)^{1/2} - K W_2(m, m*) / 2) at every saved time.

    - `times`, `distances`, `information` (S,): W_2 and I along the run, as
      `observables.WassersteinDistance` of order 2 and `observables.FisherInformation` record them.
    - `convexity` K, of any sign: a lower bound of the Hessian of -log m*, on flat space or a convex box
      with no-flux walls; of curvature and Hessian together elsewhere (K = d - 1 for the uniform law of S^d).

    Equality holds for translates of a Gaussian. On cells all three are met to second order in their size,
    except distances below it: in one dimension take `Wasserstein1D` with `spread`. For K > 0 the
    log-Sobolev inequality KL <= I / (2 K) follows, whatever the distance.

    **Raises** `ValueError` for arrays of other shapes, or negative ones.

    Source: slides, "Convergence, step 2" (F. Otto, C. Villani, J. Funct. Anal. 173 (2000) 361-400).

    >>> bound = hwi([0.0, 1.0], [2.0, 1.0], [4.0, 1.0], convexity=1.0)
    >>> bound.values.tolist()
    [2.0, 0.5]
    """
    w, i = as_floats(distances, "distances"), as_floats(information, "information")
    if w.shape != i.shape:
        raise ValueError(f"distances and information must be (S,) alike, got {w.shape} and {i.shape}")
    for values, name in ((w, "distances"), (i, "information")):
        if not is_traced(values) and np.any(np.asarray(values) < 0):
            raise ValueError(f"{name} must not be negative, got {float(np.nanmin(np.asarray(values))):g}")
    return Recorded(times, w * (safe_sqrt(i) - 0.5 * scalar(convexity, "convexity") * w), "HWI")
