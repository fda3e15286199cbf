"""A digest of a configuration, by which a run directory recognizes its own run."""

from mfjax._engine.fingerprint.digest import fingerprint

__all__ = [
    "fingerprint",
]
