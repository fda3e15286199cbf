"""Theory beside the runs: what a run must do, may not pass, and tends to, without running a flow.

`bounds` (curves above a run), `certificates` (balance, what the features cannot see), `gibbs` (the stationary
measure), `linearize` (predicted rates), `minimize_reduced_risk` (the least reduced risk);
`fit_rate` and `optimal_coupling` measure on a run what theory predicts.
`GibbsMeasure`, `Spectrum`, `Minimum` and `Rate` are what they return.
"""

from mfjax.observables.coupling import optimal_coupling
from mfjax.theory import bounds, certificates
from mfjax.theory.gibbs_measure import GibbsMeasure, gibbs
from mfjax.theory.minimum import Minimum, minimize_reduced_risk
from mfjax.theory.rates import Rate, fit_rate
from mfjax.theory.spectrum import Spectrum, linearize

__all__ = [
    "GibbsMeasure",
    "Minimum",
    "Rate",
    "Spectrum",
    "bounds",
    "certificates",
    "fit_rate",
    "gibbs",
    "linearize",
    "minimize_reduced_risk",
    "optimal_coupling",
]
