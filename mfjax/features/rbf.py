"""Radial features on a torus."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from mfjax._numerics.arrays import kind, safe_norm, scalar
from mfjax.domains import Domain
from mfjax.features.base import FeatureMap


class RBF(FeatureMap):
    """Radial features: functions of the distance between a particle and an input on a torus.

    phi(omega, x) = amplitude * profile(|[omega - x]| / scale), [.] the shortest vector on `torus`.

    `profile` is "laplace", exp(-r), or "gaussian", exp(-r^2 / 2). Thesis (III.50) is
    `RBF(Torus(2, 4.0), scale=2.0, amplitude=8.0)`; the public code uses scale 0.5.

    - omega, x (dim,) on `torus`; `scale` > 0 and `amplitude` are leaves, which may be swept.
    - Good values: a scale of a few spacings of the inputs, at most a tenth of the period.

    **Fails** to be smooth at half a period from omega, where the nearest image changes: the slope changes its
    sign, a jump of 2 e^{-period / (2 scale)} times its largest for "laplace". The "laplace" gradient is 0 at
    omega = x.

    **Raises** `ValueError` for other domains and profiles, scale <= 0, and measures on another torus.

    >>> import mfjax as mf
    >>> rbf = RBF(mf.domains.Torus(1), scale=0.2)
    >>> round(float(rbf(jnp.array([0.9]), jnp.array([0.1]))), 4)  # exp(-0.2 / 0.2)
    0.3679
    """

    torus: Domain
    scale: Float[Array, ""]
    amplitude: Float[Array, ""]
    profile: str = eqx.field(static=True)

    def __init__(
        self, torus: Domain, *, scale: ScalarLike, amplitude: ScalarLike = 1.0, profile: str = "laplace"
    ):
        if profile not in ("laplace", "gaussian"):
            raise ValueError(f"profile must be 'laplace' or 'gaussian', got {profile!r}")
        if not isinstance(torus, Domain) or torus.ambient != torus.dim:
            raise ValueError(f"torus must be a domains.Torus or another flat domain, got {kind(torus)}")
        self.torus = torus
        self.scale = scalar(scale, "scale", above=0)
        self.amplitude = scalar(amplitude, "amplitude")
        self.profile = profile

    def validate(self, points, domain=None):
        if domain is not None and not (domain.flat or self.torus.agrees(domain)):
            raise ValueError(
                f"these features take distances on {self.torus!r} and the measure moves on {domain!r}: "
                "pass it as torus="
            )

    def __call__(self, omega, x):
        vector = self.torus.displacement(omega, x) / self.scale.astype(omega.dtype)
        if self.profile == "laplace":
            value = jnp.exp(-safe_norm(vector))
        else:
            value = jnp.exp(-0.5 * jnp.sum(vector * vector))
        return self.amplitude.astype(omega.dtype) * value
