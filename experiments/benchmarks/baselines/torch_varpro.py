"""Baseline: variable projection and two-timescale learning in PyTorch: LU of the normal equations, autograd.

The bare step, without data loader, logging or copies. The outer weights are constants of the gradient, as the
envelope theorem allows: derivatives through the solve would only make it slower.
"""

try:
    import torch
except ImportError:
    torch = None

ABSENT = "torch is not installed: pip install mfjax[bench]"


def relu(points, x):
    """max(omega . x, 0), (N, M)."""
    return torch.relu(x @ points.T)


def laplace(period, scale, amplitude):
    """amplitude exp(-|[omega - x]| / scale) on a torus of this period, (N, M)."""

    def features(points, x):
        gap = points[None] - x[:, None]
        gap = gap - period * torch.round(gap / period)
        return amplitude * torch.exp(-gap.norm(dim=-1) / scale)

    return features


def on_circle(points, velocity, step):
    """A tangent step, then normalized."""
    velocity = velocity - (velocity * points).sum(1, keepdim=True) * points
    return torch.nn.functional.normalize(points + step * velocity, dim=1)


def on_torus(period):
    """A step, then wrapped."""
    return lambda points, velocity, step: torch.remainder(points + step * velocity, period)


class VarPro:
    """One step of variable projection; arrays are NumPy's, their dtype is that of the computation."""

    def __init__(self, features, move, x, y, lam, center=1.0, step=2.0**-10):
        self.features, self.move = features, move
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.lam, self.center, self.step = lam, center, step

    def risk(self, matrix, u):
        """The risk over lam, at outer weights u."""
        error = matrix @ u / len(u) - self.y
        return (0.5 / self.lam) * (error**2).mean() + 0.5 * ((u - self.center) ** 2).mean()

    def outer_weights(self, matrix):
        """The minimizer of the risk in u by LU."""
        n, m = matrix.shape
        gram = matrix.T @ matrix / (n * m) + self.lam * torch.eye(m, dtype=matrix.dtype)
        return torch.linalg.solve(gram, matrix.T @ self.y / n + self.lam * self.center)

    def __call__(self, points):
        """(points after one step, reduced risk before it)."""
        points = points.detach().requires_grad_(True)
        matrix = self.features(points, self.x)
        with torch.no_grad():
            u = self.outer_weights(matrix)
        risk = self.risk(matrix, u)
        (gradient,) = torch.autograd.grad(risk, points)
        with torch.no_grad():
            return self.move(points, -len(points) * gradient, self.step), risk.detach()

    def run(self, points, steps):
        """The points after `steps` steps."""
        for _ in range(steps):
            points, _ = self(points)
        return points


class TwoTimescale(VarPro):
    """Both move from the old state; u by step * rate * M times the slope of the risk over lam."""

    def __init__(self, *args, rate, **kwargs):
        super().__init__(*args, **kwargs)
        self.rate = rate

    def __call__(self, state):
        """((points, u) after one step, risk over lam before it)."""
        points, u = (value.detach().requires_grad_(True) for value in state)
        risk = self.risk(self.features(points, self.x), u)
        in_points, in_u = torch.autograd.grad(risk, (points, u))
        with torch.no_grad():
            moved = self.move(points, -len(u) * in_points, self.step)
            return (moved, u - self.step * self.rate * len(u) * in_u), risk.detach()


def energy_distance(x, y):
    """2 E|x - y| - E|x - x'| - E|y - y'| of points (M, d), (K, d), by three tensors of differences."""
    mean = lambda a, b: (a[:, None] - b[None]).norm(dim=-1).mean()
    return (2 * mean(x, y) - mean(x, x) - mean(y, y)).item()
