"""Neurons as measures on the sphere, whose masses move and grow."""
