"""What the machine reaches in the operations that kernels are made of."""

from benchmarks.baselines.roofline import Copy, Product, Triad
from benchmarks.harness import Contender, Results, race


def run(quick=False):
    """GFLOP/s of matrix products, GB/s of a copy and of a triad far larger than the cache."""
    results = Results()
    n, values = (256, 1_000_000) if quick else (2048, 20_000_000)
    products = {f"product {t}": Product(n, t) for t in ("float32", "float64")}
    moves = {"copy": Copy(values), "triad": Triad(values)}
    times = race([Contender(name, work) for name, work in (products | moves).items()], 5 if quick else 9)
    for name, work in products.items():
        results.add("roofline", name, times[name], gflops=work.operations / times[name].least / 1e9)
    for name, work in moves.items():
        results.add("roofline", name, times[name], gbytes_per_s=work.bytes / times[name].least / 1e9)
    return results
