"""Certificates: what a run proves about itself, and which modes of a teacher its features cannot see."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from mfjax import status as codes
from mfjax._numerics.arrays import as_floats, count, finite, scalar
from mfjax.domains import Domain, require_domain
from mfjax.energies import MMD
from mfjax.energies.base import require_number
from mfjax.features import FeatureMap, Ridge, check_features
from mfjax.kernels import Distance
from mfjax.measures import Grid

__all__ = ["Identifiability", "certify", "format_table", "identifiability", "symmetry"]

REQUIRED = ("energy", "dissipated", "residual", "mass", "min_weight", "status")


def certify(values: Mapping[str, Any]) -> dict[str, float]:
    """The certificates of one run from its recorded `values`, arrays of shape (S,) over the saved times.

    - `balance_defect`: max_t |E_0 - E_t - int_0^t D ds| / |E_0 - E_end|, E the energy and int D ds the
      recorded dissipation: it falls with the step like dt^p for a scheme of order p, and like dt^2 for one
      of a higher order, since the dissipation is summed by trapezoids over the steps. Beyond 1 the run says
      nothing of the flow.
    - `largest_increase`: the largest rise of E between two saves, 0 up to rounding for a gradient flow and
      steps that are small enough; `mf.simulate` and `mf.sweep` warn where it is not.

      Both are NaN for a run with noise (Brownian, or particles born and dying), whose recorded energy is the
      smooth part and falls in no fixed proportion to its dissipation: its `dissipated` is recorded as NaN.
      So they are where the energy is not known.
    - `mass_drift`: max_t |mass_t - mass_0| / mass_0; `min_weight`: the least mass of a particle or cell.
    - `residual`: the largest relative residual of the outer solve.
    - `status`: the code at the end (`mf.status`), 0 for a completed run; `saves`: the saved times
      that are certified, fewer than S if the run stopped early.

    A run whose energy never moves has the defect relative to rounding of E instead.

    **Raises** `ValueError` for missing keys, or values of several runs at once (certify them one by one).

    >>> run = {"energy": [2.0, 1.0, 0.5], "dissipated": [0.0, 1.01, 1.5], "residual": [0.0, 0.0, 0.0]}
    >>> run |= {"mass": [1.0, 1.0, 1.0], "min_weight": [0.5, 0.5, 0.5], "status": [0, 0, 0]}
    >>> round(certify(run)["balance_defect"], 4)
    0.0067
    """
    missing = [key for key in REQUIRED if key not in values]
    if missing:
        raise ValueError(f"the recorded values lack {', '.join(missing)}: pass run.observables of a run")
    arrays = {key: np.asarray(values[key], dtype=np.float64) for key in REQUIRED}
    shape = arrays["energy"].shape
    for key, array in arrays.items():
        if array.ndim != 1 or array.size == 0 or array.shape != shape:
            raise ValueError(f"{key} must have shape (S,), one value per saved time, got {array.shape}")
    # After a fault the record is NaN: certify the run up to there. An energy that is not known is NaN always.
    good = np.isfinite(arrays["mass"])
    if not np.all(np.isnan(arrays["energy"])):
        good &= np.isfinite(arrays["energy"])
    saves = int(good.size if good.all() else np.argmin(good))
    report = {"status": float(arrays["status"][-1]), "saves": float(saves)}
    if saves == 0:
        names = ("balance_defect", "largest_increase", "mass_drift", "min_weight", "residual")
        return dict.fromkeys(names, float("nan")) | report
    energy, dissipated, residual, mass, least = (arrays[key][:saves] for key in REQUIRED[:-1])
    rounding = float(np.finfo(np.asarray(values["energy"]).dtype).eps) if _floating(values) else 2e-16
    # NaN where noise acts: such an energy may rise.
    rises = np.diff(energy) + 0 * np.diff(dissipated)
    drop = max(abs(energy[0] - energy[-1]), rounding * float(np.max(np.abs(energy))), 1e-300)
    return {
        "balance_defect": float(np.max(np.abs(energy[0] - energy - dissipated)) / drop),
        "largest_increase": float(np.max(rises, initial=0.0)),
        "mass_drift": float(np.max(np.abs(mass - mass[0])) / abs(mass[0])),
        "min_weight": float(np.min(least)),
        "residual": float(np.max(residual)),
    } | report


def _floating(values: Mapping[str, Any]) -> bool:
    return np.issubdtype(np.asarray(values["energy"]).dtype, np.floating)


def format_table(rows: Mapping[str, Mapping[str, float]], style: str = "text") -> str:
    """Certificates of several runs as aligned "text" or as "csv", one run a line; statuses in words.

    In text "-" is what is NaN in a run without a fault: nothing is known of it, such as of the balance of a
    run with batches.

    **Raises** `ValueError` for another style.

    >>> print(format_table({"a": {"balance_defect": float("nan"), "mass_drift": 1e-16, "status": 0.0}}))
    run  balance_defect  mass_drift  status
    a    -               1.0e-16     completed
    """
    if style not in ("text", "csv"):
        raise ValueError(f"style must be 'text' or 'csv', got {style!r}")
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    number = "{:.1e}" if style == "text" else "{!r}"

    def cell(key, row):
        value = row.get(key)
        if value is None:
            return ""
        if style == "text" and math.isnan(value) and row.get("status") == codes.OK:
            return "-"
        if key == "status":
            return codes.describe(int(value)) if style == "csv" else codes.describe(int(value)).split(":")[0]
        return str(int(value)) if key == "saves" else number.format(float(value))

    lines = [["run", *columns]]
    lines += [[name, *(cell(key, row) for key in columns)] for name, row in rows.items()]
    if style == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(lines)
        return buffer.getvalue()
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@dataclass(frozen=True)
class Identifiability:
    """What a feature map and its data see of a measure.

    - `eigenvalues` (n,) of the kernel kappa = E_x phi phi' on L^2 of the uniform law, largest first; the last
      `null_dimension` of them are zero to rounding.
    - `modes` (K + 1,): c_k, the mean of |E_k phi|^2 over cos and sin of degree k; on a circle with isotropic
      data the Fourier coefficients of kappa. `None` off the circle.
    - `invisible`: the degrees k with c_k zero to rounding. Smooth features have c_k that decay
      exponentially, so high degrees may be invisible to the dtype only.
    - `symmetry` of t -> sigma(t + bias) for a `Ridge`: "odd", "even", "identity" if sigma(t) - sigma(-t)
      = a t, a != 0 (ReLU), "odd part of degree p" or "even part of degree p" if that part is another
      polynomial (sigmoid: even part of degree 0), "none" up to p = 5; "unknown" for other maps or domains
      not symmetric under omega -> -omega.
    - `hidden_mass`: with a teacher nu, |nu_0|^2 / |nu|^2 in L^2 for its projection nu_0 on the null space.
    - `floor`: MMD^2 (chordal energy distance) of nu_0 minus its mean, which two probability measures have in
      common, to O(1 / n^2): the scale below which a distance between the VarPro flow and ultra-fast diffusion
      to nu does not fall as lam -> 0 (the value at a given time depends on the run; 4e-4 for bias-free ReLU
      and gamma = 10).
    """

    eigenvalues: np.ndarray
    null_dimension: int
    modes: np.ndarray | None
    invisible: tuple[int, ...]
    symmetry: str
    hidden_mass: float | None
    floor: float | None

    @property
    def injective(self) -> bool:
        """Whether the features see every direction of the grid."""
        return self.null_dimension == 0

    def report(self) -> str:
        """A few lines of text for the record of a run."""
        n = len(self.eigenvalues)
        lines = [f"null space of kappa: {self.null_dimension} of {n} directions"]
        if self.modes is not None:
            seen = "none" if not self.invisible else ", ".join(str(k) for k in self.invisible)
            lines.append(f"invisible Fourier modes up to {len(self.modes) - 1}: {seen}")
        if self.symmetry != "unknown":
            lines.append(f"symmetry of sigma: {_meaning(self.symmetry)}")
        if self.hidden_mass is not None:
            lines.append(f"share of the teacher in the null space (L^2): {self.hidden_mass:.1e}")
            if self.null_dimension:
                lines.append(
                    "predicted floor of MMD^2 to ultra-fast diffusion as lam -> 0: of order "
                    f"{self.floor:.0e}; do not test convergence to the diffusion with these features"
                )
            else:
                lines.append("no floor: the distance to ultra-fast diffusion tends to 0 with lam")
        return "\n".join(lines)


def _meaning(symmetry: str) -> str:
    """What a symmetry of sigma hides."""
    if symmetry == "none":
        return "none found that hides part of a measure"
    if symmetry in ("odd", "even"):
        lost = {"odd": "even", "even": "odd"}[symmetry]
        return f"sigma is {symmetry}: the {lost} part of a measure is not seen"
    part, degree = ("odd", "1") if symmetry == "identity" else (symmetry.split()[0], symmetry.split()[-1])
    return (
        f"the {part} part of sigma is a polynomial of degree {degree}: of the {part} part of a measure only "
        f"the modes up to {degree} are seen"
    )


# Cells per axis, by dimension of the domain.
CELLS = {1: 128, 2: 32, 3: 10}


def identifiability(
    features: FeatureMap,
    x: Any,
    domain: Domain,
    *,
    data_weights: Any = None,
    teacher: Any = None,
    n: int | None = None,
    degree: int | None = None,
    tolerance: float | None = None,
) -> Identifiability:
    """Find which parts of a measure the features cannot see on the given data.

    Which parts of a measure on `domain` the map nu -> int phi(omega, .) dnu in L^2(data) does not see.

    The singular values of sqrt(p_j) phi(omega_i, x_j) over the centers omega_i of `n` cells per axis,
    scaled so that their squares approximate the eigenvalues of kappa(omega, omega') = sum_j p_j phi phi'
    with respect to the uniform law. With fewer than n data points a null space is certain.

    On that part the minimizer of L is not unique: Lemma 3.2 of the VarPro paper (III.3.2 of the thesis)
    needs injective features. For bias-free ReLU on the circle and a uniform teacher the uniform law and
    (1 + 0.9 cos 3 theta) / (2 pi) both attain the minimum, for every f = |t|^r.

    - `x` (N, k), masses `data_weights` (N,), 1/N unless given: `mf.problems.gaussian_quadrature()` is the
      Gaussian law itself.
    - `teacher`: a density of one point, positive or signed, for `hidden_mass` and `floor`.
    - `n`, an even number, 128, 32, 10 in dimension 1, 2, 3 unless given (a dense singular value decomposition
      of n^dim columns): on a circle the parity of modes is then exact on the grid. `degree`: modes
      0, ..., degree are reported, n / 4 unless given.
    - `tolerance`: relative size of a singular value (the root of an eigenvalue) that counts as zero;
      by default n times the rounding unit of the features.

    **Raises** `ValueError` for an odd n, wrong shapes, numbers that are not finite, a tolerance that is not
    positive, a teacher that is zero, and domains without a grid.

    >>> import mfjax as mf
    >>> x, p = mf.problems.gaussian_quadrature(8, 32)
    >>> circle = mf.domains.Sphere(1)
    >>> identifiability(mf.features.ReLU(), x, circle, data_weights=p, n=32).invisible
    (3, 5, 7)
    """
    require_domain(domain)
    n = CELLS.get(domain.dim, 4) if n is None else n
    if count(n, "n") % 2:
        raise ValueError(f"n must be even, got {n}")
    x = finite(as_floats(x, "x"), "x")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x must have shape (N, k) with N, k >= 1, got {x.shape}")
    p = np.full(x.shape[0], 1 / x.shape[0]) if data_weights is None else np.asarray(data_weights, float)
    if p.shape != (x.shape[0],) or not np.all((p >= 0) & (p < np.inf)):
        raise ValueError(f"data_weights must be {x.shape[0]} non-negative masses, got shape {p.shape}")
    grid = Grid(domain, n, dtype=x.dtype)
    check_features(features, grid.points, x)
    matrix = np.asarray(jax.jit(lambda f, points, x: f.matrix(points, x))(features, grid.points, x), float)
    # Only the triangular factor matters: the data may be many more than the cells.
    # Functions are seen through the roots of volumes, in which products are those of L^2.
    roots = np.sqrt(np.asarray(grid.relative_volume, float))
    scaled = np.sqrt(p)[:, None] * matrix * roots / np.sqrt(grid.size)
    factor = cast(np.ndarray, np.linalg.qr(scaled, mode="r"))
    _, singular, directions = np.linalg.svd(factor, full_matrices=True)
    singular = np.concatenate([singular, np.zeros(grid.size - singular.size)])
    if tolerance is None:
        tolerance = grid.size * float(jnp.finfo(x.dtype).eps)
    tolerance = float(scalar(tolerance, "tolerance", above=0))
    null = singular <= tolerance * singular[0]
    modes, invisible = None, ()
    if domain.dim == 1 and grid.periodic == (True,):
        modes = _mode_energies(factor, n // 4 if degree is None else count(degree, "degree"), grid.size)
        invisible = tuple(int(k) for k in np.flatnonzero(modes <= (tolerance * singular[0]) ** 2))
    hidden_mass = floor = None
    if teacher is not None:
        require_number("the teacher", teacher, grid.points[0])
        density = roots * np.asarray(finite(jax.vmap(teacher)(grid.points), "the teacher"), float)
        if not np.any(density):
            raise ValueError("the teacher is zero: of nothing there is no hidden part")
        hidden = directions[null].T @ (directions[null] @ density)
        hidden_mass = float(np.sum(hidden**2) / np.sum(density**2))
        hidden = hidden / roots
        centered = hidden - np.mean(roots**2 * hidden)
        floor = _energy_distance(domain, grid, centered * np.asarray(grid.volume, float))
    return Identifiability(
        singular**2, int(null.sum()), modes, invisible, symmetry(features, grid, domain), hidden_mass, floor
    )


def _mode_energies(factor: np.ndarray, degree: int, n: int) -> np.ndarray:
    """(|A cos_k|^2 + |A sin_k|^2) / (|cos_k|^2 + |sin_k|^2) on the n cells of a circle."""
    if degree >= n // 2:
        raise ValueError(f"degree must be below n / 2 = {n // 2}, got {degree}")
    waves = np.exp(2j * np.pi * np.arange(degree + 1)[:, None] * (np.arange(n) + 0.5) / n)
    return np.sum(np.abs(factor @ waves.T) ** 2, axis=0) / n


def _energy_distance(domain: Domain, grid: Grid, masses: np.ndarray) -> float:
    """-int int |x - y| of signed masses, chordal: twice the half-squared discrepancy of their two parts."""
    positive, negative = (jnp.asarray(np.maximum(part, 0), grid.dtype) for part in (masses, -masses))
    energy = MMD(Distance(domain=domain), grid.with_weights(negative))
    return max(0.0, 2 * float(energy(grid.with_weights(positive))))


def symmetry(features: FeatureMap, grid: Grid, domain: Domain, reach: float = 4.0) -> str:
    """Find the symmetry of an activation that hides part of a measure.

    The symmetry of g(t) = sigma(t + bias) that hides part of a measure, tested for |t| <= `reach`.

    It matters where omega and -omega both belong to the domain: then g(omega . x) pairs with
    g(-omega . x), and the odd (even) part of g acts on the odd (even) part of a measure alone. If that part
    is a polynomial of degree p, the modes above p of that parity are hidden.
    "unknown" for maps other than `Ridge` and for other domains.
    """
    require_domain(domain)
    if not isinstance(features, Ridge) or not bool(jnp.all(jax.vmap(domain.contains)(-grid.points))):
        return "unknown"
    t = jnp.linspace(0, reach, 257, dtype=grid.dtype)[1:]
    g = lambda z: np.asarray(jax.vmap(features.sigma)(z + features.bias.astype(z.dtype)), float)
    parts = {"even": g(t) + g(-t), "odd": g(t) - g(-t)}
    size = sum(np.max(np.abs(part)) for part in parts.values())
    small = 100 * float(jnp.finfo(grid.dtype).eps) * size
    for name, other in (("odd", "even"), ("even", "odd")):
        if np.max(np.abs(parts[name])) <= small:
            return other
    scaled = np.asarray(t, float) / reach
    for name, degree in (("odd", 1), ("even", 0), ("odd", 3), ("even", 2), ("odd", 5), ("even", 4)):
        powers = scaled[:, None] ** np.arange(degree % 2, degree + 1, 2)
        rest = parts[name] - powers @ np.linalg.lstsq(powers, parts[name], rcond=None)[0]
        if np.max(np.abs(rest)) <= small:
            return "identity" if degree == 1 else f"{name} part of degree {degree}"
    return "none"
