"""Neurons as measures on the sphere: the runs and figures of `fisher_rao.py`."""
