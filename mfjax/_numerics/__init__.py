"""Numerical helpers: arrays, linear algebra, sums over pairs and waves, operators. Private."""
