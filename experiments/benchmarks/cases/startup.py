"""Seconds until a program that uses mfjax can begin."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Contender, Results, race

SPHERE = Path(__file__).resolve().parents[2] / "sphere"


def process(*arguments):
    """A call that starts Python and waits for it; bytecode is kept, as an installed package has it."""
    command = [sys.executable, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def run(quick=False):
    """`import mfjax` beyond what it needs, and the help of an experiment, as medians of processes."""
    results = Results()
    contenders = [
        Contender("import jax, equinox", process("-c", "import jax, equinox")),
        Contender("import mfjax", process("-c", "import jax, equinox, mfjax")),
        Contender("sphere --help", process(SPHERE, "--help")),
    ]
    times = race(contenders, 3 if quick else 11)
    for name, seconds in times.items():
        results.add("start-up", name, seconds)
    if quick:
        return results
    beyond = times["import mfjax"].median - times["import jax, equinox"].median
    results.require("import mfjax beyond import jax, equinox: seconds", beyond, 0.3, least=False)
    results.require("sphere --help: seconds", times["sphere --help"].median, 1.0, least=False)
    return results
