"""Training dynamics on real data: handwritten digits, or a table of the user."""
