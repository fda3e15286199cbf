"""The limits of the training of two-layer networks: runs near them, bounds on them."""
