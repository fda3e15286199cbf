"""The problems of the papers, by name: the circle, sampled or at the population level, and the torus."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, ScalarLike

from mfjax._numerics.arrays import count, scalar
from mfjax.features import RBF, CircleModes, ReLU
from mfjax.problems.inputs import gaussian_inputs
from mfjax.problems.problem import Problem, teacher_student
from mfjax.problems.teachers import CircleTeacher, TorusTeacher


def relu_coefficients(
    bias: ScalarLike = 0.0, degree: int = 64, dim: int = 1, *, dtype: Any = None
) -> Float[Array, " K1"]:
    """Fourier coefficients of the kernel of ReLU features at the population level, on spheres too.

    Fourier coefficients c_0, ..., c_degree of kappa(s) = E phi(theta, x) phi(theta + s, x) on S^1.

    x is standard normal in R^2, phi(theta, x) = max(cos(theta) x_1 + sin(theta) x_2 + bias, 0), and
    kappa(s) = sum_k c_k e^{iks}. At bias 0, kappa(s) = (|sin s| + (pi - |s|) cos s) / (2 pi) for |s| <= pi:
    c_0 = 2 / pi^2, c_1 = 1/8, c_k = 2 / (pi^2 (k^2 - 1)^2) for even k, and 0 for odd k >= 3.

    Otherwise c_k is the mean over the radius r = |x| of a_k(r)^2, where max(r cos t + bias, 0) =
    sum_k a_k(r) e^{ikt} has closed form on its support |t| < arccos(-bias / r); the mean is taken by Gauss
    quadrature in v = arcosh(r / |bias|), in which the integrand is analytic, to about 1e-14.

    On S^d, d = `dim` > 1, they are the eigenvalues of kappa(x . y) under the uniform law, one for all
    harmonics of a degree l; by the Funk-Hecke formula c_l = (d + 1) a_l^2, a_l that of max(x . y, 0). They
    are zero at odd l >= 3 and fall like l^-(d + 3), as those of the dot-H^-s norm, s = (d + 3) / 2.

    **Raises** `ValueError` for a bias on S^d, d > 1.

    >>> [round(float(c), 6) for c in relu_coefficients(0.0, 4)]
    [0.202642, 0.125, 0.022516, 0.0, 0.000901]
    """
    k = np.arange(count(degree, "degree") + 1.0)
    dtype = jnp.result_type(float) if dtype is None else dtype
    bias = float(scalar(bias, "bias"))
    if count(dim, "dim") > 1:
        if bias != 0:
            raise ValueError(f"on spheres of dimension {dim} coefficients are known at bias 0, got {bias:g}")
        return jnp.asarray((dim + 1) * _relu_eigenvalues(degree, dim) ** 2, dtype)
    if bias == 0:
        c = np.where(k % 2 == 0, 2 / (np.pi * (k**2 - 1 + (k == 1))) ** 2, 0.0)
        c[1] = 1 / 8
        return jnp.asarray(c, dtype)
    b = abs(bias)
    # r = b cosh(v): the half-width T of the support then varies by at most one radian per unit of v.
    end = np.arcsinh(13 / b)
    node, weight = np.polynomial.legendre.leggauss(48 + degree // 2)
    panels = int(np.ceil(end))
    half = end / (2 * panels)
    v = (half * (node + 1) + 2 * half * np.arange(panels)[:, None]).ravel()
    s, r = b * np.sinh(v), b * np.cosh(v)
    mass = half * np.tile(weight, panels) * r * s * np.exp(-(r**2) / 2)
    support = np.pi / 2 + np.sign(bias) * np.arctan2(b, s)

    def cosine_integral(m):
        return np.where(m == 0, support, np.sin(m * support) / np.where(m == 0, 1, m))

    m = k[:, None]
    a = bias * cosine_integral(m) + r / 2 * (cosine_integral(m + 1) + cosine_integral(m - 1))
    c = (a / np.pi) ** 2 @ mass
    if bias > 0:
        # Inputs with r < bias, for which the feature is linear: a_0 = bias, a_1 = r / 2.
        inside = np.exp(-(b**2) / 2)
        c[0] += b**2 * (1 - inside)
        c[1] += (2 - (b**2 + 2) * inside) / 4
    return jnp.asarray(c, dtype)


def _relu_eigenvalues(degree: int, dim: int) -> np.ndarray:
    """The eigenvalues of max(x . y, 0) on S^dim under the uniform law, of either sign at even degrees.

    By Rodrigues' formula and two integrations by parts; those of degree 0 and 1 are elementary.
    """
    from scipy.special import gammaln

    # The weight of the height t = x . y is (1 - t^2)^(dim / 2 - 1) over its integral.
    total = gammaln(0.5) + gammaln(dim / 2) - gammaln((dim + 1) / 2)
    a = np.zeros(degree + 1)
    a[0], a[1] = np.exp(-total) / dim, 0.5 / (dim + 1)
    even = np.arange(2, degree + 1, 2)
    rodrigues = gammaln(dim / 2) - even * np.log(2) - gammaln(even + dim / 2)
    binomial = gammaln(even + dim / 2) - gammaln(even / 2) - gammaln((even + dim) / 2 + 1)
    a[2::2] = (-1.0) ** (even // 2 - 1) * np.exp(gammaln(even - 1) + rodrigues + binomial - total)
    return a


def circle(
    key: Key[Array, ""],
    *,
    gamma: ScalarLike = 100.0,
    bias: ScalarLike | None = None,
    inputs: int = 4096,
    width: int = 4096,
    stratified: bool = False,
    dtype: Any = None,
) -> Problem:
    """The published problem on the circle: ReLU features, Gaussian inputs and a teacher of two bumps.

    ReLU on S^1, Gaussian inputs in R^2, the two-bump teacher (thesis III.6, figures III.1 to III.7).

    The published one has no `bias`.

    >>> import jax.random as jr
    >>> circle(jr.key(0), inputs=8, width=16).y.shape
    (8,)
    """
    for_inputs, for_teacher = jr.split(key)
    x = gaussian_inputs(for_inputs, inputs, dtype=dtype)
    return teacher_student(
        CircleTeacher(gamma), ReLU(bias, circle=True), for_teacher, x=x, width=width, stratified=stratified
    )


def circle_population(
    gamma: ScalarLike = 100.0,
    *,
    bias: ScalarLike = 0.0,
    degree: int = 64,
    teacher: CircleTeacher | None = None,
) -> Problem:
    """The circle problem with infinitely many inputs and teacher neurons, up to Fourier degree `degree`.

    Its features are `CircleModes(relu_coefficients(bias, degree))` and its data the exact image of the
    teacher's density. The dropped modes are those with k > degree: lam should lie well above
    c_degree, on average exp(-bias^2 / 2) / (pi^2 degree^4) (without bias twice that for even degrees, and
    zero for odd ones).

    >>> problem = circle_population(10.0, degree=8)
    >>> problem.x.shape, round(float(jnp.mean(problem.y**2)), 4)
    ((17, 2), 0.2533)
    """
    teacher = CircleTeacher(gamma) if teacher is None else teacher
    features = CircleModes(relu_coefficients(bias, degree))
    y = features.image(teacher.fourier(degree))
    return Problem(teacher, features, features.inputs(), y)


def torus(
    key: Key[Array, ""],
    *,
    gamma: ScalarLike = 100.0,
    scale: ScalarLike = 2.0,
    amplitude: ScalarLike = 8.0,
    inputs: int = 4096,
    width: int = 4096,
    stratified: bool = False,
    dtype: Any = None,
) -> Problem:
    """The published problem on the 2-torus: radial features and a teacher of two modes.

    Laplace RBF on R^2 / 4 Z^2, Gaussian inputs, the two-mode teacher (thesis III.B, III.10 to III.14).

    `scale` 2 is the thesis' 8 exp(-|z| / 2); its public code has 0.5. gamma = inf is the two-atom teacher.
    """
    teacher = TorusTeacher(gamma)
    for_inputs, for_teacher = jr.split(key)
    x = gaussian_inputs(for_inputs, inputs, dtype=dtype)
    features = RBF(teacher.domain, scale=scale, amplitude=amplitude)
    return teacher_student(teacher, features, for_teacher, x=x, width=width, stratified=stratified)
