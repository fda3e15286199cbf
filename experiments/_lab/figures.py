"""The figures of an experiment, drawn in order, with the certificates of all runs behind them."""

import time
from collections.abc import Mapping

from _lab.cli import Settings
from _lab.records import Records
from mfjax import plot
from mfjax.theory.certificates import Identifiability


class Gallery:
    """Draws the figures of one experiment: each is a method that returns it and what to look for."""

    def __init__(self, settings: Settings):
        self.settings, self.preset = settings, settings.preset
        self.records = Records(settings)

    def draw(self, methods: Mapping[str, str]) -> None:
        """Draw the chosen figures, by the methods of these names, and report on all runs behind them."""
        for name in self.settings.figures:
            started = time.perf_counter()
            fig, look_for = getattr(self, methods[name])()
            stem = self.settings.out / "figures" / name
            plot.save(fig, stem)
            print(f"{name} ({time.perf_counter() - started:.1f} s, {stem}.png): {look_for}")
        self.report()
        for features, found in self.identify().items():
            print(f"identifiability of {features}: {'; '.join(found.report().splitlines())}")
        if self.records.certificates:
            self.records.write_certificates()

    def identify(self) -> dict[str, Identifiability]:
        """What each feature map or kernel of the experiment cannot see of a measure, by its name."""
        return {}

    def report(self) -> None:
        """Print what else there is to say after the figures."""
        return
