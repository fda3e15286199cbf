"""Figures: labels, legends and bands show what they were given; nothing depends on global state."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

import mfjax as mf
from mfjax import plot

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
    plot.legend(ax)
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


def test_distances_on_a_linear_time_axis_keep_zero():
    ax = plot.distances(axes(), np.arange(3.0), {"a": np.ones(3)}, log_time=False)
    assert ax.lines[0].get_xdata()[0] == 0


def test_legend_of_meanings():
    ax = axes()
    plot.legend(ax, [("biased f", {"linestyle": "--"}), ("unbiased f", {"color": "C3"})])
    assert legend_texts(ax) == ["biased f", "unbiased f"]
    assert ax.get_legend().get_lines()[0].get_linestyle() == "--"


def test_densities_on_the_circle_are_lines_over_the_angle():
    ax = axes()
    shuffled = np.random.default_rng(0).permutation(ANGLE)
    points = np.stack([np.cos(shuffled), np.sin(shuffled)], axis=1)
    plot.density(ax, (points, np.cos(shuffled) + 1), CIRCLE, label="t = 0")
    plot.density(ax, mf.measures.Grid.uniform(CIRCLE, 64), CIRCLE, label="t = 1")
    plot.density(ax, lambda x: 1 + x[0], CIRCLE, label="target", linestyle=":")
    plot.legend(ax)
    assert legend_texts(ax) == ["t = 0", "t = 1", "target"]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.sort(ANGLE), atol=1e-12)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.cos(np.sort(ANGLE)) + 1, atol=1e-12)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 1 / (2 * np.pi))
    np.testing.assert_allclose(ax.lines[2].get_ydata(), 1 + np.cos(ax.lines[2].get_xdata()), atol=1e-12)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("angle [rad]", "density [1/rad]")
    np.testing.assert_allclose(ax.get_xlim(), (-np.pi, np.pi))


def test_the_mean_density_of_seeds_has_a_band():
    interval = mf.domains.Interval(0.0, 1.0)
    points = np.array([[0.75], [0.25]])
    ax = plot.density(axes(), (points, np.array([[1.0, 2.0], [3.0, 4.0]])), interval, spread="range")
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.25, 3.0], [0.75, 2.0]])
    assert len(ax.collections) == 1 and ax.get_xlabel() == "x" and ax.get_xlim() == (0, 1)


def test_a_density_over_time_is_a_map():
    fig, panels = plot.figure()
    grid = mf.measures.Grid.uniform(CIRCLE, 8)
    run = grid.with_weights(np.ones((3, 8)) / 8)
    plot.density(panels[0, 0], run, CIRCLE, times=np.array([0.1, 1.0, 10.0]))
    assert [ax.get_ylabel() for ax in fig.axes] == ["flow time t", "density [1/rad]"]


def test_a_density_of_two_dimensions_is_a_map_in_its_place():
    """Cell by cell, a closed axis begun elsewhere."""
    fig, panels = plot.figure()
    grid = mf.measures.Grid.from_density(TORUS, 4, lambda x: 1 + (x[0] > 3) + 2 * (x[1] > 3))
    plot.density(panels[0, 0], grid, TORUS, extent=2 * [(-2.0, 2.0)])
    mesh = panels[0, 0].collections[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[:, 0, 0], [-2, -1, 0, 1, 2], atol=1e-12)
    values = mesh.get_array().reshape(4, 4) * 16 / np.sum(mesh.get_array())
    assert np.argmax(values.sum(axis=1)) == np.argmax(values.sum(axis=0)) == 1
    assert (panels[0, 0].get_xlabel(), panels[0, 0].get_ylabel()) == ("x₁", "x₂")
    assert fig.axes[1].get_ylabel() == "density"


def test_the_map_of_the_sphere_shows_all_of_it():
    """The mass of a density on the map is one, and its peak is where the particle is."""
    sphere = mf.domains.Sphere(2)
    mu = mf.measures.Particles(np.array([[0.0, 0.6, 0.8]]))
    fig, panels = plot.figure()
    ax = panels[0, 0]
    plot.density(ax, mf.observables.KernelDensity(mu.points, 0.3, sphere).at(mu), sphere, cells=60)
    plot.particles(ax, mu, sphere)
    mesh = next(each for each in ax.collections if each.get_array() is not None)
    x, y = np.moveaxis(mesh.get_coordinates(), -1, 0)
    # Areas of the cells, by the diagonals of each.
    across = lambda z: (z[1:, 1:] - z[:-1, :-1], z[1:, :-1] - z[:-1, 1:])
    (a, b), (c, d) = across(x), across(y)
    area, values = 0.5 * np.abs(a * d - b * c), np.asarray(mesh.get_array()).reshape(60, 60)
    np.testing.assert_allclose(np.sum(area), 4 * np.pi, rtol=1e-2)
    np.testing.assert_allclose(np.sum(area * values), 1, rtol=1e-2)
    i, j = np.unravel_index(np.argmax(values), values.shape)
    (dot,) = ax.collections[-1].get_offsets()
    assert np.hypot(x[i, j] - dot[0], y[i, j] - dot[1]) < 0.2
    assert fig.axes[1].get_ylabel() == "density [1/sr]"
    assert {"30°", "−60°"} <= {text.get_text() for text in ax.texts}


def test_dots_on_the_circle_have_areas_of_masses_and_padding_is_invisible():
    ax = axes()
    points = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    mu = mf.measures.Particles(points, np.array([0.25, 0.75, 0.0]))
    plot.particles(ax, mu, CIRCLE, label="student")
    plot.legend(ax)
    dots = ax.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), points[:2])
    np.testing.assert_allclose(dots.get_sizes()[1] / dots.get_sizes()[0], 3)
    assert legend_texts(ax) == ["student"] and ax.get_aspect() == 1


def test_particles_of_a_torus_in_a_period_of_choice():
    ax = plot.particles(axes(), np.array([[3.0, 0.5]]), TORUS, extent=2 * [(-2, 2)], symbol="ω")
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[-1.0, 0.5]])
    assert ax.get_xlim() == (-2, 2) and ax.get_xlabel() == "ω₁"


def test_particles_of_a_line_stand_at_their_masses():
    mu = mf.measures.Particles(np.array([[0.5], [-1.0]]), np.array([0.25, 0.75]))
    ax = plot.particles(axes(), mu, mf.domains.Euclidean(1))
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[0.5, 0.25], [-1.0, 0.75]])
    assert ax.get_ylabel() == "mass"


def test_signal_is_the_function():
    fig, panels = plot.figure()
    plot.signal(panels[0, 0], lambda x: x[:, 0] + 10 * x[:, 1], extent=2.0, cells=5, label="Y")
    image = panels[0, 0].images[0].get_array()
    # Rows run along x2, upwards.
    assert image[0, 0] == -22 and image[0, -1] == -18 and image[-1, 0] == 18
    assert fig.axes[1].get_ylabel() == "Y"


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
    from PIL import Image

    seen = []

    def draw(ax, i):
        seen.append(i)
        plot.particles(ax, np.array([[np.cos(i), np.sin(i)]]), CIRCLE)

    path = plot.animate(draw, 3, tmp_path / "a.gif", width=1.5, height=1.5)
    with Image.open(path) as image:
        assert image.format == "GIF" and image.n_frames == 3
    assert seen == [0, 1, 2]


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
    "cells": (lambda ax: plot.signal(ax, lambda x: x[:, 0], cells=1), "cells must be at least 2"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(axes())
