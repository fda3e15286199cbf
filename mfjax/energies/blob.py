"""Internal energies of particles by a density estimate of stated width."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import inner, scalar
from mfjax.domains import Domain, require_domain
from mfjax.energies.base import Solution
from mfjax.energies.convolution import convolution
from mfjax.energies.internal import DensityEstimate, InternalEnergy
from mfjax.measures import Measure


class Blob(DensityEstimate):
    """An internal energy of the density blurred by a Gaussian, which particles have too.

    F(mu) = int f(rho, x) dmu, f = U / rho, rho = int K(., y) dmu(y), K the Gaussian of standard deviation
    `width`.

    The internal energy int U(mu, x) dx = int (U / mu)(mu, x) dmu with an estimate for the inner mu. Its
    first variation V(x) = f(rho(x), x) + int K(x, y) d_rho f(rho(y), y) dmu(y) is smooth, so that particles
    diffuse without noise, in any dimension: T * Blob(PorousMedium(), width, domain). For order 2 this is the
    interaction energy with K.

    - `energy`: an `InternalEnergy`.
    - `domain`: one that has a `gaussian`: wrapped around closed axes, reflected at walls, of von Mises and
      Fisher on `Sphere(2)`.
    - `width`: a length well above the spacing of the particles and well below the features of rho; fronts
      and equilibria are smoothed by it, with error O(width^2). Good values: 2 to 4 spacings. In one
      dimension `Spacings` needs no width.

    **Raises** `ValueError` for domains without a Gaussian, for a flow on another one, and for a `Grid`, which
    has a density.

    Source: J. Carrillo, K. Craig, F. Patacchini, Calc. Var. 58 (2019) 53.

    >>> import mfjax as mf
    >>> mu = mf.measures.Particles(jnp.array([[0.0]]))
    >>> energy = Blob(mf.energies.PorousMedium(), 0.5, mf.domains.Euclidean(1))
    >>> round(float(energy(mu)), 4), round(0.5 / (2 * jnp.pi * 0.5**2) ** 0.5, 4)
    (0.3989, 0.3989)
    """

    energy: InternalEnergy
    width: Float[Array, ""]
    domain: Domain

    def __init__(self, energy: InternalEnergy, width: ScalarLike, domain: Domain):
        if not isinstance(energy, InternalEnergy):
            raise ValueError(f"energy must be an InternalEnergy, got {type(energy).__name__}")
        require_domain(domain)
        self.energy, self.domain = energy, domain
        self.width = scalar(width, "width", above=0)
        # A domain without one says so.
        at = jnp.zeros((domain.ambient,))
        jax.eval_shape(domain.gaussian, at, at, jnp.ones(()))

    def kernel(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Float[Array, ""]:
        """K(x, y), symmetric, of integral one in each."""
        return self.domain.gaussian(x, y, self.width.astype(x.dtype))

    def per_mass(self, density: Float[Array, " K"], points: Float[Array, "K d"]) -> Float[Array, " K"]:
        """U(rho, x) / rho at each point."""
        # Far from all particles the estimate underflows, with nothing there to weigh it.
        density = jnp.maximum(density, jnp.finfo(density.dtype).tiny)
        return self.energy.integrand(density, points) / density

    def solve(self, mu, carry=None):
        density = convolution(self.kernel, mu, mu.points)
        at = lambda rho: self.per_mass(rho, mu.points)
        values, slopes = jax.jvp(at, (density,), (jnp.ones_like(density),))
        return Solution(mu.integrate(values), BlobPotential(self, mu, slopes))


class BlobPotential(eqx.Module):
    """x -> f(rho(x), x) + int K(x, y) slopes(y) dmu(y), slopes those of f in rho at the particles."""

    blob: Blob
    mu: Measure
    slopes: Float[Array, " K"]

    def __call__(self, point):
        row = jax.vmap(self.blob.kernel, in_axes=(None, 0))(point, self.mu.points)
        density = inner(self.mu.weights, row)
        own = self.blob.per_mass(density[None], point[None])[0]
        return own + inner(self.mu.weights * self.slopes, row)
