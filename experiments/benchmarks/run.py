"""Benchmarks of mfjax beside plain baselines: a table, the requirements met or not, and a JSON file.

Each benchmark runs in a process of its own, whose peak memory is recorded; contenders take turns within it,
so that ratios survive a busy machine. NumPy, SciPy, PyTorch and XLA use all cores unless the environment
limits them (OPENBLAS_NUM_THREADS, OMP_NUM_THREADS; what is set is recorded).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

# The folder of the experiments instead of this one, whose names are too common to be modules.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from _lab.cli import refuse  # noqa: E402
from benchmarks.machine import description  # noqa: E402
from benchmarks.report import requirements, table  # noqa: E402

# The module and function of each benchmark, and whether it computes in double precision.
BENCHMARKS = {
    "roofline": ("roofline:run", False),
    "kernels-float32": ("kernels:run", False),
    "kernels-float64": ("kernels:run", True),
    "circle-float32": ("varpro:circle_steps", False),
    "circle-float64": ("varpro:circle_steps", True),
    "torus-float32": ("varpro:torus_steps", False),
    "timescale-float32": ("varpro:timescale_steps", False),
    "outputs": ("varpro:output_steps", False),
    "diffusion": ("diffusion:run", True),
    "energy-distance-float32": ("energy_distance:run", False),
    "energy-distance-float64": ("energy_distance:run", True),
    "sweep": ("sweeps:run", False),
    "scaling": ("scaling:run", False),
    "devices": ("devices:run", False),
    "start-up": ("startup:run", False),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, exit status 2."""
        refuse("run.py", message)


def options(arguments=None):
    """The checked options."""
    parser = _Parser(
        prog="run.py",
        description=f"{__doc__.splitlines()[0]} There are: {', '.join(BENCHMARKS)}.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--only",
        type=_names,
        action="append",
        metavar="NAMES",
        help="some, separated by commas; may be repeated",
    )
    add(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that everything runs; no requirement is judged",
    )
    add("--out", type=Path, metavar="FILE.json", help="default: results/latest.json beside this program")
    add(
        "--limit",
        type=float,
        default=1200.0,
        metavar="S",
        help="seconds for each benchmark (default %(default)g)",
    )
    # How the program calls itself.
    add("--child", choices=BENCHMARKS, help=argparse.SUPPRESS)
    add("--part", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    chosen = [name for names in given.only or [] for name in names]
    given.only = [name for name in BENCHMARKS if not chosen or name in chosen]
    if given.out is None:
        given.out = Path(__file__).parent / "results" / ("quick.json" if given.quick else "latest.json")
    return given


def _names(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in BENCHMARKS]
    if wrong or not names:
        known = ", ".join(BENCHMARKS)
        raise argparse.ArgumentTypeError(f"unknown benchmark {(wrong or [text])[0]!r}; there are {known}")
    return names


def child(name, quick):
    """Run one benchmark here and return what it found."""
    where, double = BENCHMARKS[name]
    import jax

    jax.config.update("jax_enable_x64", double)
    module, function = where.split(":")
    results = getattr(import_module(f"benchmarks.cases.{module}"), function)(quick)
    from benchmarks.harness import peak_memory

    judged = [] if quick else results.requirements
    return {"rows": results.rows, "requirements": judged, "peak_bytes": peak_memory()}


def in_process(name, quick, limit):
    """One benchmark in a process of its own; what fails is said and the others go on."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--child", name, "--out", str(out)] + ["--quick"] * quick
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"did not finish in {limit:g} s"}
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
        return json.loads(out.read_text()) | {"seconds": time.perf_counter() - start}


def write(path, content):
    """JSON without NaN, written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(content, indent=1, allow_nan=False, default=float) + "\n")
    aside.replace(path)


def main():
    """The whole suite."""
    given = options()
    if given.part:
        case, *arguments = given.part
        print(json.dumps(import_module(f"benchmarks.cases.{case}").one(*arguments)))
        return
    if given.child:
        write(given.out, child(given.child, given.quick))
        return
    content = {"quick": given.quick, "machine": description(), "benchmarks": {}}
    for name in given.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        content["benchmarks"][name] = in_process(name, given.quick, given.limit)
        write(given.out, content)
    content["machine"]["load_average_at_end"] = description()["load_average"]
    write(given.out, content)
    print(table(content["benchmarks"]))
    if bars := requirements(content["benchmarks"]):
        print(f"\n{bars}")
    print(f"\nwritten to {given.out}")
    if any("failed" in found for found in content["benchmarks"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
