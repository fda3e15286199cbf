"""Outer solves against the accuracy of a gradient flow, scheme by scheme."""
