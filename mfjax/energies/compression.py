"""Many data replaced by few, for features that are nearly combinations of few functions."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from mfjax._numerics.arrays import as_floats, finite, inner, is_traced, long_norm, scalar
from mfjax._numerics.sums.rows import over_rows
from mfjax.domains import Domain
from mfjax.energies.data import Data
from mfjax.features import FeatureMap, check_features
from mfjax.features.interpolated import Interpolated

# Points at which the features of a domain are looked at, and nodes for each function of the basis: a quarter
# more than it takes keeps the interpolation from enlarging what the basis misses.
POINTS, NODES = 2048, 1.25


class Compressed(eqx.Module):
    """What `compress` makes of data: `rank` + 1 of them, for `features` evaluated at J nodes.

    `x` (rank + 1, J), `y` (rank + 1,), or (rank + 1, c) for c outputs, and `data_weights` go where those of
    the N data went, and `features` where the map went. `error` is the largest distance in L^2 of the data
    between a feature and its interpolant.
    """

    features: Interpolated
    x: Float[Array, "K J"]
    y: Float[Array, "K *c"]
    data_weights: Float[Array, " K"]
    basis: Float[Array, "N r"]
    data: Data
    points: Float[Array, "T d"]

    @property
    def rank(self) -> int:
        """The number of functions that are combined."""
        return self.basis.shape[1]

    @property
    def error(self) -> Float[Array, ""]:
        """The largest error found at the points given, as far as rounding lets it be seen."""
        return self.features.error

    def errors(self, points: Float[Array, "M d"]) -> Float[Array, " M"]:
        """|phi(omega, .) - phi~(omega, .)| in L^2 of the data, at any points omega: N features each."""
        dtype = jnp.result_type(points, self.data.x)
        reader, basis, x = (a.astype(dtype) for a in (self.x[:-1], self.basis, self.data.x))
        nodes, root = self.features.nodes.astype(dtype), jnp.sqrt(self.data.weights).astype(dtype)
        at = lambda point, inputs: jax.vmap(self.features.features, in_axes=(None, 0))(point, inputs)
        error = lambda point: root * at(point, x) - inner(basis, inner(reader, at(point, nodes)))
        return over_rows(lambda point: long_norm(error(point)), points.astype(dtype), len(x))

    def inputs(self, x: Float[Array, "B k"]) -> Float[Array, "B J"]:
        """Coefficients c with which phi~(omega, c) is near phi(omega, x), for predictions at new inputs x.

        By least squares over the points given to `compress`: the error is that of the features of x as
        combinations of those of the nodes, which is small for inputs among the data.
        """
        if x.ndim != 2 or x.shape[1] != self.data.x.shape[1]:
            raise ValueError(f"x must have shape (B, {self.data.x.shape[1]}), got {x.shape}")
        sampled = self.features.features.matrix(self.points, x.astype(self.points.dtype))
        nodes = self._at_nodes(self.points)
        cut = max(10 * float(jnp.finfo(nodes.dtype).eps), 1e-10)
        return jnp.linalg.lstsq(nodes.T, sampled.T, rcond=cut)[0].T

    def _at_nodes(self, points: Float[Array, "M d"]) -> Float[Array, "J M"]:
        return self.features.features.matrix(points, self.features.nodes.astype(points.dtype))


def compress(
    features: FeatureMap,
    x: Any,
    y: Any,
    points: Any,
    *,
    tolerance: float = 1e-6,
    data_weights: Any = None,
) -> Compressed:
    """Data of the same squared loss for fewer, cheaper features: empirical interpolation.

    phi(omega, .) at the N data is close to sum_k c_k(omega) q_k for a few functions q_k of the data,
    orthonormal in L^2(p), and c(omega) = W phi(omega, nodes) is read off J nodes among the inputs. Then

        sum_j p_j |F(x_j) - y_j|^2 = |W int phi(., nodes) u dmu - <q, y>|^2 + |y - sum_k q_k <q_k, y>|^2

    up to the error of the interpolation: r data with the features phi~ = W phi(., nodes), and one datum on
    which all features vanish, for the second term. A step then costs J M and not N M.

    - `features`: phi; `x` (N, k), `y` (N,) or (N, c), masses `data_weights` (N,), 1/N unless given.
    - `points`: a domain, from which 2048 points are drawn, or an array (T, d): where the features are looked
      at. Every second one makes the basis, the others test it. They must be where particles will be:
      elsewhere, and in directions that leave the domain, phi~ is another function.
      All features there are held in double precision, and factorized.
    - `tolerance`: largest |phi - phi~| in L^2 of the data over all these points, relative to the largest
      |phi|.

    **Good for** smooth features of few variables. Functions needed for N = 4096: tanh on the circle 32 for a
    tolerance of 1e-6, tanh on the sphere in three dimensions 407; a Gaussian bump on the 2-torus, of a scale
    of 0.12 periods, 282 for 1e-4; ReLU on the circle 39 for 1e-2, 164 for 1e-3. **Not for** finer kinks or
    many dimensions, where their number comes near N.

    The energy of these data is an energy of its own, whose gradient is exact. By `error` eps and the dual
    variable alpha its value is within eps |alpha| int |u| dmu and a term in eps^2 of that of all data
    (`observables.CompressionError`); `errors(points)` is that of any particles. Only for the squared loss
    (`ReducedRisk`, `TwoTimescale`, `Risk` with `losses.Square`), for which sums over data are inner products.

    **Raises** `ValueError` for data or points that do not fit the features, tolerance <= 0, and a tolerance
    that is not reached with this many points or in this precision.

    Source: Barrault, Maday, Nguyen, Patera, C. R. Acad. Sci. Paris 339 (2004) 667-672; nodes by pivoted QR as
    in Drmac, Gugercin, SIAM J. Sci. Comput. 38 (2016) A631-A648.

    >>> import jax.numpy as jnp, jax.random as jr, mfjax as mf
    >>> circle, x = mf.domains.Torus(1), jnp.linspace(0, 1, 500)[:, None]
    >>> phi = mf.features.RBF(circle, scale=0.1, profile="gaussian")
    >>> small = compress(phi, x, jnp.cos(6 * x[:, 0]), circle, tolerance=1e-4)
    >>> mu = mf.measures.Particles.sample(circle, jr.key(0), 50)
    >>> whole = mf.energies.ReducedRisk(phi, x, jnp.cos(6 * x[:, 0]), 1e-2)
    >>> data = (small.features, small.x, small.y)
    >>> part = mf.energies.ReducedRisk(*data, 1e-2, data_weights=small.data_weights)
    >>> small.rank < 30, abs(float(part(mu) / whole(mu)) - 1) < 1e-3
    (True, True)
    """
    data = Data(x, y, data_weights)
    tolerance = float(scalar(tolerance, "tolerance", above=0))
    domain = points if isinstance(points, Domain) else None
    if domain is not None:
        points = domain.sample(jr.key(0), POINTS, data.x.dtype)
    points = finite(as_floats(points, "points"), "points")
    if is_traced((points, features, data)):
        raise ValueError("compress decides a size: call it outside of jit, grad and vmap")
    if points.ndim != 2 or len(points) < 4:
        raise ValueError(f"points must have shape (T, d) with T >= 4, or be a domain, got {points.shape}")
    check_features(features, points, data.x, domain)
    root = np.sqrt(np.asarray(data.weights, np.float64))
    sampled = root[:, None] * np.asarray(features.matrix(points, data.x), np.float64)
    basis, nodes, reader, error = _interpolation(sampled, tolerance)
    target = (root * np.asarray(data.y, np.float64).T).T
    inside = basis.T @ target
    beyond = np.linalg.norm(target - basis @ inside, axis=0)
    as_data = lambda values: jnp.asarray(values, data.x.dtype)
    return Compressed(
        Interpolated(features, data.x[nodes], as_data(error)),
        as_data(np.pad(reader * root[nodes], ((0, 1), (0, 0)))),
        as_data(np.concatenate([inside, beyond[None]])),
        jnp.ones(len(inside) + 1, data.x.dtype),
        as_data(basis),
        data,
        points[::2],
    )


def _interpolation(sampled: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(basis Q (N, r), nodes (J,), reader W (r, J), error) with |a - Q W a_nodes| <= error for all columns a.

    **Raises** `ValueError` if no rank brings the error below `tolerance` times the largest column.
    """
    from scipy.linalg import qr

    norms = np.linalg.norm(sampled, axis=0)
    if not (np.all(np.isfinite(norms)) and np.max(norms) > 0):
        raise ValueError(
            "features must be finite and not all zero at the data that have a mass, got norms up to "
            f"{np.max(norms)}"
        )
    goal = tolerance * np.max(norms)
    functions, triangle, _ = cast(Any, qr(sampled[:, ::2], mode="economic", pivoting=True))
    # The greatest distance of a training column from the first k.
    left = np.abs(np.diag(triangle))
    best, rank = np.inf, 0
    for closer in 2.0 ** np.arange(12):
        last, rank = rank, max(1, int(np.sum(left > goal / closer)))
        if rank == last:
            continue
        if NODES * rank >= len(sampled):
            break
        basis = functions[:, :rank]
        nodes = _spread(basis, int(np.ceil(NODES * rank)))
        reader = np.linalg.pinv(basis[nodes])
        error = float(np.max(np.linalg.norm(sampled - basis @ (reader @ sampled[nodes]), axis=0)))
        best = min(best, error)
        if error <= goal:
            return basis, nodes, reader, error
    found = f"; the least error found is {best / np.max(norms):.1e}" if np.isfinite(best) else ""
    raise ValueError(
        f"tolerance {tolerance:g} is not reached with fewer functions than the {len(sampled)} data, seen at "
        f"{len(left)} points{found}. Give a larger "
        "tolerance, double precision or more points; or stay with all data"
    )


def _spread(basis: np.ndarray, count: int) -> np.ndarray:
    """About `count` rows of Q (N, r) that determine it well: r by pivoted QR, then more of the others."""
    from scipy.linalg import qr

    n, rank = basis.shape
    # What qr returns depends on its mode, which its annotations do not know.
    pivots = lambda matrix: cast(Any, qr(matrix, mode="r", pivoting=True))[1]
    first = pivots(basis.T)[:rank]
    others = np.setdiff1d(np.arange(n), first)
    more = min(count - rank, len(others))
    if more == 0:
        return first
    return np.append(first, others[pivots(basis[others].T)[:more]])
