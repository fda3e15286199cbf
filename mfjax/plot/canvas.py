"""What every figure needs: style, colors, titles, legends, color bars, and a file to go to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

Numbers = Array | np.ndarray
# Okabe and Ito's colors, told apart by all common forms of color vision; yellow, faint as a line, last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "lines.linewidth": 1.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": f"cycler('color', {list(PALETTE)})",
    "mathtext.fontset": "dejavusans",
}


def save(fig: Any, stem: str | Path) -> tuple[Path, Path]:
    """Write `fig` as `stem`.png (200 dots per inch) and `stem`.pdf; folders are made as needed.

    The files are the same, byte for byte, for the same figure. An ending .png or .pdf is no part of the stem.

    **Raises** `ValueError` for the ending of another kind of picture.
    """
    import matplotlib

    stem = Path(stem)
    if stem.suffix.lower() in (".svg", ".jpg", ".jpeg", ".eps", ".ps", ".tif", ".tiff", ".webp", ".gif"):
        raise ValueError(f"save writes .png and .pdf, got {stem.name}: use fig.savefig")
    if stem.suffix.lower() in (".png", ".pdf"):
        stem = stem.with_suffix("")
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):
        fig.savefig(png, dpi=200, metadata={"Software": None})
        fig.savefig(pdf, metadata={"CreationDate": None})
    return png, pdf


def check_axes(ax: Any) -> None:
    """**Raises** `ValueError` unless `ax` is the axes of one panel."""
    if not hasattr(ax, "transData"):
        got = f"an array of shape {ax.shape}" if isinstance(ax, np.ndarray) else type(ax).__name__
        raise ValueError(f"ax must be the axes of one panel, such as axes[0, 0], got {got}")


def color(index: int) -> str:
    """The color of series number `index`; they repeat after eight."""
    return PALETTE[index % len(PALETTE)]


def shade(index: int, total: int) -> Any:
    """Color number `index` of `total` of an ordered family, dark blue to yellow-green, readable in gray."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.9 * index / max(total - 1, 1))


def title(ax: Any, text: str) -> None:
    """A title in the size of the labels."""
    ax.set_title(text, fontsize=STYLE["axes.titlesize"])


def legend(ax: Any, entries: Sequence[tuple[str, Mapping[str, Any]]] | None = None, **options: Any) -> Any:
    """The legend of `ax`; or one of `entries`, (label, line properties), for what color and dash mean.

    >>> import mfjax as mf
    >>> _, axes = mf.plot.figure()
    >>> [text.get_text() for text in legend(axes[0, 0], [("biased", {"linestyle": "--"})]).get_texts()]
    ['biased']
    """
    from matplotlib.lines import Line2D

    options = {"frameon": False, "fontsize": STYLE["legend.fontsize"], "handlelength": 1.7} | options
    if entries is None:
        return ax.legend(**options)
    styled = lambda line: dict[str, Any]({"color": "0.3"} | dict(line))
    handles = [Line2D([], [], label=label, **styled(line)) for label, line in entries]
    return ax.legend(handles=handles, **options)


def colorbar(ax: Any, image: Any, label: str) -> None:
    """A color bar beside `ax`, as high as it, and gone when it is cleared."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        bar = ax.inset_axes((1.05, 0, 0.05, 1))
        bar.set_axes_locator(Beside(ax))
        ax.figure.colorbar(image, cax=bar, label=label)


class Beside:
    """Where a color bar is: right of `ax`, and of one thickness whatever the shape of `ax`."""

    def __init__(self, ax: Any):
        self.ax = ax

    def __call__(self, bar: Any, renderer: Any) -> Any:
        from matplotlib.transforms import Bbox

        place, inch = self.ax.get_position(), 1 / self.ax.figure.get_size_inches()[0]
        return Bbox.from_bounds(place.x1 + 0.08 * inch, place.y0, 0.1 * inch, place.height)
