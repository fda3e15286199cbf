"""Settings of the whole suite: double precision available, quick compilation, a fixed hypothesis profile."""

import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path

# XLA's remarks on the machines that programs were compiled for would bury a failing test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Small factorizations lose more to waking threads than they gain, the more so beside another worker.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import jaxlib
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

# In JAX 0.10 the older code generator compiles these tests in a third less time, and two workers have no
# threads to spare for the pieces of a program. Later releases have none, and XLA ends the process at an
# option that it does not know. XLA_FLAGS="" keeps the default one.
if jaxlib.__version__.startswith("0.10."):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", quick)

hypothesis.settings.register_profile(
    "mfjax",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mfjax")

# Programs that the workers of one session compile, shared among them and removed at its end.
SHARED = "MFJAX_TEST_PROGRAMS"


def pytest_configure(config):
    config.pluginmanager.register(BoundedMemory())
    # Python's own collections look at all that JAX keeps, again and again: `BoundedMemory` collects instead.
    gc.disable()
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="mfjax-programs-")
    jax.config.update("jax_compilation_cache_dir", os.environ[SHARED])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # Most problems are small, and compiling them takes a hundred times longer than running them.
    quick = item.get_closest_marker("optimized") is None
    if jax.config.read("jax_disable_most_optimizations") != quick:
        # No cache asks how a program was compiled.
        forget()
    jax.config.update("jax_disable_most_optimizations", quick)
    # Checks of annotations take time: the core tests, which call every part, and the slow ones make them,
    # except where a call is wrong on purpose. There our own message counts.
    marked = lambda name: item.get_closest_marker(name) is not None
    checks = (marked("core") or marked("slow")) and not marked("wrong_calls")
    jaxtyping.config.update("jaxtyping_disable", not checks)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    # Those that are compiled as for a user come last: a change of the kind of compilation drops all programs.
    items.sort(key=lambda item: item.get_closest_marker("optimized") is not None)
    for item in items:
        # Examples are short, and name every part.
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.core)
        if any(item.callspec.id in marker.args for marker in item.iter_markers("slow_cases")):
            item.add_marker(pytest.mark.slow)
    if not any("::" in argument for argument in config.args):
        check_slow_cases(items)


def check_slow_cases(items):
    """A name in `slow_cases` is that of a case."""
    cases = [item for item in items if hasattr(item, "callspec")]
    known = {(item.function, item.callspec.id) for item in cases}
    named = {
        (item.function, name)
        for item in cases
        for mark in item.iter_markers("slow_cases")
        for name in mark.args
    }
    for function, name in named - known:
        # Workers of xdist report no other kind of error at this place.
        raise ValueError(f"{function.__name__} has no case {name!r} to be slow")


# What a worker may keep between two tests. Bytes: two workers and what a test takes fit into a small machine.
# Memory maps: each compiled program holds some, and Linux allows a process 65,530.
KEPT, MAPPED = 1.5e9, 30_000


class BoundedMemory:
    """A plugin, since examples of the package do not lie below this file."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self):
        """Programs are dropped, and their memory given back, once a worker holds too much."""
        if resident() > KEPT or maps() > MAPPED:
            forget()
            give_back()


def resident():
    """Bytes of this process in memory; zero where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def maps():
    """Memory maps of this process; zero where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


def give_back():
    """Free what nothing refers to: compilers leave it in pieces, which the allocator of Linux keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def forget():
    """Drop all compiled programs."""
    # Not above: annotations are checked in what is imported once pytest is set up.
    from mfjax._numerics import compiled

    compiled.clear()
    jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions that a run may use."""
    return request.param
