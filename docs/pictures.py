"""The pictures of the pages, drawn with ``torch_mlcalc.plot`` when they are built.

    .venv/bin/python docs/pictures.py folder

draws them into a folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import torch_mlcalc as mlc
from torch_mlcalc import plot

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import problems  # noqa: E402 (the table of problems with exact values, of the tests)

#: A problem of tests/problems.py for each class of integrands.
CLASSES = {
    "kahaner_01_exp": "smooth",
    "runge": "smooth, with a pole nearby",
    "gaussian_1e-2": "narrow peak",
    "quadpack_cos_sin_6": "oscillating",
    "abs": "kink",
    "kahaner_02_step": "jump",
    "kahaner_07_inverse_sqrt": "singular end",
    "gaussian_real_line": "infinite range",
}

#: Numbers of nodes of fixed rules.
COUNTS = (3, 5, 9, 17, 33, 65, 129, 257, 513)


def rules(problem: Any) -> dict[str, Any]:  # noqa: ANN401
    """What is compared on a problem."""
    infinite = math.isinf(problem.upper)
    ends_fail = "endpoint" in problem.tags
    fixed: dict[str, Callable[[int], mlc.Rule]] = {"GaussLegendre": mlc.GaussLegendre}
    if infinite:
        fixed["GaussHermite"] = mlc.GaussHermite
    elif not ends_fail:
        fixed["ClenshawCurtis"] = mlc.ClenshawCurtis
        fixed["Simpson"] = mlc.Simpson
    found: dict[str, Any] = {
        name: [rule(n) for n in COUNTS] for name, rule in fixed.items()
    }
    found["GaussKronrod"] = mlc.GaussKronrod()
    found["DoubleExponential"] = mlc.DoubleExponential()
    found["automatic"] = None
    return found


COLOURS = {
    "GaussLegendre": "C0",
    "GaussHermite": "C9",
    "ClenshawCurtis": "C1",
    "Simpson": "C2",
    "GaussKronrod": "C4",
    "DoubleExponential": "C5",
    "automatic": "black",
}


def draw_rules() -> Figure:
    """Error against evaluations, for each class of integrands."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    every = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    table = {problem.name: problem for problem in problems.PROBLEMS}
    for ax, (name, title) in zip(every, CLASSES.items(), strict=True):
        draw_class(ax, table[name])
        ax.set_title(title)
        ax.label_outer()
    handles = {
        label: handle
        for ax in every
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles)
    )
    return figure


def draw_class(ax: Axes, problem: Any) -> None:  # noqa: ANN401
    """One problem."""
    theta = torch.tensor(problem.theta, dtype=torch.float64)
    lower, upper = (
        torch.tensor(limit, dtype=torch.float64)
        for limit in (problem.lower, problem.upper)
    )
    infinite = math.isinf(problem.upper)
    domain: mlc.Domain = mlc.Interval(lower, upper)
    if infinite:
        domain = mlc.RealLine(torch.zeros((), dtype=torch.float64))
    plot.convergence(
        lambda x: problem.integrand(x, theta),
        domain,
        rules(problem),
        problem.value,
        rtols=[10.0**-k for k in range(1, 14)],
        ax=ax,
    )
    for line in ax.lines:
        label = str(line.get_label())
        line.set_color(COLOURS[label])
        line.set(markersize=3, linewidth=2.2 if label == "automatic" else 1)
    legend = ax.get_legend()
    assert legend is not None  # noqa: S101
    legend.remove()
    ax.grid(alpha=0.3)
    ax.set_ylim(1e-16, 10)


def wells(x: torch.Tensor, tilt: torch.Tensor) -> torch.Tensor:
    """Log density of two wells."""
    return -4 * (x * x - 1) ** 2 + tilt * x


def rosenbrock(w: torch.Tensor) -> torch.Tensor:
    """A valley that bends."""
    return (1 - w[..., 0]) ** 2 + 20 * (w[..., 1] - w[..., 0] ** 2) ** 2


def descent_path() -> torch.Tensor:
    """Parameters after each step in the valley."""
    w = torch.tensor([-1.2, 1.0], requires_grad=True)
    optimizer = mlc.SGD([w], lr=0.004, momentum=0.9)
    path = [w.detach().clone()]
    for _ in range(150):
        (w.grad,) = torch.autograd.grad(rosenbrock(w), w)
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def draw_gallery() -> Figure:
    """A picture of every other kind."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    first, second, third, fourth = figure.subplots(2, 2).ravel()
    tilt = torch.tensor([0.0, 1.0], dtype=torch.float64)
    density = mlc.NormalizedDensity(wells, mlc.RealLine(), args=(tilt,))
    plot.density(density, ax=first)
    first.set_title("plot.density")
    unit = mlc.Interval(torch.tensor(0.0, dtype=torch.float64), 1.0)
    plot.mesh(lambda x: (x - 0.3).abs().sqrt(), unit, rtol=1e-6, ax=second)
    second.set_title(f"plot.mesh: {second.get_title()}")
    square = mlc.Box(-1.0, 1.0, dimension=2)
    plan = mlc.adapt(
        lambda x: torch.exp(-200 * (x - 0.3).square().sum(-1)), square, mlc.Vegas()
    )
    plot.vegas_map(plan, square, ax=third)
    third.set_title("plot.vegas_map")
    plot.descent(rosenbrock, descent_path(), ax=fourth)
    fourth.set_title("plot.descent")
    return figure


def draw(folder: Path) -> None:
    """Draw all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # The same bytes from the same numbers.
    with mpl.rc_context({"svg.hashsalt": "torch_mlcalc", "svg.fonttype": "none"}):
        for name, figure in (("rules", draw_rules()), ("gallery", draw_gallery())):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
