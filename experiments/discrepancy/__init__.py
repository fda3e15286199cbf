"""Flows of kernel mean discrepancies."""
