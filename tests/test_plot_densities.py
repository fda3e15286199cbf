"""Figures of densities and particles: what is drawn is what was given, in its place, with its units."""

import jax.random as jr
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


def bar_label(ax):
    """What the color bar says."""
    (bar,) = ax.child_axes
    return bar.get_ylabel()


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
    _, panels = plot.figure()
    grid = mf.measures.Grid.uniform(CIRCLE, 8)
    run = grid.with_weights(np.ones((3, 8)) / 8)
    plot.density(panels[0, 0], run, CIRCLE, times=np.array([0.1, 1.0, 10.0]))
    assert panels[0, 0].get_ylabel() == "flow time t"
    assert bar_label(panels[0, 0]) == "density [1/rad]"


def test_a_density_of_two_dimensions_is_a_map_in_its_place():
    """Cell by cell, a closed axis begun elsewhere."""
    _, panels = plot.figure()
    grid = mf.measures.Grid.from_density(TORUS, 4, lambda x: 1 + (x[0] > 3) + 2 * (x[1] > 3))
    plot.density(panels[0, 0], grid, TORUS, extent=2 * [(-2.0, 2.0)])
    mesh = panels[0, 0].collections[0]
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[:, 0, 0], [-2, -1, 0, 1, 2], atol=1e-12)
    values = mesh.get_array().reshape(4, 4) * 16 / np.sum(mesh.get_array())
    assert np.argmax(values.sum(axis=1)) == np.argmax(values.sum(axis=0)) == 1
    assert (panels[0, 0].get_xlabel(), panels[0, 0].get_ylabel()) == ("x₁", "x₂")
    assert bar_label(panels[0, 0]) == "density"


def test_the_map_of_the_sphere_shows_all_of_it():
    """The mass of a density on the map is one, and its peak is where the particle is."""
    sphere = mf.domains.Sphere(2)
    mu = mf.measures.Particles(np.array([[0.0, 0.6, 0.8]]))
    _, panels = plot.figure()
    ax = panels[0, 0]
    plot.density(ax, mf.observables.KernelDensity(mu.points, 0.3, sphere).at(mu), sphere, cells=60)
    plot.particles(ax, mu, sphere)
    mesh = next(each for each in ax.collections if each.get_array() is not None)
    x, y = np.moveaxis(mesh.get_coordinates(), -1, 0)
    area, values = cell_areas(mesh), np.asarray(mesh.get_array()).reshape(60, 60)
    np.testing.assert_allclose(np.sum(area), 4 * np.pi, rtol=1e-2)
    np.testing.assert_allclose(np.sum(area * values), 1, rtol=1e-2)
    i, j = np.unravel_index(np.argmax(values), values.shape)
    (dot,) = ax.collections[-1].get_offsets()
    assert np.hypot(x[i, j] - dot[0], y[i, j] - dot[1]) < 0.2
    assert bar_label(ax) == "density [1/sr]"
    assert {"30°", "−60°"} <= {text.get_text() for text in ax.texts}


MILLIMETERS = {"symbol": "z [mm]"}
DRAWN = {
    "interval": (mf.domains.Interval(0.0, 1.0), {}, "x", "density", "density"),
    "circle": (CIRCLE, {}, "angle [rad]", "density [1/rad]", "density [1/rad]"),
    "1-torus": (mf.domains.Torus(1, 4.0), MILLIMETERS, "z [mm]", "density [1/mm]", None),
    "2-torus": (TORUS, MILLIMETERS, "z₁ [mm]", "z₂ [mm]", "density [1/mm²]"),
    "line": (mf.domains.Euclidean(1), {}, "x", "density", None),
    "plane": (mf.domains.Euclidean(2), {}, "x₁", "x₂", "density"),
    "box": (mf.domains.Box([0.0, -1.0], [2.0, 1.0]), MILLIMETERS, "z₁ [mm]", "z₂ [mm]", "density [1/mm²]"),
    "sphere": (mf.domains.Sphere(2), {}, "longitude, −180° to 180°", "latitude", "density [1/sr]"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_estimates_are_drawn_on_all_domains(name):
    """Of mass one in what is shown, with the units of the coordinates."""
    domain, options, across, up, bar = DRAWN[name]
    mu = mf.measures.Particles.sample(domain, jr.key(0), 20)
    ax = plot.density(axes(), mu, domain, bandwidth=0.2, cells=48, **options)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (across, up)
    if domain.dim == 1:
        x, values = ax.lines[0].get_data()
        mass = np.sum(values) * (x[1] - x[0])
    else:
        assert bar_label(ax) == bar
        mesh = ax.collections[0]
        mass = np.sum(cell_areas(mesh) * mesh.get_array().reshape(48, 48))
    assert mass == pytest.approx(1, abs=0.02)


def cell_areas(mesh):
    """Areas of the cells of a map, by the diagonals of each."""
    x, y = np.moveaxis(mesh.get_coordinates(), -1, 0)
    across = lambda z: (z[1:, 1:] - z[:-1, :-1], z[1:, :-1] - z[:-1, 1:])
    (a, b), (c, d) = across(x), across(y)
    return 0.5 * np.abs(a * d - b * c)


@pytest.mark.parametrize("sides, aspect", [((2.0, 1.0), 1), ((10.0, 1.0), "auto"), ((1.0, 10.0), "auto")])
def test_boxes_are_drawn_to_scale_unless_they_are_strips(sides, aspect):
    box = mf.domains.Box([0.0, 0.0], sides)
    ax = plot.density(axes(), mf.measures.Grid.uniform(box, 4), box)
    assert ax.get_aspect() == aspect


def test_a_color_bar_is_as_high_as_its_map():
    fig, panels = plot.figure(1, 2)
    for ax, domain in zip(panels[0], (mf.domains.Box([0.0, 0.0], [3.0, 1.0]), TORUS), strict=True):
        plot.density(ax, mf.measures.Grid.uniform(domain, 4), domain)
    fig.draw_without_rendering()
    for ax in panels[0]:
        place, bar = (each.get_position() for each in (ax, *ax.child_axes))
        assert (bar.y0, bar.y1) == pytest.approx((place.y0, place.y1)) and bar.x0 > place.x1
        text = ax.child_axes[0].get_tightbbox().transformed(fig.transFigure.inverted())
        # Within the page, and before the next panel.
        assert text.x1 < (panels[0, 1].get_tightbbox().x0 / fig.bbox.x1 if ax is panels[0, 0] else 1)


def test_colors_may_follow_a_norm():
    from matplotlib.colors import LogNorm

    ax = plot.density(axes(), mf.measures.Grid.uniform(TORUS, 4), TORUS, norm=LogNorm())
    assert isinstance(ax.collections[0].norm, LogNorm)


def test_dots_over_a_map_have_a_rim():
    ax = plot.density(axes(), mf.measures.Grid.uniform(TORUS, 4), TORUS)
    plot.particles(ax, np.ones((1, 2)), TORUS)
    assert ax.collections[-1].get_linewidths() > 0
    np.testing.assert_allclose(ax.collections[-1].get_facecolor()[0, :3], 1)


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
    _, panels = plot.figure()
    plot.signal(panels[0, 0], lambda x: x[:, 0] + 10 * x[:, 1], extent=2.0, cells=5, label="Y")
    image = panels[0, 0].images[0].get_array()
    # Rows run along x2, upwards; the color of a square is the value at its center.
    np.testing.assert_allclose([image[0, 0], image[0, -1], image[-1, 0]], [-17.6, -14.4, 14.4])
    assert bar_label(panels[0, 0]) == "Y"


def test_sizes_of_dots_may_be_given():
    ax = plot.particles(axes(), np.array([[0.5], [-1.0]]), mf.domains.Euclidean(1), s=30.0)
    assert ax.collections[0].get_sizes().tolist() == [30.0]


def test_a_later_line_is_seen_to_its_top():
    ax = axes()
    plot.density(ax, lambda x: 1 + 0 * x[0], CIRCLE)
    plot.density(ax, lambda x: 5 + 4 * x[0], CIRCLE)
    low, high = ax.get_ylim()
    assert low == 0 and high > 9
    ax = axes()
    for mass in (0.1, 0.5):
        mu = mf.measures.Particles(np.array([[1.0]]), np.array([mass]))
        plot.particles(ax, mu, mf.domains.Euclidean(1))
    low, high = ax.get_ylim()
    assert low == 0 and high > 0.5
