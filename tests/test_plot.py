"""Figures: labels, legends and bands show what they were given; nothing depends on global state."""

import io
import pickle
import subprocess
import sys

import matplotlib
import matplotlib.text
import numpy as np
import pytest

import mfjax as mf
from mfjax import plot

pytestmark = pytest.mark.core

CIRCLE, TORUS = mf.domains.Sphere(1), mf.domains.Torus(2, 4.0)
ANGLE = np.linspace(-np.pi, np.pi, 64, endpoint=False)


def axes(**options):
    """One panel."""
    return plot.figure(**options)[1][0, 0]


def legend_texts(ax):
    """What the legend says."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_import_needs_no_matplotlib():
    code = "import sys, mfjax, mfjax.plot; print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_global_state_and_pyplot_are_untouched():
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    fig, panels = plot.figure(1, 2)
    plot.distances(panels[0, 0], np.arange(1.0, 5), {"a": np.ones(4)}, step=0.5)
    plot.particles(panels[0, 1], np.eye(2), CIRCLE)
    fig.draw_without_rendering()
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert fig.canvas.manager is None


@pytest.mark.parametrize("again", [False, True], ids=["as made", "unpickled"])
def test_figures_show_themselves_at_their_size(again):
    """In a notebook, without pyplot: IPython asks for a picture and gets one of the whole figure."""
    from IPython.core.formatters import DisplayFormatter
    from PIL import Image

    fig, panels = plot.figure(width=3.0, height=2.0)
    plot.density(panels[0, 0], mf.measures.Grid.uniform(TORUS, 4), TORUS)
    if again:
        fig = pickle.loads(pickle.dumps(fig))
    data, about = DisplayFormatter().format(fig)
    assert about["image/png"] == {"width": 300, "height": 200}
    with Image.open(io.BytesIO(data["image/png"])) as image:
        assert image.size == (600, 400)
        # The axes, the map and the color bar: more than a blank page.
        assert len(image.convert("RGB").getcolors(2**20)) > 20
    assert fig._repr_png_().startswith(b"\x89PNG")
    assert fig.canvas.manager is None


def test_lines_without_a_color_take_those_of_the_palette():
    ax = axes()
    assert [ax.plot([0, 1])[0].get_color() for _ in plot.PALETTE] == list(plot.PALETTE)


def test_band_is_mean_and_range():
    values = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 8.0]])
    ax = axes()
    line = plot.band(ax, np.arange(3), values, label="two seeds")
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
    corners = ax.collections[0].get_paths()[0].vertices
    for x, low, high in zip(range(3), values.min(axis=0), values.max(axis=0), strict=True):
        heights = corners[corners[:, 0] == x, 1]
        assert heights.min() == low and heights.max() == high


def test_band_of_one_standard_deviation():
    values = np.array([[1.0, 1.0], [3.0, 1.0]])
    ax = axes()
    plot.band(ax, np.arange(2), values, spread="deviation")
    corners = ax.collections[0].get_paths()[0].vertices
    heights = corners[corners[:, 0] == 0, 1]
    np.testing.assert_allclose([heights.min(), heights.max()], [1.0, 3.0])


def test_failed_runs_are_left_out():
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    line = plot.band(axes(), np.arange(2), values)
    np.testing.assert_allclose(line.get_ydata(), [2.0, 2.0])


def test_one_run_has_no_band():
    ax = axes()
    plot.band(ax, np.arange(3), np.ones(3))
    assert not ax.collections


def test_distances_labels_scales_and_legend():
    ax = axes()
    times = np.array([0.0, 1.0, 10.0])
    plot.distances(
        ax, times, {"M = 32": np.ones((2, 3)), "M = 64": 0.5 * np.ones(3)}, ylabel="MMD", step=0.25
    )
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("flow time t", "MMD")
    assert legend_texts(ax) == ["M = 32", "M = 64"]
    assert len({line.get_color() for line in ax.lines}) == 2
    # t = 0 has no place on a logarithmic axis.
    assert all(line.get_xdata()[0] == 1.0 for line in ax.lines)
    (above,) = ax.child_axes
    assert above.get_xlabel() == "iterations k"
    ax.figure.draw_without_rendering()
    np.testing.assert_allclose(above.get_xlim(), np.array(ax.get_xlim()) / 0.25)


def test_distances_of_zero_are_part_of_the_mean():
    """Some runs may be at their target; where all are, nothing is drawn."""
    values = np.array([[1.0, 0.0, 0.0], [3.0, 1e-3, 0.0]])
    ax = plot.distances(axes(), np.arange(1.0, 4.0), {"a": values})
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2.0, 5e-4, np.nan])


def test_distances_on_a_linear_time_axis_keep_zero():
    ax = plot.distances(axes(), np.arange(3.0), {"a": np.ones(3)}, log_time=False)
    assert ax.lines[0].get_xdata()[0] == 0


@pytest.mark.parametrize("high", [1.3, 2.5, 4.0, 30.0, 1e4])
def test_logarithmic_axes_have_several_values(high):
    ax = plot.distances(axes(), np.arange(1.0, 3.0), {"a": np.array([1.0, high])})
    ax.figure.draw_without_rendering()
    low, top = ax.get_ylim()
    seen = [t.get_text() for t in ax.get_yticklabels() if low <= t.get_position()[1] <= top and t.get_text()]
    assert 3 <= len(set(seen)) <= 10


def test_panels_that_share_a_legend_have_none():
    ax = plot.distances(axes(), np.arange(3.0), {"a": np.ones(3)}, legend=False)
    assert ax.get_legend() is None


def test_legend_of_meanings():
    ax = axes()
    plot.legend(ax, [("biased f", {"linestyle": "--"}), ("unbiased f", {"color": "C3"})])
    assert legend_texts(ax) == ["biased f", "unbiased f"]
    assert ax.get_legend().get_lines()[0].get_linestyle() == "--"


@pytest.mark.parametrize("width", [plot.SINGLE, plot.DOUBLE])
def test_text_is_at_least_eight_points_when_saved(width, tmp_path):
    fig, panels = plot.figure(width=width)
    ax = panels[0, 0]
    over_time = (np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1), np.ones((2, 64)))
    plot.density(ax, over_time, CIRCLE, times=np.array([0.1, 1.0]))
    plot.time_axis(ax, step=0.1)
    plot.title(ax, "title")
    plot.legend(ax, [("a", {})])
    plot.save(fig, tmp_path / "a")
    texts = [t for t in fig.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
    assert len(texts) > 5
    assert min(t.get_fontsize() for t in texts) >= 8
    # Exponents of ten are set at 70 % within a label of full size; nothing is larger than the body text.
    assert max(t.get_fontsize() for t in texts) <= 9


def test_save_is_reproducible(tmp_path):
    def draw(stem):
        fig, panels = plot.figure()
        panels[0, 0].plot([0, 1], [0, 1])
        return [path.read_bytes() for path in plot.save(fig, tmp_path / "new" / stem)]

    first, second = draw("a"), draw("b")
    assert first == second
    assert first[0].startswith(b"\x89PNG") and first[1].startswith(b"%PDF")


def test_animation_has_all_frames(tmp_path):
    seen = []

    def draw(ax, i):
        seen.append(i)
        plot.particles(ax, np.array([[np.cos(i), np.sin(i)]]), CIRCLE)

    path = plot.animate(draw, 3, tmp_path / "new" / "a", width=1.5, height=1.0, dpi=80)
    assert path == tmp_path / "new" / "a.gif"
    assert pictures(path) == (3, (120, 80))
    assert seen == [0, 1, 2]


def pictures(path):
    """How many a GIF has, and how large they are."""
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "GIF"
        return image.n_frames, image.size


def test_animation_of_several_panels_does_not_gather_color_bars(tmp_path):
    rectangles = []

    def draw(panels, i):
        assert panels.shape == (1, 2)
        grid = mf.measures.Grid.from_density(TORUS, 4, lambda x: 1 + i + x[0])
        plot.density(panels[0, 0], grid, TORUS)
        plot.particles(panels[0, 1], np.array([[float(i), 0.5]]), TORUS)
        fig = panels[0, 0].figure
        fig.draw_without_rendering()
        rectangles.append([ax.get_position().bounds for ax in fig.axes])
        assert len(panels[0, 0].collections) == 1 and len(panels[0, 0].child_axes) == 1

    path = plot.animate(draw, 3, tmp_path / "a.gif", columns=2, width=3.0, height=1.5, dpi=50, sharey="row")
    assert pictures(path) == (3, (150, 75))
    assert len(rectangles[0]) == 2
    np.testing.assert_allclose(rectangles[0], rectangles[2])


def test_animation_of_a_figure_of_ones_own(tmp_path):
    fig, panels = plot.figure(2, 1, width=1.0, height=2.0)
    (line,) = panels[1, 0].plot([0, 1], [0, 0])

    def draw(given, i):
        assert given is fig
        line.set_ydata([0, i])

    assert pictures(plot.animate(draw, 2, tmp_path / "a.gif", fig=fig, dpi=50)) == (2, (50, 100))
    assert list(line.get_ydata()) == [0, 1]


LAYOUT = "fig has its own layout"
BAD_ANIMATIONS = {
    "film": (("a.mp4", {}), "animate writes .gif, got a.mp4"),
    "dpi": (("a", {"dpi": 0}), "dpi must be"),
    "rate": (("a", {"rate": -1}), "rate must be"),
    "rows": (("a", {"fig": "of one's own", "rows": 2}), LAYOUT),
    "options": (("a", {"fig": "of one's own", "sharex": True}), LAYOUT),
}


@pytest.mark.parametrize("case", BAD_ANIMATIONS)
def test_wrong_animations_are_refused_before_they_are_drawn(case, tmp_path):
    (name, options), message = BAD_ANIMATIONS[case]
    with pytest.raises(ValueError, match=message):
        plot.animate(lambda *_: pytest.fail("drawn"), 2, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


SPACE, PAIR = mf.domains.Euclidean(3), mf.domains.Signed(CIRCLE)
WRONG = {
    "band shape": (lambda ax: plot.band(ax, np.arange(3), np.ones((2, 4))), "values must have shape"),
    "band spread": (lambda ax: plot.band(ax, np.arange(3), np.ones(3), spread="x"), "spread must be one of"),
    "curve shape": (lambda ax: plot.distances(ax, np.arange(3), {"a": np.ones(4)}), "the curve 'a'"),
    "density shape": (lambda ax: plot.density(ax, (np.eye(2), np.ones(3)), CIRCLE), "the density must have"),
    "map shape": (
        lambda ax: plot.density(ax, (np.eye(2), np.ones((3, 2))), CIRCLE, times=np.ones(2)),
        "values must have shape",
    ),
    "points": (lambda ax: plot.particles(ax, np.ones((4, 3)), CIRCLE), r"points must have shape \(M, 2\)"),
    "dimension": (lambda ax: plot.particles(ax, np.ones((4, 3)), SPACE), "one or two dimensions"),
    "no ends": (lambda ax: plot.density(ax, lambda x: x[0], mf.domains.Euclidean(1)), "has no ends"),
    "extent": (lambda ax: plot.density(ax, lambda x: x[0], TORUS, extent=[(0, 1)]), "extent must hold 2"),
    "signed": (
        lambda ax: plot.density(ax, mf.measures.Grid.uniform(PAIR, 8), PAIR),
        "each species",
    ),
    "bandwidth": (
        lambda ax: plot.density(ax, mf.measures.Particles(np.zeros((2, 2))), TORUS),
        "pass a bandwidth",
    ),
    "bandwidth of a function": (
        lambda ax: plot.density(ax, lambda x: x[0], TORUS, bandwidth=0.1),
        "a bandwidth is for particles",
    ),
    "cells of a grid": (
        lambda ax: plot.density(ax, mf.measures.Grid.uniform(CIRCLE, 8), CIRCLE, cells=64),
        "cells are for functions and particles",
    ),
    "spread of a map": (
        lambda ax: plot.density(ax, lambda x: x[0], TORUS, spread="range"),
        "spread is that of lines",
    ),
    "spread over time": (
        lambda ax: plot.density(ax, (np.eye(2), np.ones((3, 2))), CIRCLE, times=np.ones(3), spread="range"),
        "spread is that of lines",
    ),
    "signal of pairs": (lambda ax: plot.signal(ax, lambda x: x), r"must give \(14641,\) values"),
    "cells": (lambda ax: plot.signal(ax, lambda x: x[:, 0], cells=1), "cells must be at least 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(axes())
