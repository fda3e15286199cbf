"""An experiment as a program: its options, its run directory, its work, and how it ends."""

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NoReturn

from common.directory import open_directory, write_configuration
from common.options import Refused, Settings, parse, refuse
from common.runtime import prepare_jax


def run(
    experiment: str,
    description: str,
    presets: dict[str, Any],
    figures: Mapping[str, str],
    gallery: str,
) -> None:
    """Draw the chosen figures by the gallery "module:Class"; every expected fault is one line, exit status 2.

    The module is imported after the options are checked and JAX is set up: it needs both.
    """
    settings = parse(experiment, description, presets, figures)
    program = f"{experiment}.py"
    signal.signal(signal.SIGINT, lambda *_: _stopped(program, settings, 130))
    try:
        open_directory(settings)
    except Refused as error:
        refuse(program, error)
    started = time.perf_counter()
    prepare_jax(settings)
    from mfjax import SimulationError
    from mfjax._engine.files import RunDirectoryError

    try:
        write_configuration(settings)
        module, name = gallery.split(":")
        getattr(import_module(module), name)(settings).draw(figures)
    except (RunDirectoryError, Refused) as error:
        refuse(program, error)
    except BrokenPipeError:
        # The reader of the output has gone.
        _stopped(program, settings, 141)
    except OSError as error:
        refuse(program, f"cannot write to --out {settings.out}: {error.strerror or error}")
    except SimulationError as error:
        refuse(program, f"{error}; what was computed until then is in {settings.out}")
    cpu = time.process_time()
    print(f"done in {time.perf_counter() - started:.0f} s ({cpu:.0f} s of CPU time): {settings.out}")


def _stopped(program: str, settings: Settings, status: int) -> NoReturn:
    # Every file is written aside and renamed, so leaving at once loses at most the unfinished chunk, while an
    # exception would first wait for all queued cells.
    words = [program, *_options(settings), "--resume"]
    sys.stderr.write(f"\ninterrupted; nothing is lost, continue with: python {' '.join(words)}\n")
    sys.stderr.flush()
    os._exit(status)


def _options(settings: Settings) -> Iterable[str]:
    yield from ("--preset", settings.preset_name, "--out", str(settings.out))
    yield from ("--figure", ",".join(settings.figures), "--seed", str(settings.seed))
    if hasattr(settings.preset, "seeds"):
        yield from ("--seeds", str(settings.preset.seeds))
    yield from ("--precision", settings.precision)
