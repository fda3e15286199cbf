"""A digest of a configuration, by which a run directory recognises its own run."""

from mfjax.fingerprint.digest import fingerprint as fingerprint
