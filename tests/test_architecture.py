"""The shape of the library: imports go one way, `import mfjax` is light, everything public is described."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mfjax as mf
from mfjax._versions import BROKEN, refuse_broken_jax

pytestmark = pytest.mark.core

ROOT = Path(mf.__file__).parent

# Each entry may import from those above it, and inside a folder from its own files without a cycle.
ORDER = [
    "status",
    "_versions",
    "_files",
    "_numerics",
    "domains",
    "measures",
    "features",
    "kernels",
    "losses",
    "regularizers",
    "outer",
    "energies",
    "grids",
    "flows",
    "steppers",
    "observables",
    "theory",
    "_results",
    "_engine",
    "simulate",
    "sweep",
    "plot",
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


# Concrete domains: elsewhere nobody asks for their classes, so that those of users work as well.
DOMAINS = {
    name
    for name, value in vars(mf.domains).items()
    if isinstance(value, type) and issubclass(value, mf.domains.Domain) and value is not mf.domains.Domain
}


def class_questions(path: Path) -> list[str]:
    """The lines of a file that ask for the class of a domain, or for attributes it happens to have."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        asked = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass") and len(node.args) == 2:
                asked = [node.args[1]]
            elif node.func.id in ("hasattr", "getattr") and "domain" in ast.unparse(node.args[0]).lower():
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            typed = any(
                (isinstance(side, ast.Call) and ast.unparse(side.func) == "type")
                or (isinstance(side, ast.Attribute) and side.attr in ("__class__", "__name__"))
                for side in sides
            )
            asked = sides if typed else []
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        names = {
            getattr(each, "id", getattr(each, "attr", getattr(each, "value", None)))
            for part in asked
            for each in ast.walk(part)
            if isinstance(each, ast.Name | ast.Attribute | ast.Constant)
        }
        if any(isinstance(name, str) and name in DOMAINS for name in names):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_nobody_asks_for_the_class_of_a_domain():
    outside = [path for path in FILES if path.relative_to(ROOT).parts[0] != "domains"]
    found = [line for path in outside for line in class_questions(path)]
    # A kernel of signed measures is one of the domain of which there are two copies.
    assert [line.split(":")[0] for line in found] == ["kernels/signed.py"], found


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


@pytest.mark.parametrize("version", ["0.7.2", "0.4.38"])
def test_releases_of_jax_that_are_too_old_are_refused_by_name(version):
    with pytest.raises(ImportError, match=f"needs jax 0.10.1 or newer, found {version}"):
        refuse_broken_jax(version)


SHORT_NAMES = ["VarPro paper", "thesis", "public code", "survey", "slides"]


def test_sources_that_docstrings_name_for_short_are_listed():
    listed = (ROOT.parent / "docs" / "sources.md").read_text()
    written = "\n".join(path.read_text() for path in ROOT.rglob("*.py"))
    assert [name for name in SHORT_NAMES if name in written and f'"{name}"' not in listed] == []
    numbers = set(re.findall(r"arXiv[: ]+(\d{4}\.\d{4,5})", written))
    assert numbers and sorted(number for number in numbers if number not in listed) == []


@pytest.mark.optimized
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


def public_names() -> dict[str, list[str]]:
    """The names that each public package of mfjax exports."""
    packages = [name for name in mf.__all__ if hasattr(getattr(mf, name), "__path__")]
    return {name: list(getattr(mf, name).__all__) for name in packages}


def test_the_root_shows_the_api_and_nothing_else():
    assert dir(mf) == mf.__all__ == sorted(mf.__all__)
    assert all(hasattr(mf, name) for name in mf.__all__)


@pytest.mark.parametrize("name", sorted(public_names()))
def test_packages_list_what_they_export(name):
    package = getattr(mf, name)
    assert all(hasattr(package, each) for each in package.__all__)
    # A function of the name of its file hides the file.
    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    modules = {n for n in package.__all__ if isinstance(getattr(package, n), type(sys))}
    assert not files & (set(package.__all__) - modules)
    # `help` begins with an index.
    assert [n for n in package.__all__ if f"`{n}`" not in package.__doc__] == []


def test_public_modules_list_their_names():
    """`help` shows what is meant for users, and no helper."""
    modules = [getattr(mf, name) for name in mf.__all__ if isinstance(getattr(mf, name), type(sys))]
    missing = [m.__name__ for m in modules if not hasattr(m, "__all__")]
    assert missing == []
    assert all(hasattr(m, name) for m in modules for name in m.__all__)
    # A user's energy may return any of the codes: each is listed, and has its message.
    codes = [name for name in mf.status.__all__ if isinstance(getattr(mf.status, name), int)]
    assert set(mf.status.MESSAGES) == {getattr(mf.status, name) for name in codes} - {mf.status.OWN}


def test_no_two_public_classes_have_one_name():
    owners: dict[str, set[type]] = {}
    for package, names in public_names().items():
        for name in names:
            value = getattr(getattr(mf, package), name)
            if isinstance(value, type):
                owners.setdefault(name, set()).add(value)
    for module in (mf.losses, mf.regularizers, mf.measures):
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and name[0] != "_":
                owners.setdefault(name, set()).add(value)
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}
    assert not [name for name in owners if not name[0].isupper()]


def described() -> dict[str, object]:
    """Every public class and function, by where its users find it."""
    found: dict[str, object] = {}
    for name in mf.__all__:
        value = getattr(mf, name)
        names = getattr(value, "__all__", None) or [n for n in vars(value) if n[0] != "_"]
        inside = [(f"{name}.{n}", getattr(value, n)) for n in names] if isinstance(value, type(sys)) else []
        for where, each in [(name, value), *inside]:
            if callable(each) and each.__module__.startswith("mfjax"):
                found[where] = each
    return found


@pytest.mark.parametrize("name", sorted(described()))
def test_a_plain_sentence_comes_before_the_formula(name):
    first = (described()[name].__doc__ or "").split("\n")[0]
    assert first[:1].isupper() or first[:1] == "`", f"mf.{name} begins with {first!r}"
    assert first[-1] in ".:", f"the first sentence on mf.{name} goes on after its first line: {first!r}"
    formula = [sign for sign in (" = ", "<-", "->", "<=", "d_t ", "sum_", "int ") if sign in first]
    assert not formula, f"mf.{name} begins with a formula, {first!r}: first say what it is for"
