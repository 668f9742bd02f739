"""The picture of ``mixed_model.py``: what the number of nodes does, and the fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import torch_mlcalc as mlc

if TYPE_CHECKING:
    from mixed_model import Fit, Groups


def save_picture(results: dict[str, tuple[Groups, list[Fit]]], folder: Path) -> Path:
    """For each data set the log likelihood by nodes, and probabilities with data."""
    figure = Figure(figsize=(11, 4.2 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, squeeze=False)
    for row, (name, (groups, fits)) in zip(axes, results.items(), strict=True):
        draw_nodes(row[0], fits)
        draw_fit(row[1], name, groups, fits[-1])
        row[0].set_title(f"{name}: likelihood by number of nodes")
        row[1].set_title(f"{name}: probability, intercepts integrated out")
        for ax in row:
            ax.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mixed_model.png"
    figure.savefig(path, dpi=110)
    return path


def draw_nodes(ax: Axes, fits: list[Fit]) -> None:
    """How far the maximum is from the one that the default reaches."""
    fixed = fits[:-1]
    ax.axhline(fits[-1].log_likelihood, color="tab:red", label="default")
    points = [(f.nodes or 0, f.log_likelihood) for f in fixed]
    ax.plot(*zip(*points, strict=True), "o-")
    ax.set_xlabel("nodes (1: Laplace)")
    ax.set_ylabel("maximum of log L")
    ax.legend(frameon=False)


def draw_fit(ax: Axes, name: str, groups: Groups, fit: Fit) -> None:
    """Observed shares, and the probability averaged over the intercepts."""
    some = groups.trials > 0
    features = groups.features[some]
    if name == "cbpp":
        time = visit = 1 + features[:, 1:] @ torch.arange(1.0, 4).double()
        arms = {"all herds": torch.ones_like(time, dtype=torch.bool)}
    else:
        time = features[:, 2]
        visit = (time / 2).round() * 2  # two months together
        arms = {"itraconazole": features[:, 1] == 0, "terbinafine": features[:, 1] == 1}
    logits = features @ torch.tensor(fit.beta, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    mean = mlc.integrate(
        lambda z, eta: (eta + fit.sigma * z).sigmoid() * normal.log_prob(z).exp(),
        mlc.RealLine(),
        mlc.GaussHermite(64),
        args=(logits,),
    )
    for label, arm in arms.items():
        order = time[arm].argsort()
        (line,) = ax.plot(time[arm][order], mean[arm][order], label=label)
        points = visit[arm].unique()
        here = [arm & (visit == t) for t in points]
        share = [
            groups.successes[some][h].sum() / groups.trials[some][h].sum() for h in here
        ]
        ax.plot(points, share, "o", color=line.get_color())
    ax.set_xlabel("period" if name == "cbpp" else "months")
    ax.set_ylabel("probability of infection")
    ax.legend(frameon=False)
