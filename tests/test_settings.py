"""Settings: of JAX, that the experiments ask for on releases that know them; and of these tests."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jaxlib
import jaxtyping
import pytest

from mfjax._engine.host import chunk_of

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


def is_checked():
    """Whether a wrong argument is met by its annotation."""
    with pytest.raises(Exception) as caught:
        chunk_of("16")
    return isinstance(caught.value, jaxtyping.TypeCheckError)


@pytest.mark.core
def test_the_core_checks_annotations():
    assert is_checked()


@pytest.mark.slow
def test_slow_tests_check_annotations():
    assert is_checked()


@pytest.mark.core
@pytest.mark.wrong_calls
def test_wrong_calls_meet_our_own_messages():
    assert not is_checked()
