"""Precision, compilation cache and threads of JAX: the one place where global configuration is set."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def prepare_jax(preset: Any) -> None:
    """What must be set before the first array is made: `precision` and `quick_compilation` of a preset."""
    # Small factorizations lose more to waking threads than they gain; cells run side by side instead.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax
    import jaxlib

    # In JAX 0.10 the older code generator compiles in a third less time. Later releases have none, and XLA
    # ends the process at an option that it does not know.
    if getattr(preset, "quick_compilation", False) and jaxlib.__version__.startswith("0.10."):
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    jax.config.update("jax_enable_x64", getattr(preset, "precision", "float32") == "float64")
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(root) / "mfjax" / "compiled"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(cache, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@contextmanager
def double_precision() -> Iterator[None]:
    """float64 for what needs it whatever the precision of the particle runs, in every thread."""
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
