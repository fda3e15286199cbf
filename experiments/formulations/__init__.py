"""Runs and figures of networks as pairs (rho, H)."""
