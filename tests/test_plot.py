"""Pictures: that they show what the package computes, and touch nothing else."""

from __future__ import annotations

import math
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc import plot

F64 = torch.float64
UNIT = mlc.Interval(torch.tensor(0.0, dtype=F64), 1.0)
SQUARE = mlc.Box(-1.0, 3.0, dimension=2)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@pytest.fixture(autouse=True)
def _no_figures() -> Iterator[None]:
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def kinked(x: Tensor) -> Tensor:
    return (x - 0.3).abs().sqrt()


CENTRE = torch.tensor([1.0, 0.2])


def peak(x: Tensor) -> Tensor:
    return torch.exp(-200 * (x - CENTRE).square().sum(-1))


def bowl(w: Tensor) -> Tensor:
    return w[:, 0] ** 2 + 10 * w[:, 1] ** 2


def wells(x: Tensor, depth: Tensor) -> Tensor:
    return -depth * (x * x - 1) ** 2 + 0.3 * x


PATH = torch.tensor([[2.0, 1.0], [1.0, -0.5], [0.25, 0.125]])
DEPTHS = torch.tensor([0.5, 4.0], dtype=F64)


def density() -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(wells, mlc.RealLine(), args=(DEPTHS,))


def learned(**settings: object) -> mlc.Plan:
    return mlc.adapt(peak, SQUARE, mlc.Vegas(n=2000, **settings), on_failure="ignore")


EVERY: dict[str, Callable[[Axes | None], Axes]] = {
    "density": lambda ax: plot.density(density(), ax=ax),
    "mesh": lambda ax: plot.mesh(kinked, UNIT, ax=ax),
    "vegas_map": lambda ax: plot.vegas_map(learned(), ax=ax),
    "convergence": lambda ax: plot.convergence(
        torch.exp, UNIT, {"automatic": None}, math.e - 1, ax=ax
    ),
    "descent": lambda ax: plot.descent(bowl, PATH, ax=ax),
}


def test_every_picture_is_in_this_table() -> None:
    assert sorted(EVERY) == plot.__all__


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_draws_into_the_axes_it_gets_and_nowhere_else(
    draw: Callable[[Axes | None], Axes], ax: Axes
) -> None:
    before = dict(mpl.rcParams)
    assert draw(ax) is ax
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before
    ax.figure.canvas.draw()


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_makes_a_figure_of_its_own_without_axes(
    draw: Callable[[Axes | None], Axes],
) -> None:
    mine = plt.figure()
    before = dict(mpl.rcParams)
    drawn = draw(None)
    assert drawn.figure is not mine
    assert drawn.figure.number in plt.get_fignums()
    assert mine.axes == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_axes_have_labels(draw: Callable[[Axes | None], Axes], ax: Axes) -> None:
    draw(ax)
    assert ax.get_xlabel()
    assert ax.get_ylabel()


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_what_is_no_axes_is_refused(draw: Callable[[object], Axes]) -> None:
    with pytest.raises(TypeError, match="ax is a Figure; one Axes of matplotlib is"):
        draw(Figure())
    with pytest.raises(TypeError, match="ax is a ndarray; one Axes"):
        draw(Figure().subplots(1, 2))


def test_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError) as error:
        runpy.run_path(plot.__file__)
    assert str(error.value).startswith("torch_mlcalc.plot needs matplotlib")
    assert "pip install 'torch_mlcalc[plot]'" in str(error.value)


# ---- densities -----------------------------------------------------------------------


def test_curves_are_the_densities(ax: Axes) -> None:
    p = density()
    plot.density(p, nodes=False, ax=ax)
    assert len(ax.lines) == 2
    for k, line in enumerate(ax.lines):
        x, y = torch.as_tensor(line.get_xdata(), dtype=F64), line.get_ydata()
        wanted = p.log_prob(x[:, None].expand(-1, 2)).exp()[:, k]
        np.testing.assert_allclose(y, wanted, rtol=1e-6)
        # All but the tails of one in a thousand, at least.
        assert 0.997 < np.trapezoid(y, x) < 1 + 1e-5
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "1"]


@pytest.mark.parametrize("k", [0, 1])
def test_nodes_are_those_of_each_density(k: int, ax: Axes) -> None:
    plot.density(density(), ax=ax)
    low, high = ax.get_xlim()
    curve, own = ax.lines[k], ax.lines[2 + k]
    assert own.get_color() == curve.get_color()
    alone = mlc.NormalizedDensity(wells, mlc.RealLine(), args=(DEPTHS[k],))
    seen: list[Tensor] = []

    def record(x: Tensor, depth: Tensor) -> Tensor:
        seen.append(x)
        return wells(x, depth)

    mlc.log_integrate(record, mlc.RealLine(), alone._plan, args=alone.args)
    nodes = torch.cat([x.reshape(-1) for x in seen]).unique()
    nodes = nodes[(nodes >= low) & (nodes <= high)]
    np.testing.assert_allclose(own.get_xdata(), nodes)


def test_nodes_of_a_fixed_rule_below_the_axis(ax: Axes) -> None:
    rule = mlc.GaussLegendre(7)
    p = mlc.NormalizedDensity(lambda x: -x, mlc.Interval(0, 2), rule)
    plot.density(p, ax=ax)
    nodes = ax.lines[1]
    np.testing.assert_allclose(
        nodes.get_xdata(), 1 + rule.nodes_and_weights()[0], rtol=1e-6
    )
    assert (nodes.get_ydata() < 0).all()
    assert ax.get_legend() is None


def test_densities_with_supports_of_their_own(ax: Axes) -> None:
    upper = torch.tensor([1.0, 3.0])
    p = mlc.NormalizedDensity(lambda x: -0.5 * x.log(), mlc.Interval(0, upper))
    plot.density(p, ax=ax)
    x, y = ax.lines[0].get_xdata(), ax.lines[0].get_ydata()
    assert (y[x > 1] == 0).all()
    assert (y[(x > 0.1) & (x < 1)] > 0).all()
    assert np.isfinite(y).all()


def test_density_refuses_what_is_none() -> None:
    with pytest.raises(TypeError, match="density is a Normal; a NormalizedDensity"):
        plot.density(torch.distributions.Normal(0.0, 1.0))
    flat = mlc.NormalizedDensity(lambda x: -x.square().sum(-1), SQUARE)
    with pytest.raises(ValueError, match="has 2 dimensions; one is wanted"):
        plot.density(flat)
    level = mlc.NormalizedDensity(lambda x: 0 * x, mlc.RealLine())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="that are not finite; see whether its"):
            plot.density(level)
    nobody = mlc.NormalizedDensity(wells, mlc.RealLine(), args=(DEPTHS[:0],))
    with pytest.raises(ValueError, match="batch of densities is empty"):
        plot.density(nobody)


# ---- meshes --------------------------------------------------------------------------


def stairs(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    (patch,) = ax.patches
    data = patch.get_data()
    return data.edges, data.values


def test_panels_tile_the_interval_and_are_narrow_at_the_kink(ax: Axes) -> None:
    plot.mesh(kinked, UNIT, rtol=1e-8, ax=ax)
    edges, _ = stairs(ax)
    assert edges[0] == 0
    assert edges[-1] == 1
    width = np.diff(edges)
    assert (width > 0).all()
    at_kink = width[np.searchsorted(edges, 0.3) - 1]
    assert at_kink < 1e-4 < 0.1 < width.max()


def test_errors_are_those_that_the_rule_finds(ax: Axes) -> None:
    plot.mesh(kinked, UNIT, mlc.GaussKronrod(15), rtol=1e-6, ax=ax)
    edges, errors = stairs(ax)
    found = mlc.integrate_with_error(kinked, UNIT, mlc.GaussKronrod(15), rtol=1e-6)
    assert found.n_evals.item() > 15 * len(errors)
    assert errors.sum() == pytest.approx(found.error.item(), rel=1e-6)
    assert ax.get_title() == f"{len(errors)} panels, error {found.error.item():.1e}"
    assert ax.get_yscale() == "log"


def test_fewer_panels_for_a_loose_tolerance() -> None:
    counts = []
    for settings in ({"rtol": 1e-3}, {"rtol": 1e-9}, {"atol": 1e-9}, {"max_evals": 70}):
        axes = plot.mesh(kinked, UNIT, ax=Figure().subplots(), **settings)
        counts.append(len(stairs(axes)[1]))
    assert counts[3] <= 3 < counts[0] < counts[1] <= counts[2] + 5


def test_breakpoints_divide_the_mesh(ax: Axes) -> None:
    plot.mesh(lambda x: (x - 0.3).abs(), UNIT, breakpoints=[0.3, 7.0], ax=ax)
    np.testing.assert_allclose(stairs(ax)[0], [0, 0.3, 1], rtol=1e-7)


def test_the_integrand_is_drawn_at_the_nodes_with_args_and_reversed_limits(
    ax: Axes,
) -> None:
    domain = mlc.Interval(torch.tensor(2.0, dtype=F64), -1.0)
    plot.mesh(
        lambda x, rate: torch.stack([-(rate * x).exp(), x], -1),
        domain,
        args=(torch.tensor(0.5),),
        ax=ax,
    )
    (beside,) = (other for other in ax.figure.axes if other is not ax)
    (line,) = beside.lines
    x, y = line.get_xdata(), line.get_ydata()
    assert len(x) == 21
    assert -1 < x.min() < x.max() < 2
    np.testing.assert_allclose(y, np.maximum(np.exp(x / 2), np.abs(x)), rtol=1e-6)


def test_the_integrand_gets_the_dtype_of_the_integral(ax: Axes) -> None:
    layer = torch.nn.Linear(1, 1)  # refuses float64
    plot.mesh(lambda x: layer(x[..., None])[..., 0], mlc.Interval(0, 1), ax=ax)
    rate = torch.tensor(2.0, dtype=F64)
    seen = set()

    def growth(x: Tensor, rate: Tensor) -> Tensor:
        seen.add(x.dtype)
        return (rate * x).exp()

    plot.mesh(growth, mlc.Interval(0, 1), args=(rate,), ax=ax)
    assert seen == {F64}


def test_an_integrand_of_zeros_has_a_mesh_too(ax: Axes) -> None:
    plot.mesh(torch.zeros_like, UNIT, ax=ax)
    assert np.isnan(stairs(ax)[1]).all()


def test_mesh_refuses_what_has_no_panels() -> None:
    with pytest.raises(TypeError, match="domain is a RealLine; an Interval is wanted"):
        plot.mesh(kinked, mlc.RealLine())
    with pytest.raises(TypeError, match="rule is GaussLegendre.n=3.; GaussKronrod"):
        plot.mesh(kinked, UNIT, mlc.GaussLegendre(3))
    with pytest.raises(ValueError, match="upper is inf; a finite limit is wanted"):
        plot.mesh(kinked, mlc.Interval(0, math.inf))
    with pytest.raises(ValueError, match=r"integrals of shape \(2,\); one is wanted"):
        plot.mesh(kinked, mlc.Interval(0, torch.ones(2)))


# ---- maps of VEGAS -------------------------------------------------------------------


def grid(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    lines = [line.get_xydata() for line in ax.lines]
    upright = [xy[0, 0] for xy in lines if np.ptp(xy[:, 0]) == 0]
    level = [xy[0, 1] for xy in lines if np.ptp(xy[:, 1]) == 0]
    return np.array(upright), np.array(level)


def test_a_map_that_learns_nothing_is_an_even_grid(ax: Axes) -> None:
    plot.vegas_map(learned(alpha=0.0), lines=10, ax=ax)
    for places in grid(ax):
        np.testing.assert_allclose(places, np.linspace(0, 1, 11), atol=0.05)


def test_lines_crowd_where_the_integrand_is(ax: Axes) -> None:
    plot.vegas_map(learned(), SQUARE, lines=20, ax=ax)
    for places, centre in zip(grid(ax), CENTRE.tolist(), strict=True):
        assert len(places) == 21
        assert places[0] == -1
        assert places[-1] == 3
        # A peak of width 0.05, in a box of width 4.
        assert (abs(places - centre) < 0.2).sum() >= 14


def test_a_grid_bends_with_its_box(ax: Axes) -> None:
    triangle = mlc.Box([0.0, 0.0], [1.0, lambda x: 1 - x])
    plan = mlc.adapt(lambda x: 1 + x.sum(-1), triangle, mlc.Vegas(n=1000))
    plot.vegas_map(plan, triangle, lines=5, ax=ax)
    for line in ax.lines:
        assert (line.get_xydata().sum(1) <= 1 + 1e-6).all()


def test_ends_of_infinite_axes_are_left_out(ax: Axes) -> None:
    plane = mlc.Box(-math.inf, math.inf, dimension=2)
    plan = mlc.adapt(lambda x: torch.exp(-x.square().sum(-1)), plane, mlc.Vegas())
    plot.vegas_map(plan, plane, ax=ax)
    ax.figure.canvas.draw()
    assert all(not np.isinf(line.get_xydata()).any() for line in ax.lines)


def test_vegas_map_refuses_what_it_cannot_draw() -> None:
    plan = learned()
    with pytest.raises(ValueError, match="plan is GaussLegendre"):
        plot.vegas_map(mlc.GaussLegendre(3))
    with pytest.raises(ValueError, match="by Vegas is wanted"):
        plot.vegas_map(mlc.adapt(kinked, UNIT))
    with pytest.raises(ValueError, match=r"shape \(3,\), each with a map"):
        several = mlc.Box([0.0, 0.0], [1.0, torch.ones(3)])
        plot.vegas_map(mlc.adapt(lambda x: x.sum(-1), several, mlc.Vegas()))
    with pytest.raises(ValueError, match="made in 3 dimensions; 2 are wanted"):
        cube = mlc.Box(0.0, 1.0, dimension=3)
        plot.vegas_map(mlc.adapt(lambda x: x.sum(-1), cube, mlc.Vegas()))
    with pytest.raises(TypeError, match="domain is a Interval; a Box is wanted"):
        plot.vegas_map(plan, UNIT)
    with pytest.raises(ValueError, match="domain has 3 dimensions; 2 are wanted"):
        plot.vegas_map(plan, mlc.Box(0.0, 1.0, dimension=3))
    with pytest.raises(ValueError, match=r"a batch of shape \(3,\); one box"):
        plot.vegas_map(plan, mlc.Box([0.0, 0.0], [1.0, torch.ones(3)]))
    with pytest.raises(TypeError, match="lines is a float; an integer"):
        plot.vegas_map(plan, lines=2.0)
    with pytest.raises(ValueError, match="lines is 0; at least 1"):
        plot.vegas_map(plan, lines=0)


# ---- errors --------------------------------------------------------------------------


def test_points_of_fixed_rules_are_their_errors(ax: Axes) -> None:
    rules = [mlc.GaussLegendre(n) for n in (5, 1, 2, 3)]
    exact = math.e - 1
    plot.convergence(
        torch.exp, UNIT, {"gauss": rules, "one": mlc.Trapezoid(2)}, exact, ax=ax
    )
    several, one = ax.lines
    assert list(several.get_xdata()) == [1, 2, 3, 5]
    for n, error in several.get_xydata():
        value = mlc.integrate(torch.exp, UNIT, mlc.GaussLegendre(int(n))).item()
        assert error == pytest.approx(abs(value / exact - 1))
    assert one.get_xydata().tolist() == [
        [2, pytest.approx((math.e + 1) / 2 / exact - 1)]
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["gauss", "one"]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_points_of_adaptive_rules_follow_the_tolerance(ax: Axes) -> None:
    rules = {"automatic": None, "kronrod": mlc.GaussKronrod()}
    plot.convergence(kinked, UNIT, rules, exact=KINKED, rtols=[1e-2, 1e-4, 1e-8], ax=ax)
    for line in ax.lines:
        count, error = line.get_xydata().T
        assert len(count) == 3
        assert (np.diff(count) > 0).all()
        assert (error <= [1e-2, 1e-4, 1e-8]).all()


KINKED = 2 / 3 * (0.3**1.5 + 0.7**1.5)


def test_errors_end_at_the_rounding_of_the_dtype(ax: Axes) -> None:
    rules = {"gauss": [mlc.GaussLegendre(8)]}
    plot.convergence(lambda x: x, mlc.Interval(-1, 1), rules, 0.0, ax=ax)
    assert ax.lines[0].get_ydata()[0] >= torch.finfo(torch.float32).eps
    assert ax.get_ylabel() == "absolute error"


def test_random_rules_in_several_dimensions(ax: Axes) -> None:
    rules = {"lattice": [mlc.Lattice(n) for n in (256, 1024)]}
    plot.convergence(lambda x: x.sum(-1).exp(), SQUARE, rules, 388.0, ax=ax)
    assert len(ax.lines[0].get_xdata()) == 2


def test_convergence_refuses_what_is_no_rule() -> None:
    with pytest.raises(ValueError, match="rules is empty"):
        plot.convergence(kinked, UNIT, {}, KINKED)
    with pytest.raises(ValueError, match="exact is inf; a finite number"):
        plot.convergence(kinked, UNIT, {"automatic": None}, math.inf)
    for rules in (mlc.GaussLegendre(3), [mlc.GaussLegendre(3)]):
        with pytest.raises(TypeError, match="a dict from labels to rules is wanted"):
            plot.convergence(kinked, UNIT, rules, KINKED)
    with pytest.raises(ValueError, match=r"rules\['gauss'\] has nothing to draw"):
        plot.convergence(kinked, UNIT, {"gauss": []}, KINKED)
    with pytest.raises(ValueError, match="has nothing to draw: it is empty, or rtols"):
        plot.convergence(kinked, UNIT, {"automatic": None}, KINKED, rtols=[])
    with pytest.raises(ValueError, match=r"the integral has shape \(3,\); one number"):
        several = mlc.Interval(0, torch.ones(3))
        plot.convergence(kinked, several, {"automatic": None}, KINKED)
    with pytest.raises(TypeError, match=r"rules\['gauss'\] has a int; a rule such as"):
        plot.convergence(kinked, UNIT, {"gauss": [3]}, KINKED)


# ---- paths ---------------------------------------------------------------------------


def test_the_path_is_drawn_as_it_is_on_the_surface_of_the_loss(ax: Axes) -> None:
    seen: list[Tensor] = []

    def loss(w: Tensor) -> Tensor:
        seen.append(w)
        return bowl(w) + 7

    plot.descent(loss, PATH.requires_grad_(), levels=9, ax=ax)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), PATH.detach())
    (points,) = seen
    low, high = points.amin(0), points.amax(0)
    assert (low < PATH.amin(0)).all()
    assert (high > PATH.amax(0)).all()
    filled = ax.collections[0]
    assert len(filled.levels) == 9
    # From the top of the surface four decades down, the lowest loss taken off.
    lowest = (bowl(points)).min()
    top = (bowl(points) - lowest).max().item()
    assert filled.levels[-1] == pytest.approx(top, rel=1e-4)
    assert filled.levels[0] == pytest.approx(top / 1e4, rel=1e-4)
    lines = ax.collections[1]
    for level, path in list(zip(lines.levels, lines.get_paths(), strict=True))[3:-1]:
        # Equal but for the straight lines between the points of the grid.
        on_line = bowl(torch.as_tensor(path.vertices)) - lowest
        assert len(on_line)
        torch.testing.assert_close(
            on_line, torch.full_like(on_line, level), rtol=0.02, atol=0.0
        )


@pytest.mark.parametrize(
    "path", [torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [0.0, 2.0]])]
)
def test_paths_without_width_are_seen(path: Tensor, ax: Axes) -> None:
    plot.descent(bowl, path, ax=ax)
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert high > low + 0.5


def test_a_loss_that_is_flat_or_infinite_in_parts(ax: Axes) -> None:
    plot.descent(lambda w: torch.where(w[:, 0] > 1, math.inf, 0.0), PATH, ax=ax)
    ax.figure.canvas.draw()


def test_descent_refuses_what_is_no_path() -> None:
    with pytest.raises(TypeError, match=r"path is a list; a tensor \(steps, 2\)"):
        plot.descent(bowl, [[0.0, 1.0]])
    for shape in ((3,), (4, 3), (0, 2)):
        with pytest.raises(ValueError, match=r"path has shape .*; \(steps, 2\)"):
            plot.descent(bowl, torch.zeros(shape))
    with pytest.raises(ValueError, match="path is not finite"):
        plot.descent(bowl, torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="the loss is finite nowhere around the path"):
        plot.descent(lambda w: w[:, 0] * math.nan, PATH)
    with pytest.raises(TypeError, match="levels is a float"):
        plot.descent(bowl, PATH, levels=3.0)
    with pytest.raises(ValueError, match="levels is 1; at least 2"):
        plot.descent(bowl, PATH, levels=1)
    with pytest.raises(ValueError, match=r"returned shape \(\); one loss"):
        plot.descent(lambda w: bowl(w).sum(), PATH)
