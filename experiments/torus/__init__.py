"""Radial basis functions on the 2-torus: the runs and the figures."""
