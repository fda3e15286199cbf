"""The shape of the library: imports go one way, `import mfjax` is light, everything public is described."""

import ast
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mfjax as mf
from mfjax._versions import BROKEN, refuse_broken_jax

ROOT = Path(mf.__file__).parent

# Each entry may import from those above it, and inside a folder from its own files without a cycle.
ORDER = [
    "status",
    "_arrays",
    "_linalg",
    "_closures",
    "_loops",
    "_versions",
    "placement",
    "fingerprint",
    "domains",
    "sums",
    "kernels",
    "measures",
    "evaluation",
    "operators",
    "features",
    "regularizers",
    "losses",
    "outer",
    "energies",
    "compression",
    "grids",
    "gibbs",
    "flows",
    "steppers",
    "observables",
    "certificates",
    "linearize",
    "bounds",
    "minimizer",
    "io",
    "run",
    "simulation",
    "transition",
    "pieces",
    "simulate",
    "driver",
    "table",
    "layouts",
    "sweep",
    "plot",
    "teachers",
    "problems",
    "testing",
]

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The modules of mfjax that a file imports anywhere, lazily too, as dotted names below mfjax."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("mfjax.") for alias in node.names if alias.name.startswith("mfjax.")
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mfjax":
            base = node.module.removeprefix("mfjax").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else base)
    return {name for name in found if name}


def test_every_module_has_its_place():
    top = {name.split(".")[0] for name in MODULES if name}
    assert top == set(ORDER), f"ORDER and the modules differ by {sorted(top ^ set(ORDER))}"
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_go_one_way(name):
    top = name.split(".")[0]
    for other in imports_of(MODULES[name]):
        below = other.split(".")[0]
        assert ORDER.index(below) <= ORDER.index(top), f"{name} imports {other}, which comes after it"


def test_no_cycles_between_files():
    graph = {
        name: {other for other in imports_of(path) if other != name}
        for name, path in MODULES.items()
        # The files that re-export a folder or the package import everything in it by design.
        if path.name != "__init__.py"
    }
    done: set[str] = set()
    while ready := {n for n, needs in graph.items() if n not in done and not (needs & graph.keys()) - done}:
        done |= ready
    assert done == set(graph), f"a cycle among {sorted(set(graph) - done)}"


HEAVY = [
    "matplotlib",
    "xarray",
    "pandas",
    "optax",
    "diffrax",
    "optimistix",
    "lineax",
    "chex",
    "tqdm",
    "IPython",
    "scipy.optimize",
    "scipy.stats",
    "scipy.integrate",
    "netCDF4",
    "hypothesis",
    "ot",
    "mfjax.testing",
]


def test_importing_is_light_and_leaves_jax_alone():
    program = f"""
import sys, jax
before = dict(jax.config.values)
import mfjax
# equinox adds options of its own; none that was there may change.
after = {{name: jax.config.values[name] for name in before}}
assert after == before, "import mfjax changed the configuration of JAX"
assert not jax._src.xla_bridge._backends, "import mfjax started a backend"
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"import mfjax also imports {done.stdout.strip()}"


@pytest.mark.parametrize("version", BROKEN)
def test_broken_releases_of_jax_are_refused_by_name(version, monkeypatch):
    with pytest.raises(ImportError, match=version):
        refuse_broken_jax(version)
    monkeypatch.setattr(jax, "__version__", version)
    with pytest.raises(ImportError, match=f"refuses jax {version}"):
        refuse_broken_jax()
    requirement = (ROOT.parent / "pyproject.toml").read_text()
    assert requirement.count(f"!={version}") >= 2


@pytest.mark.optimised
@pytest.mark.parametrize(("dtype", "rows"), [("float64", 16_385), ("float32", 32_769)])
def test_products_of_a_long_batch_are_right(dtype, rows):
    """The wrong numbers of JAX 0.10.2 (jax-ml/jax#39103): rows at the end of a batch lose their product."""
    first = jnp.arange(rows, dtype=dtype)
    batch, unit = first[:, None] * jnp.eye(1, 3, dtype=dtype), jnp.eye(3, dtype=dtype)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((unit @ row) ** 2)))(batch)
    np.testing.assert_array_equal(squares, first**2)


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_described(name):
    tree = ast.parse(MODULES[name].read_text())
    assert ast.get_docstring(tree), f"mfjax.{name} has no docstring"
    kinds = (ast.FunctionDef, ast.ClassDef)
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare, f"mfjax.{name}: no docstring on {bare}"


def test_no_placeholders():
    for path in FILES:
        assert "placeholder" not in path.read_text().lower(), path
