"""What runs and sweeps leave behind, in memory and in files: private.

`run` and `table` are the classes that users hold; the others give names, units and formats to their arrays.
"""
