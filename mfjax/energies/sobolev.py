"""Kernel mean discrepancies on a torus: squared distances in negative Sobolev norms."""

from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, ScalarLike

from mfjax._numerics.arrays import count, is_traced, scalar
from mfjax._numerics.sums.waves import grid_waves, half_space
from mfjax.domains import Domain, Torus, require_domain, torus_period
from mfjax.energies.base import Energy, Solution
from mfjax.energies.convolution import convolution
from mfjax.energies.fourier import Series, cell_values
from mfjax.energies.torus_potential import CellPotential, ClosedPotential
from mfjax.energies.torus_target import TorusTarget
from mfjax.kernels import NegativeSobolev
from mfjax.measures import Grid, Particles

NO_SERIES = (
    "on particles there is a closed form in 1-D at an order known in advance only: pass modes=, the number "
    "of Fourier modes per axis"
)


class Sobolev(Energy):
    """Half the squared negative Sobolev distance to a target on a torus.

    E_s(mu) = 1/2 |mu - nu|^2 in dot-H^{-s} of the torus (R / L Z)^d, and V = K_s * (mu - nu):

        E_s = 1/2 L^{-d} sum_{k != 0} |2 pi k / L|^{-2s} |m_k|^2,  m_k = int e^{-2 pi i k . x / L} d(mu - nu).

    Masses do not count, only differences of shape: k = 0 is left out.

    - `target` nu: "uniform" or `None`; a density of one point, which may be signed; a `Grid`, taken as the
      density that its cells interpolate by Fourier modes; `Particles`.
    - `order` s: a leaf, by which the closed form is not differentiated. s = 1 converges exponentially, s > 1
      at polynomial rates (see below).
    - `domain`: `Torus(d, period=L)`.
    - `modes`: on particles keep |k_i| <= modes, (2 modes + 1)^d / 2 direct sums of O(M) each, in energy and
      potential alike. In 1-D K_s loses less than 2 (2 pi)^{-2s} modes^{1-2s} / (2s - 1), times L^{2s-1};
      scales below L / modes are not seen. `None`: nothing is left out, by
      `mf.kernels.NegativeSobolev`, in 1-D at an order known in advance.

    On a `Grid`: all modes of the cells, by FFT, any dimension, order and target; a `Grid` as target has the
    same cells. On particles O(M^2) a step without `modes`. K_s is |x|^{2s - d} about 0, to a smooth
    function (times log|x| where 2s - d is even), so forces are continuous for s > (d + 1)/2 and C^1 for
    s > d/2 + 1; at s = 1, d = 1 they jump where two particles meet, and adaptive steps shrink there.
    The modes of a target that is a density (one FFT) or particles (O(K) direct sums for each) are found again
    at every evaluation on a `Grid`: for long runs against many particles bin them to a `Grid` first.

    Near nu uniform, of density m, the mode k decays at the rate m (2 pi |k| / L)^{2 - 2s}, and data in
    dot-H^r give E = O(t^{-(r+s)/(s-1)}), s > 1; at s = 1 the energy has the rate 2 min nu, in 1-D for any nu.

    **Raises** `ValueError` on particles for s <= d/2, whose self-energy is infinite, and without `modes` for
    d > 1 or a traced order; for measures on other domains.

    Source: arXiv 2603.01977; the period, the multiplier and the factor 1/2 are stated above.

    >>> import mfjax as mf
    >>> lattice = mf.measures.Particles(jnp.array([[0.25], [0.75]]))
    >>> round(float(Sobolev("uniform")(lattice)) * 24 * 4, 5)  # 1 / (24 N^2), the least for N particles
    1.0
    """

    target: TorusTarget
    order: Float[Array, ""]
    domain: Domain
    modes: int | None = eqx.field(static=True)
    kernel: NegativeSobolev | None
    # What particles see of the target by a series: its coefficients at half_space(resolution).
    resolution: int = eqx.field(static=True)
    spectrum: Complex[Array, " n"] | None
    # int int K_s dnu dnu of a target of particles seen by the closed form.
    self_energy: Float[Array, ""] | float

    def __init__(
        self,
        target: Any = "uniform",
        order: ScalarLike = 1.0,
        domain: Domain | None = None,
        modes: int | None = None,
    ):
        self.domain = Torus(1) if domain is None else domain
        require_domain(self.domain)
        if torus_period(self.domain) is None:
            raise ValueError(f"a Sobolev discrepancy lives on a Torus, got {self.domain!r}")
        self.target = TorusTarget(target, self.domain)
        self.order = scalar(order, "order", above=0)
        self.modes = None if modes is None else count(modes, "modes")
        self.kernel, self.resolution, self.spectrum, self.self_energy = None, 0, None, 0.0
        if modes is None and self.domain.dim == 1 and not is_traced(self.order) and float(self.order) > 0.5:
            self.kernel = NegativeSobolev(self.order, self.domain)
        atoms = self.target.atoms
        if self.kernel is not None and atoms is not None:
            self.self_energy = atoms.integrate(convolution(self.kernel, atoms, atoms.points))
        elif self.kernel is not None or modes is not None:
            self.resolution, self.spectrum = self.target.spectrum(self.modes)

    def validate(self, mu, domain=None):
        self.target.check_place(mu, "the measure")
        periods = (self.target.period, self.target.period if domain is None else torus_period(domain))
        same = periods[1] is not None and (is_traced(periods) or float(periods[0]) == float(periods[1]))
        if not same:
            raise ValueError(f"this discrepancy lives on {self.domain!r} and the measure moves on {domain!r}")
        if isinstance(mu, Grid):
            if isinstance(self.target.source, Grid):
                self.target.sampled(mu)
            return
        dim = self.domain.dim
        if not is_traced(self.order) and float(self.order) <= dim / 2:
            raise ValueError(
                f"particles have infinite energy for order <= d/2 = {dim / 2:g}, got {float(self.order):g}: "
                "use a Grid, or a larger order"
            )
        if self.kernel is None and self.modes is None:
            raise ValueError(NO_SERIES)

    def solve(self, mu, carry=None):
        if not isinstance(mu, Grid) and self.kernel is None and self.modes is None:
            raise ValueError(NO_SERIES)
        order, period = self.order.astype(mu.dtype), self.target.period.astype(mu.dtype)
        volume, origin = period**self.domain.dim, jnp.zeros_like(mu.points[0])
        if isinstance(mu, Grid):
            waves, origin, seen = grid_waves(mu.shape), mu.points[0], self.target.seen_on_cells(mu, period)
        else:
            waves = half_space(self.resolution, self.domain.dim)
            seen = self._seen_by_particles(cast(Particles, mu), period)
        symbol = waves.symbol(period, order) / volume
        weighted = symbol.astype(seen.dtype) * seen
        value, series = 0.5 * waves.energy(seen, symbol), Series(waves, weighted, period, origin)
        if isinstance(mu, Grid):
            return Solution(value, CellPotential(series, cell_values(mu, weighted)))
        if self.kernel is None:
            return Solution(value, series)
        # What the series holds is the target alone, with a minus; its half of the energy is there already.
        atoms = self.target.atoms
        at_mu = convolution(self.kernel, mu, mu.points) + 2 * series.at(mu.points)
        if atoms is not None:
            at_mu = at_mu - 2 * convolution(self.kernel, atoms, mu.points)
        value = value + 0.5 * (mu.integrate(at_mu) + jnp.asarray(self.self_energy, mu.dtype))
        return Solution(value, ClosedPotential(self.kernel, cast(Particles, mu), atoms, series))

    def _seen_by_particles(self, mu: Particles, period: Array) -> Complex[Array, " n"]:
        """The coefficients of mu - nu, or with the closed form those of -nu, if nu has any."""
        waves = half_space(self.resolution, self.domain.dim)
        zero = jnp.zeros((len(waves.k),), np.result_type(mu.dtype, np.complex64))
        seen = waves.transform(mu.points / period, mu.weights) if self.kernel is None else zero
        return seen if self.spectrum is None else seen - self.spectrum.astype(zero.dtype)

    def first_variation(self, mu, solution=None):
        solution = self.solve(mu) if solution is None else solution
        return solution.potential.values if isinstance(mu, Grid) else super().first_variation(mu, solution)
