"""The figures of an experiment, drawn in order, with the certificates of all runs behind them."""

import time
from collections.abc import Mapping

from common.options import Settings
from common.records import Records
from mfjax import plot


class Gallery:
    """Draws the figures of one experiment: each is a method that returns it and what to look for."""

    def __init__(self, settings: Settings, records: Records | None = None):
        self.settings, self.preset = settings, settings.preset
        self.records = Records(settings) if records is None else records

    def draw(self, methods: Mapping[str, str]) -> None:
        """Draw the chosen figures, by the methods of these names, and report on all runs behind them."""
        for name in self.settings.figures:
            started = time.perf_counter()
            fig, look_for = getattr(self, methods[name])()
            stem = self.settings.out / "figures" / name
            plot.save(fig, stem)
            print(f"{name} ({time.perf_counter() - started:.1f} s, {stem}.png): {look_for}")
        self.report()
        if self.records.certificates:
            self.records.write_certificates()

    def report(self) -> None:
        """What is printed after the figures, before the certificates."""
