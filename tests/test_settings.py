"""Settings of JAX that the experiments ask for, on releases that know them and on those that do not."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jaxlib
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("version", "asked"), [("0.10.1", True), ("0.11.2", False), ("0.12.0.1", False)])
def test_an_option_that_ends_the_process_is_not_asked_for(version, asked, monkeypatch, tmp_path):
    """XLA ends the process, without a word, at an option that it does not know."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path])
    from _lab.jax_settings import prepare_jax

    monkeypatch.setattr(jaxlib, "__version__", version)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    # What is set first is undone afterwards, also where nothing was there before.
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("XLA_FLAGS")
    prepare_jax(SimpleNamespace(quick_compilation=True, precision="float64"))
    assert ("fusion_emitters" in os.environ.get("XLA_FLAGS", "")) == asked
