"""What a user sees of a run while it goes on: a bar, and how to go on after an interrupt."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

# Called with the share of a run that has been made since the last call.
Update = Callable[[float], None]


class Progress:
    """A bar over `total` units, flow time or cells, which may be hidden; threads may share one."""

    def __init__(self, bar: Any = None):
        self._bar, self._lock = bar, Lock()
        self.done = 0.0

    def compiling(self, what: str = "mfjax") -> None:
        """Say that what follows begins with its compilation."""
        if self._bar is not None:
            self._what = what
            self._bar.set_description(f"{what}: compiling")

    def of(self, size: int | float) -> Update:
        """The function that a run which is worth `size` units reports to."""

        def update(share: float) -> None:
            with self._lock:
                self.done += share * size
                if self._bar is None or not share:
                    return
                self._bar.set_description(self._what, refresh=False)
                # The sum of shares ends a rounding beyond the total.
                self._bar.n = min(self.done, self._bar.total)
                self._bar.refresh()

        return update


@contextmanager
def progress(
    shown: bool | None, total: int | float, unit: str, again: str | None = None
) -> Iterator[Progress]:
    """A bar on a terminal, or as `shown` says; an interrupt says how far it came, and how to go on.

    `again` is what continues it, if anything does.
    """
    bar = None
    if sys.stderr.isatty() if shown is None else shown:
        from tqdm import tqdm

        form = "{desc}{percentage:3.0f}%|{bar}| {n:.4g} of {total:.4g} {unit} [{elapsed}<{remaining}]"
        bar = tqdm(total=total, desc="mfjax", unit=unit, leave=False, bar_format=form)
    made = Progress(bar)
    made.compiling()
    try:
        yield made
    except KeyboardInterrupt:
        on = "nothing was kept: pass path= to be able to go on" if again is None else again
        raise KeyboardInterrupt(f"after {made.done:.4g} of {total:.4g} {unit}; {on}") from None
    finally:
        if bar is not None:
            bar.close()
