"""What the experiments share.

`options`, `directory`, `program` and `series` need the standard library only, so that wrong options are told
at once; `runtime` sets JAX up, `records`, `laboratory` and `figures` use it.
"""
