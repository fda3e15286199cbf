"""Schedules of the regularisation that are learned by gradient through whole runs."""
