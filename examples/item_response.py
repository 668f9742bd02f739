"""Item response theory: the two-parameter logistic model of five test items.

An examinee of ability z, normal in the population, solves item j with probability
sigmoid(a_j z + d_j). The ability is integrated out, one integral per response pattern.

    python examples/item_response.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
STEPS = 4


class Fit(NamedTuple):
    """Maximum of the likelihood: slopes and intercepts of the items."""

    log_likelihood: float
    slopes: Tensor
    intercepts: Tensor


def log_joint(z: Tensor, pattern: Tensor, slope: Tensor, intercept: Tensor) -> Tensor:
    """Log density of answers ``(patterns, items)`` and abilities ``(n, patterns)``."""
    logits = slope * z[..., None] + intercept
    answers = torch.distributions.Bernoulli(logits=logits).log_prob(pattern)
    return answers.sum(-1) + torch.distributions.Normal(0.0, 1.0).log_prob(z)


def log_likelihood(pattern: Tensor, count: Tensor, theta: Tensor) -> Tensor:
    """Of all examinees; ``theta`` holds slopes and intercepts, ``(2, items)``."""
    log_evidence = mlc.log_integrate(
        lambda z, pattern: log_joint(z, pattern, *theta),
        mlc.RealLine(),
        mlc.AdaptiveGaussHermite(),
        args=(pattern,),
        batch_shape=count.shape,
    )
    return count @ log_evidence


def fit(pattern: Tensor, count: Tensor) -> Fit:
    """Maximise the likelihood, from slopes of 1 and intercepts of 0."""
    theta = torch.stack([torch.ones(5), torch.zeros(5)]).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=10,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -log_likelihood(pattern, count, theta)
        loss.backward()
        return loss

    for _ in tqdm(range(STEPS), unit="step"):
        optimizer.step(closure)
    with torch.no_grad():
        value = log_likelihood(pattern, count, theta)
    return Fit(value.item(), *theta.detach())


def save_picture(found: Fit, pattern: Tensor, count: Tensor, folder: Path) -> Path:
    """Curves of the items, and expected against observed counts of each score."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    ability = torch.linspace(-4, 4, 200, dtype=torch.float64)
    logits = found.slopes * ability[:, None] + found.intercepts
    for j, curve in enumerate(logits.sigmoid().T, start=1):
        left.plot(ability, curve, label=f"item {j}")
    left.set(xlabel="ability", ylabel="probability of a right answer")
    left.legend(frameon=False)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 5)
    theta = torch.stack([found.slopes, found.intercepts])
    share = mlc.log_integrate(
        lambda z, pattern: log_joint(z, pattern, *theta),
        mlc.RealLine(),
        mlc.AdaptiveGaussHermite(),
        args=(every,),
        batch_shape=(32,),
    ).exp()
    scores = torch.arange(6)
    observed = [count[pattern.sum(-1) == s].sum() for s in scores]
    expected = [count.sum() * share[every.sum(-1) == s].sum() for s in scores]
    right.bar(scores, observed, color="lightgray", label="observed")
    right.plot(scores, expected, "o", color="tab:red", label="expected")
    right.set(xlabel="right answers", ylabel="examinees")
    right.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "item_response.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Fit, print beside what was published, and draw."""
    parser = argparse.ArgumentParser(description="Two-parameter logistic items.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    data = json.loads((HERE / "data" / "lsat7.json").read_text(encoding="utf-8"))
    pattern = torch.tensor(data["pattern"], dtype=torch.float64)
    count = torch.tensor(data["count"], dtype=torch.float64)
    found = fit(pattern, count)
    published = data["published"]
    print(f"log likelihood {found.log_likelihood:.7f}", end="")
    print(f", published {published['log likelihood']:.7f}")
    print("item   slope  published  intercept")
    rows = zip(found.slopes, published["slopes"], found.intercepts, strict=True)
    for j, (slope, known, intercept) in enumerate(rows, start=1):
        print(f"{j:4}  {slope:6.3f}  {known:9.4f}  {intercept:9.3f}")
    print(f"\nPicture: {save_picture(found, pattern, count, arguments.output)}")


if __name__ == "__main__":
    main()
