"""Finite volumes for a flow on a grid (placeholder until the next commit)."""
