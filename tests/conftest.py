"""Settings of the whole suite: double precision available, strict promotion, a fixed hypothesis profile."""

import hypothesis
import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "allow")

hypothesis.settings.register_profile(
    "mfjax",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mfjax")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions that a run may use."""
    return request.param
