"""Baseline: ultra-fast diffusion on a circle by ODEPACK's LSODA with a banded Jacobian, in NumPy.

d_t m_i is the sum over the faces of cell i of g_f (p_j - p_i), with g_f = (nu_i + nu_j) / (2 spacing^2) and
p = -scale order / (order - 1) (nu / m)^(order - 1) for target masses nu: conservative finite volumes on equal
cells. The unknowns are ordered 0, n - 1, 1, n - 2, ..., in which the periodic stencil has two diagonals on
either side.
"""

import numpy as np
import scipy.integrate


def folded(n):
    """The cells in the order 0, n - 1, 1, n - 2, ..."""
    order = np.empty(n, int)
    order[::2] = np.arange((n + 1) // 2)
    order[1::2] = n - 1 - np.arange(n // 2)
    return order


class Diffusion:
    """The semi-discrete equation for target masses (n,) on cells of length `spacing`, in float64."""

    def __init__(self, target, spacing, order=2.0, scale=0.5):
        target = np.asarray(target, np.float64)
        self.n, self.power = len(target), order - 1
        self.conductance = 0.5 * (target + np.roll(target, -1)) / spacing**2
        # The pressure is self.pressure * m^-power, its derivative self.slope * m^-(power + 1).
        self.pressure = -scale * order / self.power * target**self.power
        self.slope = scale * order * target**self.power
        self.permutation = folded(self.n)
        self.place = np.argsort(self.permutation)
        cell = np.arange(self.n)
        here, right, left = (self.place[(cell + shift) % self.n] for shift in (0, 1, -1))
        # Entry (row, column) of the matrix lies at (row - column + 2, column) of the bands.
        self.entries = [(row - here + 2, here) for row in (here, left, right)]

    def rate(self, masses):
        """The mass rates (n,) of cells in their natural order."""
        pressure = self.pressure / (masses if self.power == 1 else masses**self.power)
        flux = np.empty(self.n)
        np.subtract(pressure[1:], pressure[:-1], out=flux[:-1])
        flux[-1] = pressure[0] - pressure[-1]
        flux *= self.conductance
        out = flux.copy()
        out[1:] -= flux[:-1]
        out[0] -= flux[-1]
        return out

    def folded_rate(self, masses, time=0.0):
        """The rates in the order of the bands."""
        return self.rate(masses[self.place])[self.permutation]

    def bands(self, masses, time=0.0):
        """The Jacobian of `folded_rate` by diagonals, (5, n)."""
        natural = masses[self.place]
        slope = self.slope / (natural**2 if self.power == 1 else natural ** (self.power + 1))
        ahead, behind = self.conductance, np.roll(self.conductance, 1)
        jacobian = np.zeros((5, self.n))
        for entry, value in zip(self.entries, (-(ahead + behind), behind, ahead), strict=True):
            jacobian[entry] = value * slope
        return jacobian

    def solve(self, start, times, rtol, atol):
        """(masses at `times` (S, n), statistics); `atol` is absolute, in masses. Raises if LSODA fails."""
        masses, info = scipy.integrate.odeint(
            self.folded_rate,
            np.asarray(start, np.float64)[self.permutation],
            np.concatenate([[0.0], times]),
            Dfun=self.bands,
            ml=2,
            mu=2,
            rtol=rtol,
            atol=atol,
            mxstep=1_000_000,
            full_output=True,
        )
        if info["message"] != "Integration successful.":
            raise RuntimeError(f"LSODA stopped: {info['message']}")
        counts = {
            "steps": int(info["nst"][-1]),
            "rates": int(info["nfe"][-1]),
            "jacobians": int(info["nje"][-1]),
        }
        return masses[1:, self.place], counts
