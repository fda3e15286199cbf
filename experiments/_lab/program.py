"""An experiment as a program: its options, its run directory, its work, and how it ends."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from _lab.cli import Refused, Settings, parse, refuse
from _lab.jax_settings import prepare_jax


def run(main: str, question: str, presets: Mapping[str, Any], figures: Collection[str]) -> None:
    """Draw the chosen figures of the folder of `main`; every expected fault is one line, exit status 2.

    `figures.py` there, imported after the options are checked and JAX is set up, has a class `Figures`. A
    figure is drawn by its method of that name, or of the one that a mapping gives.
    """
    experiment = Path(main).resolve().parent.name
    settings = parse(experiment, question, presets, figures)
    program = settings.program
    signal.signal(signal.SIGINT, lambda *_: _stopped(130))
    started = time.perf_counter()
    prepare_jax(settings.preset)
    from mfjax import SimulationError
    from mfjax._engine.directory import RunDirectoryError

    try:
        # What it reads is checked before there is a directory.
        gallery = import_module(f"{experiment}.figures").Figures(settings)
        with claim(settings):
            gallery.draw(methods(figures))
    except Refused as error:
        refuse(program, error)
    except RunDirectoryError as error:
        refuse(program, str(error).replace("pass resume=True", "add --resume"))
    except BrokenPipeError:
        # The reader of the output has gone.
        _stopped(141)
    except OSError as error:
        refuse(program, f"cannot write to --out {settings.out}: {error.strerror or error}")
    except SimulationError as error:
        refuse(program, f"{error}; what was computed until then is in {settings.out}")
    cpu = time.process_time()
    print(f"done in {time.perf_counter() - started:.0f} s ({cpu:.0f} s of CPU time): {settings.out}")


def methods(figures: Collection[str]) -> dict[str, str]:
    """The method that draws each figure.

    >>> methods(["vanishing-noise"]), methods({"III.1": "teachers"})
    ({'vanishing-noise': 'vanishing_noise'}, {'III.1': 'teachers'})
    """
    named = figures if isinstance(figures, Mapping) else {}
    return {name: named.get(name, name.replace("-", "_")) for name in figures}


def claim(settings: Settings) -> Any:
    """The run directory, made or known to be of the same run, and locked until it is left.

    Its manifest is the record of the run: the value of every setting, and the versions of the first call.

    **Raises** `RunDirectoryError` before anything is changed.
    """
    from importlib.metadata import version

    from mfjax._engine.directory import Directory, RunDirectoryError, environment

    directory, out = Directory(settings.out), settings.out
    known = directory.check(settings.identity, settings.resume)
    # Hidden files may be what a kill left before the manifest.
    if known is None and out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise RunDirectoryError(f"{out} is not empty and holds no run of an experiment: use another path")
    packages = {name: version(name) for name in ("matplotlib", "scipy", "xarray")}
    directory.claim(settings.identity | {"versions": environment() | packages})
    return directory


def _stopped(status: int) -> NoReturn:
    # Every file is written aside and renamed, so leaving at once loses at most the unfinished chunk, while an
    # exception would first wait for all queued cells.
    words = [word for word in sys.argv if word != "--resume"]
    command = shlex.join(["python", *words, "--resume"])
    sys.stderr.write(f"\ninterrupted; nothing is lost, continue with: {command}\n")
    sys.stderr.flush()
    os._exit(status)
