"""Gibbs measures: the minimizer of an energy plus entropy, without running a flow."""

from mfjax.theory.gibbs_measure.solve import GibbsMeasure, gibbs

__all__ = [
    "GibbsMeasure",
    "gibbs",
]
