"""The run directory: whose it is, and with what it was made."""

import json
import os
from pathlib import Path

from common.options import Refused, Settings

CONFIGURATION = "config.json"


def open_directory(settings: Settings) -> None:
    """Make the run directory, or check that it is one of the same run.

    **Raises** `Refused` before anything is changed.
    """
    out, stored = settings.out, settings.out / CONFIGURATION
    try:
        if out.exists() and not out.is_dir():
            raise Refused(f"--out {out} is a file, not a directory")
        if stored.exists():
            _check_same(settings, stored)
        elif out.exists() and any(out.iterdir()):
            raise Refused(
                f"--out {out} is not empty and holds no run of an experiment; choose another directory"
            )
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Refused(f"cannot write to --out {out}: {error.strerror}") from error


def _check_same(settings: Settings, stored: Path) -> None:
    if not settings.resume:
        raise Refused(
            f"--out {settings.out} already holds a run; add --resume to continue it, or choose another --out"
        )
    try:
        there = json.loads(stored.read_text())
        there = {name: there[name] for name in settings.identity}
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{stored} is not the configuration of an experiment; choose another --out") from None
    for name, here in settings.identity.items():
        if there[name] == here:
            continue
        if name == "settings":
            raise Refused(
                f"--out {settings.out} holds a run of preset {settings.preset_name!r} with other "
                "settings; choose another --out"
            )
        raise Refused(
            f"--out {settings.out} holds another run: {name} is {there[name]!r} there and {here!r} here; "
            "choose another --out"
        )


def write_configuration(settings: Settings) -> None:
    """config.json and versions.json. The first call of a directory writes them, a resumed one leaves them."""
    from importlib.metadata import version

    from mfjax._engine.files import environment, write_json

    if not (settings.out / "versions.json").exists():
        packages = {name: version(name) for name in ("matplotlib", "scipy", "xarray")}
        write_json(settings.out / "versions.json", environment() | packages)
    if not (settings.out / CONFIGURATION).exists():
        write_json(settings.out / CONFIGURATION, settings.identity)
