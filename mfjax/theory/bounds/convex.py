"""Decay of convex energies by a distance to the minimizer, and of risks by the tangent kernel."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ScalarLike

from mfjax._numerics.arrays import as_floats, is_traced, safe_sqrt
from mfjax.theory.bounds.base import Algebraic, Integrated


def convex_decay(initial: ScalarLike, norms: Any) -> Algebraic:
    """The decay of a convex energy at least like one over time, regularized or not.

    F(mu_t) - F(mu*) <= 1 / (1 / (F(mu_0) - F(mu*)) + t / W^2) along its Wasserstein flow, W = max_t norms.

    For F convex in mu, with the first variation V: a square loss, or another convex one, any potential, an
    entropy or porous-medium term. mu* is a minimizer, or any law with F(mu*) <= F(mu_t).

    - `initial`: F(mu_0) - F(mu*), of probability measures.
    - `norms` (S,): |mu* - mu_t| in dot-H^{-1}(mu_t) along the run, as `mf.observables.SobolevDistance(mu*)`
      records it: measured, so that the bound is one a posteriori; save often where they change.

    Convexity says E + R = int V d(mu_t - mu*) for E = F(mu_t) - F(mu*), with a remainder R >= 0, which for a
    squared loss with an entropy tau is 1/2 int (f_mu - f_mu*)^2 + tau KL(mu* | mu_t); the right side is at
    most the norm times |grad V| in L^2(mu_t). Hence dE/dt <= -(E + R)^2 / W^2: the inequality that footnote
    13 of the survey asks for, whose constant is 1 / W^2, without closeness to mu*. In the end E falls
    exponentially where tau > 0 (`entropy_decay`), and this bound is far from sharp.

    **Raises** `ValueError` for norms that are negative, NaN (a run that failed has none) or all zero (a run
    that began at mu*).

    Source: survey, 5.1, footnote 13; the argument is that of Theorem 5.1 of the VarPro paper.

    >>> float(convex_decay(1.0, jnp.array([0.5, 0.25]))(1.0))
    0.2
    """
    return Algebraic(initial, 1 / jnp.max(checked_norms(norms)) ** 2, "convexity")


def checked_norms(norms: Any):
    """Norms along a run as floats. **Raises** `ValueError` for negative ones, NaN, and zeros alone."""
    norms = as_floats(norms, "norms")
    if not is_traced(norms):
        if not np.all(np.asarray(norms) >= 0):
            raise ValueError("norms must be non-negative; a run that failed has none")
        if not np.any(norms):
            raise ValueError("norms are all zero: the run began at mu*, and nothing is left to bound")
    return norms


def tangent_decay(initial: ScalarLike, times: Any, kernels: Any, data_weights: Any = None) -> Integrated:
    """The exponential decay of a risk at the rate of the least eigenvalue of its tangent kernel.

    R(t) <= R(0) e^{-2 int_0^t kappa}, kappa the least eigenvalue of (sqrt(p_j p_k) K_jk).

    For the squared loss, R = sum_j p_j (F(x_j) - y_j)^2 / 2 and lam = 0: dR/dt = -sum_jk p_j e_j K_jk p_k e_k
    with e = F - y, a Polyak-Lojasiewicz inequality of constant 2 kappa.

    - `initial`: R(0). `times` (S,) from 0, `kernels` (S, N, N): those of a run, as
      `mf.observables.TangentKernel(x)` at the data records them.
    - `data_weights` p (N,): 1/N unless given.

    A bound a posteriori; between two saved times the smaller eigenvalue counts.

    **Raises** `ValueError` for kernels and weights of another shape, and weights that are negative.

    Source: thesis II.3.1, (II.15), and Corollary II.3.1, there for residual networks.

    >>> tangent_decay(1.0, [0.0, 1.0], jnp.stack([2 * jnp.eye(2)] * 2)).rates.round(6).tolist()
    [2.0, 2.0]
    """
    kernels = as_floats(kernels, "kernels")
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"kernels must be (S, N, N), those of one output, got {kernels.shape}")
    n = kernels.shape[1]
    p = jnp.full((n,), 1 / n) if data_weights is None else as_floats(data_weights, "data_weights")
    if p.shape != (n,):
        raise ValueError(f"data_weights must have shape ({n},), one for each datum, got {p.shape}")
    if not is_traced(p) and not np.all(np.asarray(p) >= 0):
        raise ValueError("data_weights must be non-negative")
    root = safe_sqrt(p.astype(kernels.dtype))
    least = jnp.linalg.eigvalsh(kernels * jnp.outer(root, root)[None])[:, 0]
    return Integrated(initial, times, 2 * jnp.maximum(least, 0), "tangent kernel")
