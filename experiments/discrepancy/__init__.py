"""Flows of kernel mean discrepancies: the runs and the figures."""
