"""Sums over pairs of points, or of points and waves, without the matrix of all pairs."""
