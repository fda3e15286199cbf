"""Other programs for the same computations, written plainly and without mfjax."""
