"""What the experiments share.

`cli` needs no array library, so that wrong options are told at once, and neither does `teachers.series`;
`jax_settings` sets JAX up, `records` and `figures` come after it.
"""
