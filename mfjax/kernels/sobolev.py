"""The kernel of the norm of dot-H^{-s} on a circle, in closed form."""

from math import comb, factorial, pi

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import is_traced, known, scalar
from mfjax._numerics.sums.ordered import Places
from mfjax._numerics.sums.rows import over_rows
from mfjax.domains import Domain, Torus, require_domain, torus_period
from mfjax.kernels.base import Kernel
from mfjax.kernels.sums import row_sum

# zeta(1 + e) = 1/e + (Euler's constant) - STIELTJES e + ...
STIELTJES = -0.07281584548367673
# Terms of the expansion about 0 by precision: at half a period each is a quarter of the one before.
TERMS = {"float32": 14, "float64": 28}


class NegativeSobolev(Kernel):
    """The kernel of the negative Sobolev distance on a circle.

    K_s(x, y) = 1/L sum_{k != 0} |2 pi k / L|^{-2s} e^{2 pi i k (x - y) / L} on the circle R / L Z.

    To machine precision (1e-9 near, not at, odd 2s), by the expansion of the polylogarithm
    Re Li_{2s}(e^{i theta}) about theta = 2 pi (x - y) / L = 0, |theta| <= pi:

        sum_j zeta(2s - 2j) (-1)^j theta^{2j} / (2j)!  +  pi / (2 Gamma(2s) cos(pi s)) theta^{2s - 1}.

    At whole s it is a polynomial: L B_2({t}) / 2 for s = 1, -L^3 B_4({t}) / 24 for s = 2, t = (x - y) / L.
    At odd 2s the pole of zeta and that of the last term leave a logarithm. The force jumps at coincident
    points for s = 1 and is continuous for s > 1; at coincidence it is 0.

    At s = 1, 2, 3 sums over a measure cost one sort.

    - `order`: s, a number known when the kernel is made, and a constant of differentiation; `domain`:
      `Torus(1, period=L)`.

    **Raises** `ValueError` for s <= 1/2 (K_s(0) is infinite), a traced order, other domains.

    Source: NIST Digital Library of Mathematical Functions, 25.12.12 and its limit at odd 2s.

    >>> round(float(NegativeSobolev(1.0)(jnp.array([0.3]), jnp.array([0.3]))), 6)
    0.083333
    """

    order: Float[Array, ""]
    domain: Domain
    even: Float[Array, " J"]
    last: Float[Array, " 4"]
    polynomial: Float[Array, " 7"]

    def __init__(self, order: ScalarLike, domain: Domain | None = None):
        self.domain = Torus(1) if domain is None else domain
        require_domain(self.domain)
        if torus_period(self.domain) is None or self.domain.dim != 1:
            raise ValueError(f"the closed form lives on Torus(1), got {self.domain!r}")
        self.order = scalar(order, "order", above=0.5)
        if is_traced(self.order):
            raise ValueError("the closed form needs an order known in advance; a traced one needs a series")
        s = float(self.order)
        constants = (*expansion(s), bernoulli(s))
        self.even, self.last, self.polynomial = (jnp.asarray(c, jnp.result_type(float)) for c in constants)

    def validate(self, domain):
        self.check_place(self.domain, domain)

    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        self = self._constant()
        period, s = known(torus_period(self.domain)).astype(x.dtype), self.order.astype(x.dtype)
        distance = jnp.abs(self.domain.displacement(x, y)[0]) / period
        smooth, square = jnp.zeros_like(distance), distance * distance
        # Unrolled, so that it fuses with the rest: as a loop (jnp.polyval) it is 20 times slower under grad.
        for c in self.even.astype(x.dtype)[: TERMS[x.dtype.name]][::-1]:
            smooth = smooth * square + c
        power, constant, slope, shift = self.last.astype(x.dtype)
        apart = distance > 0
        log = jnp.log(2 * pi * jnp.where(apart, distance, 1.0))
        # slope * log at odd 2s, where shift = 0; the quotient is smooth in the shift.
        grown = log * _relative(shift * log)
        rough = jnp.where(apart, jnp.exp(power * log) * (constant + slope * grown), 0.0)
        # At power 0 (2s nearest to 1) the constant is part of the value at coincidence.
        rough = jnp.where(apart | (power > 0), rough, constant - slope / jnp.where(shift == 0, 1.0, shift))
        return 2 * period ** (2 * s - 1) * (2 * pi) ** (-2 * s) * (smooth + rough)

    def sums(self, points, sources, weights):
        if points.shape[1] != 1:
            return None
        # A swept order is one program, which holds both ways; modules of arrays, their methods too, have no
        # hash.
        ordered = lambda *given: self._ordered_sums(*given)
        by_row = lambda x, y, w: over_rows(lambda point: row_sum(self, point, y, w), x, len(y))
        whole = jnp.any(self.polynomial != 0)
        return jax.lax.cond(whole, ordered, by_row, points, sources, weights)

    def _constant(self) -> "NegativeSobolev":
        """The same kernel with its order held: no derivatives in it are taken here."""
        numbers = lambda kernel: (kernel.order, kernel.even, kernel.last, kernel.polynomial)
        return eqx.tree_at(numbers, self, jax.lax.stop_gradient(numbers(self)))

    def _ordered_sums(self, points, sources, weights):
        self = self._constant()
        period, s = known(torus_period(self.domain)).astype(points.dtype), self.order.astype(points.dtype)
        x, y = (jax.vmap(self.domain.coordinates)(p)[:, 0] for p in (points, sources))
        places = Places.of(x, y)
        x, y = ((p - places.middle(p.dtype)) / period for p in (x, y))
        moments = [weights * y**q for q in range(len(self.polynomial))]
        # Even powers of |x - y| need no order.
        totals = [jnp.sum(m) for m in moments], [places.signed_sum(m) for m in moments[:-1]]
        terms = [c * _power_sum(x, totals[p % 2], p) for p, c in enumerate(self.polynomial.astype(x.dtype))]
        return period ** (2 * s - 1) * sum(terms, jnp.zeros_like(x))


def bernoulli(order: float) -> np.ndarray:
    """Coefficients of the powers 0 to 6 of |t| in L^{1-2s} K_s for s = 1, 2, 3; zero at other orders."""
    coefficients = np.zeros(7)
    if order in (1, 2, 3):
        n, numbers = int(2 * order), {0: 1.0, 1: -0.5, 2: 1 / 6, 4: -1 / 30, 6: 1 / 42}
        for index, number in numbers.items():
            if index <= n:
                coefficients[n - index] = (-1) ** (n // 2 + 1) * comb(n, index) * number / factorial(n)
    return coefficients


def _power_sum(x: Array, moments: list[Array], power: int) -> Array:
    """sum_j (x - y_j)^power from the sums of y_j^q."""
    terms = (comb(power, q) * (-1) ** q * x ** (power - q) * moments[q] for q in range(power + 1))
    return sum(terms, jnp.zeros_like(x))


def _relative(u: Array) -> Array:
    """(e^u - 1) / u."""
    small = u == 0
    safe = jnp.where(small, 1.0, u)
    return jnp.where(small, 1.0, jnp.expm1(safe) / safe)


def expansion(order: float) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients of t^{2j}, (n - 1, A, r, e)) of Re Li_{2s}(e^{2 pi i t}), theta = 2 pi t.

    n is the odd number nearest to 2s, e = 2s - n, and theta^{n-1} (A + r (theta^e - 1) / e) stands for the
    two terms of exponents n - 1 and 2s - 1, whose coefficients have poles at e = 0.
    """
    from scipy.special import digamma, gamma, polygamma, zeta

    double, j = 2 * order, np.arange(TERMS["float64"])
    n = max(1, 2 * round((double - 1) / 2) + 1)
    shift, middle = double - n, (n - 1) // 2
    sign = (-1.0) ** middle
    arguments = np.where(j == middle, 0.0, double - 2 * j)
    scale = np.array([(-1.0) ** i * (2 * pi) ** (2 * i) / factorial(2 * i) for i in range(j.size)])
    even = np.where(j == middle, 0.0, zeta(arguments) * scale)
    slope = -1 / (np.sinc(shift / 2) * gamma(double))
    if abs(shift) < 1e-5:
        # Two Taylor coefficients of the difference below, which rounds to nothing here.
        psi = digamma(n)
        change = 0.5 * (polygamma(1, n) - psi**2) - STIELTJES - pi**2 / 24
        constant = (np.euler_gamma + psi + shift * change) / gamma(n)
    else:
        constant = zeta(1 + shift) / gamma(n) + slope / shift
    return even, np.array([n - 1, sign * constant, sign * slope, shift])
