"""Kernels of the distance of two points."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import count, is_traced, known, safe_norm, scalar
from mfjax._numerics.sums.ordered import Places, decaying_sums
from mfjax._numerics.sums.waves import half_space, series
from mfjax.domains import Domain, require_domain
from mfjax.kernels.base import Kernel


class _Radial(Kernel):
    scale: Float[Array, ""]
    domain: Domain | None

    def __init__(self, scale: ScalarLike = 1.0, domain: Domain | None = None):
        require_domain(domain, optional=True)
        self.scale = scalar(scale, "scale", above=0)
        self.domain = domain

    def validate(self, domain):
        self.check_place(self.domain, domain)

    def _line(self, points, sources):
        """Both sets as numbers on a line where distances are those of the kernel; `None` off the line."""
        if points.shape[1] != 1 or not (self.domain is None or self.domain.flat):
            return None
        return points[:, 0], sources[:, 0]

    def _difference(self, x, y):
        if self.domain is not None:
            x, y = self.domain.embed(x), self.domain.embed(y)
        return (x - y) / self.scale.astype(x.dtype)


class Gaussian(_Radial):
    """The Gaussian kernel: smooth, and blind beyond a few scales.

    k(x, y) = exp(-|x - y|^2 / (2 scale^2)).

    - `scale` > 0: the distance over which points feel each other. Good values: the spread of the measures
      to begin with, down to a few spacings of the particles; it may be swept.
    - `domain`: where distances are taken, chordally, as `Domain.embed` says; flat space unless given. A
      flow on a torus needs it.
    - `modes` K: on products of circles, `Torus(d)` or `Sphere(1)`, sums over a measure are taken by Fourier
      series, which cost O(M + K^d) where there are many particles. Good values: for a circumference L at
      least L / scale, for an error of 1e-8 of the total mass, and 1.4 L / scale for rounding in double
      precision; below it also holds what `sums.nonuniform` says. `None`: all pairs.

    Smooth, and characteristic: the discrepancy vanishes for equal measures only. **Fails** to attract from
    afar: forces at distance r are of size (r / scale^2) e^{-r^2 / (2 scale^2)}, zero beyond 13 scales in
    single precision; `Distance` and `Riesz` reach everywhere.

    >>> import mfjax as mf
    >>> x, y = jnp.array([0.0]), jnp.array([1.0])
    >>> round(float(Gaussian(1.0)(x, y)), 4), float(Gaussian(0.1, mf.domains.Torus(1))(x, y))
    (0.6065, 1.0)

    **Raises** `ValueError` for `modes` elsewhere than on tori and the circle, or so few that more than 1e-4
    of the largest is lost; where the scale is traced, sums by too few are NaN.
    """

    modes: int | None = eqx.field(static=True)

    def __init__(self, scale: ScalarLike = 1.0, domain: Domain | None = None, modes: int | None = None):
        super().__init__(scale, domain)
        self.modes = None if modes is None else count(modes, "modes")
        if modes is None:
            return
        if domain is None or not domain.product_of_circles:
            raise ValueError(f"modes are those of a Torus or of Sphere(1), passed as domain=, got {domain!r}")
        if not is_traced((self.scale, domain)):
            needed = float(jnp.max(self._needed(self.scale.dtype)))
            if modes < needed:
                raise ValueError(f"modes must be at least {int(np.ceil(needed))} for this scale, got {modes}")

    def __call__(self, x, y):
        z = self._difference(x, y)
        return jnp.exp(-0.5 * jnp.sum(z * z))

    def _radii(self, dtype):
        """Of the circles that the domain is a product of, (dim,)."""
        return known(self.domain).lengths.astype(dtype) / (2 * np.pi)

    def _needed(self, dtype):
        """The number of modes along each axis below which more than 1e-4 of the largest is lost."""
        return 4.3 * self._radii(dtype) / self.scale.astype(dtype)

    def sums(self, points, sources, weights):
        if self.modes is None:
            return None
        domain, dtype = known(self.domain), points.dtype
        dim, lengths = domain.dim, domain.lengths.astype(dtype)
        turns = lambda p: jax.vmap(domain.coordinates)(p) / lengths
        # exp(-kappa (1 - cos theta)) on each circle: its coefficients by an FFT that resolves it to rounding.
        angles = jnp.asarray(2 * np.pi * np.arange(4 * self.modes) / (4 * self.modes), dtype)
        kappa = (self._radii(dtype)[:, None] / self.scale.astype(dtype)) ** 2
        table = jnp.fft.rfft(jnp.exp(-kappa * (1 - jnp.cos(angles)))).real / len(angles)
        # A scale that was traced when the kernel was made: not a number, rather than a wrong one.
        table = jnp.where(self.modes >= 0.999 * self._needed(dtype)[:, None], table, jnp.nan)
        waves = half_space(self.modes, dim)
        symbol = jnp.prod(table[jnp.arange(dim), jnp.abs(jnp.asarray(waves.k))], axis=1)
        seen = jnp.asarray(waves.times, dtype) * symbol * waves.transform(turns(sources), weights)
        varying = series(turns(points), seen, jnp.asarray(waves.k, dtype), self.modes)
        return varying + jnp.prod(table[:, 0]) * jnp.sum(weights)


class Laplace(_Radial):
    """The exponential kernel, with a kink where two points meet.

    k(x, y) = exp(-|x - y| / scale).

    - `scale` > 0: the distance over which points feel each other; good values as for `Gaussian`.
    - `domain`: where distances are taken, chordally; flat space unless given. A flow on a torus needs it.

    Characteristic, and sharper than `Gaussian`: the force jumps by 2 / scale where two points meet, and is
    taken as 0 there. So **explicit steps rattle** about a target of atoms with an amplitude of a step;
    `Matern(1.5)` has the same tails and Lipschitz forces. Sums on a line cost one sort.

    >>> round(float(Laplace(2.0)(jnp.array([0.0]), jnp.array([2.0]))), 4)
    0.3679
    """

    def __init__(self, scale: ScalarLike = 1.0, domain: Domain | None = None):
        super().__init__(scale, domain)

    def __call__(self, x, y):
        return jnp.exp(-safe_norm(self._difference(x, y)))

    def sums(self, points, sources, weights):
        line = self._line(points, sources)
        if line is None:
            return None
        left, here, right = decaying_sums(*line, weights, self.scale.astype(points.dtype))
        return left + here + right


class Distance(_Radial):
    """The kernel of the energy distance, conditionally positive definite.

    k(x, y) = -|x - y| / scale.

    Sums on a line, and on a `Torus(1)` passed as `domain`, cost one sort.

    >>> float(Distance()(jnp.array([0.0]), jnp.array([2.0])))
    -2.0
    """

    conditional: ClassVar[bool] = True

    def __init__(self, scale: ScalarLike = 1.0, domain: Domain | None = None):
        super().__init__(scale, domain)

    def __call__(self, x, y):
        return -safe_norm(self._difference(x, y))

    def sums(self, points, sources, weights):
        scale = self.scale.astype(points.dtype)
        domain = self.domain
        if domain is not None and domain.product_of_circles and domain.dim == domain.ambient == 1:
            return self._circle_sums(domain, points, sources, weights) / scale
        line = self._line(points, sources)
        if line is None:
            return None
        places = Places.of(*line)
        x, y = (p - places.middle(p.dtype) for p in line)
        return (places.signed_sum(weights * y) - x * places.signed_sum(weights)) / scale

    def _circle_sums(self, domain, points, sources, weights):
        x, y = (jax.vmap(domain.coordinates)(p)[:, 0] for p in (points, sources))
        places = Places.of(x, y)
        diameter = domain.lengths.astype(x.dtype)[0] / jnp.pi
        # The chord is the diameter times sign(x - y) sin((x - y) / diameter).
        cosine, sine = (weights * f(y / diameter) for f in (jnp.cos, jnp.sin))
        a, b = places.signed_sum(cosine), places.signed_sum(sine)
        return diameter * (jnp.cos(x / diameter) * b - jnp.sin(x / diameter) * a)


class Riesz(_Radial):
    """The negative of a power of the distance.

    -|z|^q, z = (x - y) / scale, for an exponent 0 < q < 2: conditionally positive definite.

    q = 1 is `Distance`. The force q |z|^{q-1} / scale is finite at coincident points for q >= 1 and infinite
    for q < 1; there it is taken as 0, and explicit steps of particles that meet are then inaccurate.

    **Raises** `ValueError` for q outside (0, 2): at q = 2 the discrepancy sees nothing but means.

    >>> round(float(Riesz(0.5)(jnp.array([0.0]), jnp.array([4.0]))), 6)
    -2.0
    """

    conditional: ClassVar[bool] = True
    exponent: Float[Array, ""]

    def __init__(self, exponent: ScalarLike, scale: ScalarLike = 1.0, domain: Domain | None = None):
        super().__init__(scale, domain)
        self.exponent = scalar(exponent, "exponent", above=0)
        if not is_traced(self.exponent) and float(self.exponent) >= 2:
            raise ValueError(f"exponent must be less than 2, got {float(self.exponent):g}")

    def __call__(self, x, y):
        z = self._difference(x, y)
        square = jnp.sum(z * z)
        apart = square > 0
        power = jnp.where(apart, square, 1.0) ** (0.5 * self.exponent.astype(z.dtype))
        return -jnp.where(apart, power, 0.0)


class Matern(_Radial):
    """Kernels between Laplace and Gaussian, of a chosen smoothness.

    p(r) e^{-r}, r = sqrt(2 smoothness) |x - y| / scale, for smoothness 1/2, 3/2 and 5/2.

    p = 1, 1 + r, 1 + r + r^2/3. Smoothness 1/2 is `Laplace`; 3/2 has Lipschitz forces, and second
    derivatives; 5/2 is four times continuously differentiable.

    **Raises** `ValueError` for other values of smoothness, which decides the formula: it is not swept.

    Source: C. Rasmussen, C. Williams, Gaussian Processes for Machine Learning (2006), (4.17).

    >>> round(float(Matern(1.5)(jnp.array([0.0]), jnp.array([0.0]))), 6)
    1.0
    """

    smoothness: float = eqx.field(static=True)

    def __init__(self, smoothness: float = 1.5, scale: ScalarLike = 1.0, domain: Domain | None = None):
        super().__init__(scale, domain)
        if smoothness not in (0.5, 1.5, 2.5):
            raise ValueError(f"smoothness must be 1/2, 3/2 or 5/2, got {smoothness!r}")
        self.smoothness = float(smoothness)

    def __call__(self, x, y):
        r = (2 * self.smoothness) ** 0.5 * safe_norm(self._difference(x, y))
        polynomial = {0.5: 1.0, 1.5: 1 + r, 2.5: 1 + r + r * r / 3}[self.smoothness]
        return polynomial * jnp.exp(-r)
