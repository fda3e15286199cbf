"""The benchmark suite: baselines, cases, the harness that times them."""
