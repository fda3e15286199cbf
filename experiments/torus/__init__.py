"""Radial basis functions on the 2-torus."""
