"""What runs a simulation: one step, the loop over time, the host around it, and the cells of a sweep.

Private: `mf.simulate` and `mf.sweep` are the way in.
"""
