"""How fast two flows of the reduced risk can part: the semiconvexity of the energy."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import inner, is_traced, scalar
from mfjax._numerics.compiled import compiled
from mfjax.domains import Domain, require_domain
from mfjax.energies.reduced_risk import ReducedRisk, require_reduced_risk
from mfjax.measures import Measure
from mfjax.observables.transport import WassersteinDistance
from mfjax.regularizers import Quadratic
from mfjax.theory.bounds.base import Exponential, check_probability


def stability(
    energy: ReducedRisk, domain: Domain, mu: Measure, nu: Measure, *, n: int | None = None
) -> Exponential:
    """How far two solutions of one flow can drift apart.

    W_2(mu_t, nu_t) <= e^{Ct} W_2(mu, nu) for two flows of `energy`, d the length of paths on the domain.

    C is `semiconvexity` at the greater of the two initial values of the energy, which only fall. The masses
    of mu and nu are one. With N particles drawn from mu for nu, this is how the error of particles can
    grow; it begins with W_1 of order N^{-1/d} in dimension d >= 3 (Corollary 4.1, which has W_1 on both
    sides; what Theorem 4.1 gives is W_1 <= W_2 at t below e^{Ct} W_2 at 0).

    **Raises** `ValueError` for other masses, and as `semiconvexity` does.

    Source: VarPro paper, Theorem 4.1, whose constant is not given, and Corollary 4.1.
    """
    require_reduced_risk(energy, "bounds.stability")
    require_domain(domain)
    check_probability(mu, "mu")
    check_probability(nu, "nu")
    level = jnp.maximum(energy(mu), energy(nu))
    constant = semiconvexity(energy, domain, level, n=n)
    return Exponential(WassersteinDistance(nu, order=2, domain=domain)(mu), -constant, "Theorem 4.1")


# Cells per axis on which the features are surveyed, by dimension of the domain.
CELLS = {1: 256, 2: 32}


def semiconvexity(
    energy: ReducedRisk, domain: Domain, level: ScalarLike, *, n: int | None = None
) -> Float[Array, ""]:
    """How concave the potential of a reduced risk can be at the measures that a flow meets.

    C such that the potential V of `energy` at every mu with L(mu) <= `level` has Hessian >= -C.

    C = R k_2 (|c| + R k_0) + R^2 k_1^2 for f = (t - c)^2 / 2, with R = sqrt(2 level / lam) and k_j the
    greatest norm in L^2(data) of the j-th derivative of phi(omega, .) over `n` cells per axis (256, or 32 in
    two dimensions): over the centers of the cells of size h, below the suprema by O(h^2). For
    V = -(c s + s^2 / 2), s = int phi alpha, and lam |alpha|^2 / 2 <= L at the optimum. For q outputs V is a
    sum over them, and |c| sqrt(q) stands for |c|.

    The paper bounds |alpha| by sqrt(|y|^2 + lam f(0)) / lam for every mu; lam f(0) should be 2 lam f(0),
    and the level of the run is sharper. C still grows like 1 / lam.

    **Raises** `ValueError` for f other than `Quadratic`, domains without a grid, and features whose
    gradient jumps (ReLU, Laplace kernels: phi must be C^{1,1}) or is not resolved by the cells.

    >>> import jax.numpy as jnp, mfjax as mf
    >>> modes = mf.features.CircleModes([0.0, 0.5])
    >>> energy = ReducedRisk(modes, modes.inputs(), jnp.ones(3), 1.0)
    >>> round(float(semiconvexity(energy, mf.domains.Sphere(1), 0.5, n=16)), 3)
    2.0
    """
    require_reduced_risk(energy, "bounds.semiconvexity")
    require_domain(domain)
    if not isinstance(energy.regularizer, Quadratic):
        raise ValueError(
            f"the constant is known for regularizers.Quadratic, got {type(energy.regularizer).__name__}"
        )
    level = scalar(level, "level", minimum=0)
    cells = domain.cells(CELLS.get(domain.dim, 8) if n is None else n)
    points = cells.points.astype(energy.data.x.dtype)
    moving = np.array([axis for axis in range(len(cells.shape)) if axis not in cells.frozen])
    k0, k1, k2, rough = _derivatives(energy, domain, points, cells.spacing[moving].astype(points.dtype))
    if not is_traced((k2, rough)) and not float(rough) <= 1.5 * float(k2):
        raise ValueError(
            f"the gradient of the features jumps: its difference quotient over a cell is {float(rough):.1e} "
            f"and its derivative {float(k2):.1e}; use smooth features, or more cells than {cells.shape}"
        )
    radius = jnp.sqrt(2 * level / energy.lam)
    # The length of c (1, ..., 1), one entry an output.
    shift = jnp.abs(energy.regularizer.center) * prod(energy.outputs) ** 0.5
    return radius * k2 * (shift + radius * k0) + (radius * k1) ** 2


@compiled
def _derivatives(energy: ReducedRisk, domain: Domain, points: Array, spacing: Array):
    """k_0, k_1, k_2, and k_2 by differences of the gradient over a cell."""
    data, features, dim = energy.data, energy.features, domain.tangent_dim
    norms = lambda values: jnp.sqrt(inner(data.weights, values))

    def at(point):
        basis = domain.tangent_basis(point)
        # Retraction agrees with geodesics to second order.
        chart = lambda v: jax.vmap(lambda x: features(domain.retract(point, basis @ v), x))(data.x)
        slope = jax.jacfwd(chart)
        zero = jnp.zeros((dim,), point.dtype)
        first, second = slope(zero), jax.jacfwd(slope)(zero)
        gram = inner(first.T * data.weights, first)
        quotients = [
            jnp.sum(((slope(0.5 * step) - slope(-0.5 * step)) / jnp.linalg.norm(step)) ** 2, axis=-1)
            for step in jnp.diag(spacing)
        ]
        return (
            norms(chart(zero) ** 2),
            jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1]),
            norms(jnp.sum(second**2, axis=(-2, -1))),
            norms(sum(quotients)),
        )

    return tuple(jnp.max(k) for k in jax.lax.map(at, points, batch_size=16))
