"""A figure that notebooks show. This file alone imports matplotlib at once; it is imported on first use."""

from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from mfjax.plot.canvas import STYLE


class ShownFigure(Figure):
    """A figure that shows itself in notebooks, at its size in inches, without `pyplot` or a display."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        with matplotlib.rc_context(STYLE):
            self.savefig(file, format="png", dpi=200)
        return file.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Twice the pixels of its place on the page: sharp on fine screens.
        width, height = (round(100 * inches) for inches in self.get_size_inches())
        return {"image/png": self._repr_png_()}, {"image/png": {"width": width, "height": height}}
