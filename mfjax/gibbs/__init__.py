"""Gibbs measures: the minimiser of an energy plus entropy, without running a flow."""

from mfjax.gibbs.solve import GibbsMeasure as GibbsMeasure
from mfjax.gibbs.solve import gibbs as gibbs
