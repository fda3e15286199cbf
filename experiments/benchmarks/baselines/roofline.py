"""What the machine can do: floating-point operations of a matrix product, bytes of a copy and of a triad."""

import numpy as np


class Product:
    """C = A B of n x n matrices: 2 n^3 operations."""

    def __init__(self, n, dtype):
        rng = np.random.default_rng(0)
        self.a, self.b = (rng.random((n, n)).astype(dtype) for _ in range(2))
        self.out = np.empty_like(self.a)
        self.operations = 2 * n**3

    def __call__(self):
        np.matmul(self.a, self.b, out=self.out)


class Copy:
    """b = a: reads and writes, 2 n values (a write that first fetches its line is not counted)."""

    def __init__(self, n, dtype=np.float64):
        self.a, self.b = np.ones(n, dtype), np.zeros(n, dtype)
        self.bytes = 2 * self.a.nbytes

    def __call__(self):
        np.copyto(self.b, self.a)


class Triad:
    """c = a + s b in blocks that stay in the cache, as a compiled loop has it: 3 n values."""

    def __init__(self, n, dtype=np.float64, block=4096):
        self.a, self.b, self.c = (np.full(n, v, dtype) for v in (1, 2, 0))
        self.block, self.work = block, np.empty(block, dtype)
        self.bytes = 3 * self.a.nbytes

    def __call__(self):
        for low in range(0, len(self.a), self.block):
            part = slice(low, low + self.block)
            work = self.work[: len(self.a[part])]
            np.multiply(self.b[part], 3, out=work)
            np.add(self.a[part], work, out=self.c[part])
