"""Robust regression: two classic data sets with outliers, by three losses and a fourth.

The scale of the Huber and of the Tukey loss is the median absolute residual, found in
turn with the coefficients, as R's rlm does. The general loss finds its shape and its
scale by itself, by maximum likelihood.

    python examples/robust_regression.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
# As in rlm: the normal distribution has its median absolute error at 0.6745, and at
# these scales the losses have 95 % of the efficiency of least squares there.
MEDIAN, HUBER, TUKEY = 0.6745, 1.345, 4.685
ROUNDS = 60

Loss = Callable[[Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """Features with a leading 1, targets, and what was published."""

    name: str
    names: list[str]
    features: Tensor
    target: Tensor
    published: dict[str, list[float]]


class Adapted(NamedTuple):
    """Coefficients, shape and scale found together."""

    coefficients: Tensor
    alpha: float
    scale: float


def load(name: str) -> Problem:
    """Read a data set."""
    data = json.loads((HERE / "data" / "robust.json").read_text(encoding="utf-8"))[name]
    input = torch.tensor(data["input"], dtype=torch.float64)
    ones = torch.ones(len(input), 1, dtype=torch.float64)
    target = torch.tensor(data["target"], dtype=torch.float64)
    features = torch.cat([ones, input], 1)
    return Problem(name, data["names"], features, target, data["published"])


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Descend from ``start`` to where the gradient is 0."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()
        return value

    optimizer.step(closure)
    return point.detach()


def least_squares(problem: Problem) -> Tensor:
    """The coefficients that outliers pull away; where the others start."""
    solution: Tensor = torch.linalg.lstsq(
        problem.features, problem.target[:, None]
    ).solution
    return solution[:, 0]


def fit(problem: Problem, name: str, bar: tqdm[None]) -> Tensor:
    """Coefficients by the loss of that name, with the scale of their residuals."""
    # Orthonormal columns: as many steps for each of them.
    basis, factor = torch.linalg.qr(problem.features)
    point = factor @ least_squares(problem)
    for _ in range(ROUNDS):
        error = (problem.target - basis @ point).abs()
        scale = error.median() / MEDIAN
        if len(error) % 2 == 0:
            middle = error.sort().values[len(error) // 2 - 1 : len(error) // 2 + 1]
            scale = middle.mean() / MEDIAN
        loss: Loss = (
            mlc.HuberLoss(delta=HUBER * scale.item())
            if name == "huber"
            else mlc.TukeyLoss(scale=TUKEY * scale)
        )

        def total(p: Tensor, loss: Loss = loss) -> Tensor:
            return loss(basis @ p, problem.target)

        point = minimise(total, point)
        bar.update()
    return torch.linalg.solve(factor, point)


def adapt(problem: Problem, start: Tensor, bar: tqdm[None]) -> Adapted:
    """Coefficients, shape in (0, 2) and scale of greatest likelihood, near a start."""
    basis, factor = torch.linalg.qr(problem.features)
    spread = (problem.target - problem.features @ start).abs().median()

    def settings(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, scale = 2 * point[-2].sigmoid(), spread * point[-1].exp()
        return spread * point[:-2], alpha, scale

    def loss(point: Tensor) -> Tensor:
        coefficients, alpha, scale = settings(point)
        return mlc.general_robust_nll_loss(
            basis @ coefficients, problem.target, "mean", alpha, scale
        )

    rest = torch.zeros(2, dtype=spread.dtype)
    found = minimise(loss, torch.cat([factor @ start / spread, rest]))
    coefficients, alpha, scale = settings(found)
    bar.update()
    return Adapted(torch.linalg.solve(factor, coefficients), alpha.item(), scale.item())


def print_table(problem: Problem, fits: dict[str, Tensor], adapted: Adapted) -> None:
    """Coefficients beside those published."""
    print(f"{problem.name}: {', '.join(problem.names)}")
    for name, coefficients in fits.items():
        numbers = " ".join(f"{c:10.4f}" for c in coefficients)
        known = " ".join(f"{c:10.4f}" for c in problem.published[name])
        print(f"  {name:13} {numbers}   published {known}")
    numbers = " ".join(f"{c:10.4f}" for c in adapted.coefficients)
    shape = f"shape {adapted.alpha:.3f}, scale {adapted.scale:.3f}"
    print(f"  {'general':13} {numbers}   {shape}")


def draw_shapes(ax: Axes) -> None:
    """The general loss at the shapes that have names."""
    x = torch.linspace(-6, 6, 401, dtype=torch.float64)
    names = {
        2.0: "2  square",
        1.0: "1  Charbonnier",
        0.0: "0  Cauchy",
        -2.0: "-2  Geman-McClure",
        -float("inf"): r"$-\infty$  Welsch",
    }
    for alpha, name in names.items():
        loss = mlc.general_robust_loss(x, torch.zeros_like(x), "none", alpha)
        ax.plot(x, loss, label=name)
    ax.set(xlabel="residual / scale", ylabel="loss", ylim=(0, 5))
    ax.set_title("The general loss by its shape")
    ax.legend(loc="upper center", framealpha=1, fontsize="small")


def draw_lines(ax: Axes, problem: Problem, fits: dict[str, Tensor]) -> None:
    """Data of one predictor, and what each loss makes of them."""
    x = problem.features[:, 1]
    ax.plot(x, problem.target, "o", color="0.25", markersize=4)
    for name, coefficients in fits.items():
        style = ":" if name == "general" else "-"  # it covers that of Tukey
        ax.plot(x, problem.features @ coefficients, style, label=name)
    ax.set(xlabel="year", ylabel="calls in millions", title="Calls from Belgium")
    ax.legend(frameon=False)


def draw_residuals(ax: Axes, problem: Problem, fits: dict[str, Tensor]) -> None:
    """Residuals of every observation: least squares hides the outliers."""
    day = torch.arange(1, len(problem.target) + 1)
    for name in ("least squares", "tukey"):
        error = problem.target - problem.features @ fits[name]
        ax.plot(day, error, "o", label=name, mfc="white" if name[0] == "l" else None)
    ax.axhline(0, color="0.7", zorder=0)
    ax.set(xlabel="day", ylabel="residual", title="Stack loss: four days stand out")
    ax.legend(frameon=False)


def main() -> None:
    """Fit, print beside what was published, and draw."""
    parser = argparse.ArgumentParser(description="Robust regression.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    draw_shapes(axes[0])
    found = []
    with tqdm(total=2 * (2 * ROUNDS + 1), unit="fit") as bar:
        for name, draw, ax in (
            ("phones", draw_lines, axes[1]),
            ("stackloss", draw_residuals, axes[2]),
        ):
            problem = load(name)
            fits = {"least squares": least_squares(problem)}
            fits |= {loss: fit(problem, loss, bar) for loss in ("huber", "tukey")}
            adapted = adapt(problem, fits["tukey"], bar)
            draw(ax, problem, {**fits, "general": adapted.coefficients})
            found.append((problem, fits, adapted))
    for row in found:
        print_table(*row)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "robust_regression.png"
    figure.savefig(path, dpi=110)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    main()
