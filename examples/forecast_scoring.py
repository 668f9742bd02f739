"""Forecasts of counts, trained by the CRPS and by the likelihood.

New cases of a cattle disease in a herd and period (cbpp) are forecast by a negative
binomial distribution: its mean is the size of the herd times a rate for each period,
its spread a parameter of its own, so that the gradient goes through the incomplete beta
function in both parameters. Each herd is forecast from the 14 others, all at once.

Each fit must be the best by the score it was trained for; the closed form of the score
and its gradient are compared with the sum over all counts.

    python examples/forecast_scoring.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import NegativeBinomial
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent

Score = Callable[[NegativeBinomial, Tensor, Tensor], Tensor]


class Counts(NamedTuple):
    """New cases, and what is known before."""

    herd: Tensor
    size: Tensor
    period: Tensor
    cases: Tensor


def load() -> Counts:
    """The 56 counts of 15 herds in up to 4 periods."""
    table = json.loads((HERE / "data" / "cbpp.json").read_text())
    columns = ("herd", "size", "period", "incidence")
    herd, size, period, cases = (
        torch.tensor(table[c], dtype=torch.float64) for c in columns
    )
    return Counts(herd, size, period.long() - 1, cases)


def forecast(parameters: Tensor, data: Counts) -> NegativeBinomial:
    """Of all counts by each row of parameters: four log rates and a log spread."""
    log_rate = parameters[:, :4][:, data.period]
    mean = data.size * torch.exp(log_rate)
    count = torch.exp(-parameters[:, 4:]).expand_as(mean)
    return NegativeBinomial(count, logits=torch.log(mean / count))


def crps(p: NegativeBinomial, cases: Tensor, weight: Tensor) -> Tensor:
    """Mean score of each row over the counts with a weight."""
    scores = mlc.crps_loss(p, cases.expand(p.batch_shape), "none")
    return (scores * weight).sum(-1) / weight.sum(-1)


def log_score(p: NegativeBinomial, cases: Tensor, weight: Tensor) -> Tensor:
    """The same of minus the log likelihood."""
    return -(p.log_prob(cases) * weight).sum(-1) / weight.sum(-1)


def fit(score: Score, start: Tensor, data: Counts, weight: Tensor, bar: tqdm) -> Tensor:
    """Parameters for each row of weights, from all of them at once."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=1, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = score(forecast(parameters, data), data.cases, weight).sum()
        loss.backward()
        return loss

    for _ in range(bar.total // 2):
        optimizer.step(closure)
        bar.update()
    return parameters.detach()


def check(parameters: Tensor, data: Counts) -> tuple[float, float]:
    """Largest relative error of score and gradient, against the sum over all counts."""
    found = []
    for closed in (True, False):
        row = parameters.clone().requires_grad_()
        p = forecast(row, data)
        cases = data.cases.expand(p.batch_shape)
        score = mlc.crps_loss(p, cases, "none", closed_form=closed)
        found.append((score.detach(), *torch.autograd.grad(score.mean(), row)))
    value, slope = (
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(*found, strict=True)
    )
    return value, slope


def save_picture(fits: dict[str, Tensor], data: Counts, folder: Path) -> Path:
    """Forecasts of a herd of 14, and the score of each count by both fits."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.arange(13, dtype=torch.float64)
    one = Counts(grid, torch.full_like(grid, 14), torch.zeros(13).long(), grid)
    held_out = data.herd - 1
    scores = {}
    for name, parameters in fits.items():
        p = forecast(parameters[:1], one)
        left.plot(grid, p.log_prob(grid).exp()[0], ".-", label=f"trained by {name}")
        every = forecast(parameters[1:], data)
        rows = mlc.crps_loss(every, data.cases.expand(every.batch_shape), "none")
        scores[name] = rows[held_out.long(), torch.arange(len(held_out))]
    left.set(xlabel="cases in a herd of 14, first period", ylabel="probability")
    left.legend(frameon=False)
    right.plot(scores["NLL"], scores["CRPS"], ".")
    right.axline((0, 0), slope=1, color="gray")
    right.set(xlabel="CRPS, trained by NLL", ylabel="CRPS, trained by CRPS")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "forecast_scoring.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Fit by both scores, with all herds and without each."""
    parser = argparse.ArgumentParser(description="Forecasts of counts.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    data = load()
    herds = torch.arange(1, 16, dtype=torch.float64)[:, None]
    without = (data.herd != herds).double()
    weight = torch.cat([torch.ones_like(without[:1]), without])
    scores: dict[str, Score] = {"NLL": log_score, "CRPS": crps}
    fits = {}
    parameters = torch.tensor([-2.0, -2, -2, -2, 0], dtype=torch.float64).repeat(16, 1)
    with tqdm(total=2 * arguments.steps, unit="step") as bar:
        # The CRPS, flat where a forecast is far off, starts from the other fit.
        for name, score in scores.items():
            parameters = fits[name] = fit(score, parameters, data, weight, bar)
    print(f"{len(data.cases)} counts, all herds, and each forecast from the others")
    print("              all herds         held out")
    print("trained by    NLL     CRPS      NLL     CRPS")
    share = (1 - without).sum(-1) / len(data.cases)
    for name, parameters in fits.items():
        p = forecast(parameters, data)
        line = f"{name:10}"
        for rows, w, mean in (
            (slice(0, 1), weight[:1], torch.ones(1).double()),
            (slice(1, None), 1 - without, share),
        ):
            part = NegativeBinomial(p.total_count[rows], logits=p.logits[rows])
            for score in scores.values():
                line += f"  {(score(part, data.cases, w) * mean).sum():.4f}"
            line += "  "
        print(line.rstrip())
    value, slope = check(fits["CRPS"], data)
    print(f"closed form against the sum: value {value:.1e}, gradient {slope:.1e}")
    print(f"\nPicture: {save_picture(fits, data, arguments.output)}")


if __name__ == "__main__":
    main()
