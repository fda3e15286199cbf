"""Schedules of the regularization that are learned by gradient through whole runs."""
