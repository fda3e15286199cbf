"""Networks as pairs (rho, H)."""
