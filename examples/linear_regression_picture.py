"""The picture of ``linear_regression.py``: losses, a descent path, digits and fits."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterMathtext, LogLocator

if TYPE_CHECKING:
    from linear_regression import Fit

MODEL = "tab:red"


def save_picture(fits: list[Fit], folder: Path) -> Path:
    """Draw an overview of all data sets, or what there is to see of a single one."""
    by_name = {fit.problem.name: fit for fit in fits}
    if len(fits) > 1:
        figure = Figure(figsize=(19, 9), layout="constrained")
        axes = figure.subplots(2, 4).ravel()
        longley = by_name.pop("Longley")  # so many steps that it gets axes of its own
        draw_loss(axes[0], list(by_name.values()))
        draw_loss(axes[1], [longley])
        draw_path(axes[2], by_name["Norris"])
        draw_digits(axes[3], fits)
        shown = [by_name["Norris"], by_name["Filip"], by_name["Wampler5"], longley]
        for ax, fit in zip(axes[4:], shown, strict=True):
            draw_fit(ax, fit)
    else:
        panels = 3 if len(fits[0].weights) == 2 else 2
        figure = Figure(figsize=(5 * panels, 4.5), layout="constrained")
        axes = figure.subplots(1, panels)
        draw_loss(axes[0], fits)
        draw_fit(axes[1], fits[0])
        if panels == 3:
            draw_path(axes[2], fits[0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "Certified regressions (NIST StRD) by torch_mlcalc.SGD", fontsize=16
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "linear_regression.png"
    figure.savefig(path, dpi=110)
    return path


def draw_loss(ax: Axes, fits: list[Fit]) -> None:
    """Loss against step: the larger the condition number, the flatter the descent."""
    conditions = sorted({round(fit.ball.condition, 1) for fit in fits})
    for fit in sorted(fits, key=lambda fit: fit.ball.condition):
        loss = excess_loss(fit, fit.path.numpy())
        condition = round(fit.ball.condition, 1)
        ax.semilogy(
            loss / loss[0],
            color=f"C{conditions.index(condition)}",
            label=f"{condition}  {fit.problem.name}",
        )
    ax.set_xlabel("step")
    ax.set_ylabel("mean squared error above its minimum, start = 1")
    ax.set_title("Loss in the first round")
    ax.grid(alpha=0.3)
    ax.legend(
        title="condition number",
        fontsize="small",
        title_fontsize="small",
        labelspacing=0.3,
    )


def draw_path(ax: Axes, fit: Fit) -> None:
    """The loss as a surface over two weights, and how the heavy ball descends on it."""
    path, best = fit.path.numpy(), to_float(fit.weights)
    reach = 1.15 * np.abs(path - best).max(axis=0)
    x, y = np.linspace(best - reach, best + reach, 201).T
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    loss = excess_loss(fit, grid)
    top = np.log10(loss.max())
    levels = np.logspace(top - 4, top, 17)
    surface = ax.contourf(x, y, loss, levels, norm="log", extend="min")
    ax.contour(x, y, loss, levels, colors="white", linewidths=0.5, alpha=0.5)
    bar = ax.figure.colorbar(
        surface, ax=ax, label="mean squared error above its minimum"
    )
    bar.set_ticks(LogLocator(), format=LogFormatterMathtext())
    ax.plot(*path.T, "o-", color=MODEL, markeredgecolor="white")
    ax.annotate("start", path[0], (8, -4), textcoords="offset points", color=MODEL)
    ax.set_xlabel("weight of 1")
    ax.set_ylabel("weight of $t$, which is $x$ mapped to $[-1, 1]$")
    ax.set_title(f"{fit.problem.name}: descent on the loss surface")


def draw_digits(ax: Axes, fits: list[Fit]) -> None:
    """Correct digits, by least squares on raw columns and by gradient descent."""
    rows = np.arange(len(fits))
    first, last = [fit.digits[0] for fit in fits], [fit.digits[-1] for fit in fits]
    lstsq = [fit.lstsq_digits for fit in fits]
    ax.hlines(rows, first, last, color=MODEL, alpha=0.4)
    ax.plot(last, rows, "o", color=MODEL, label="SGD, refined")
    ax.plot(first, rows, "o", color=MODEL, mfc="white", label="SGD, first round")
    ax.plot(lstsq, rows, "x", color="0.3", label="numpy.linalg.lstsq, raw columns")
    ax.set_yticks(rows, [fit.problem.name for fit in fits])
    ax.set_ylim(len(fits), -3.2)  # from the top down, with room for the legend
    ax.set_xticks(range(0, 16, 3))
    ax.set_xlabel("correct digits of the coefficients, at most 15")
    ax.set_title("Agreement with the certified coefficients")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left", fontsize="small")


def draw_fit(ax: Axes, fit: Fit) -> None:
    """The data and the fitted line; over the fit itself if x has several columns."""
    problem, target = fit.problem, to_float(fit.problem.target)
    if problem.powers is None:
        x = problem.raw @ fit.coefficients
        line = curve = np.array([x.min(), x.max()])
        ax.set_xlabel("fitted $y$")
        ax.set_title(f"{problem.name}: {len(fit.weights) - 1} predictors")
    else:
        x = problem.raw[:, problem.powers.index(1)]
        # Exact, since in floats the terms of Filip's polynomial cancel to rounding.
        line = x.min() + (x.max() - x.min()) * np.array(
            [Fraction(k, 200) for k in range(201)]
        )
        curve = line[:, None] ** np.array(problem.powers) @ fit.coefficients
        ax.set_xlabel("$x$")
        ax.set_title(f"{problem.name}: degree {problem.powers[-1]}")
    ax.plot(to_float(line), to_float(curve), color=MODEL)
    ax.plot(to_float(x), target, "o", color="0.25", markersize=4)
    ax.set_ylabel("$y$")
    ax.grid(alpha=0.3)


def excess_loss(fit: Fit, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """MSE minus its minimum, as the mean of (X (w - w*))^2, which does not cancel."""
    error = (weights - to_float(fit.weights)) @ to_float(fit.problem.features).T
    return np.asarray(np.mean(error**2, axis=-1))


def to_float(fractions: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Round fractions to the nearest floats."""
    return fractions.astype(np.float64)
