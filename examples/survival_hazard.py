"""Remission of 42 children with leukemia, by the hazard of a relapse.

Three hazards are fitted by maximum likelihood with the same loss: a constant one for
each treatment, whose estimate is known, relapses divided by weeks; that of Weibull,
with proportional hazards; and a network of time and treatment, the only one of which
nobody has the integral. Most of the times with 6-mercaptopurine are censored.

    python examples/survival_hazard.py
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
ARMS = ("6-MP", "placebo")


class Cohort(NamedTuple):
    """Weeks in remission, whether they ended by a relapse, and 1 for the placebo."""

    weeks: Tensor
    relapsed: Tensor
    placebo: Tensor

    def arm(self, i: int) -> Cohort:
        """The children of one treatment."""
        return Cohort(*(column[self.placebo == i] for column in self))


class Exponential(nn.Module):
    """A constant hazard for each treatment."""

    def __init__(self) -> None:
        """Start at one relapse in ten weeks."""
        super().__init__()
        start = torch.full((2,), math.log(0.1), dtype=torch.float64)
        self.log_rate = nn.Parameter(start)

    def forward(self, week: Tensor, placebo: Tensor) -> Tensor:
        """Log hazard."""
        return self.log_rate[placebo.long()] + 0 * week


class Weibull(nn.Module):
    """A power of time, times a factor for the placebo."""

    def __init__(self) -> None:
        """Start at a constant hazard."""
        super().__init__()
        start = torch.tensor([-2.3, 0.0, 0.0], dtype=torch.float64)
        self.parameters_ = nn.Parameter(start)

    def forward(self, week: Tensor, placebo: Tensor) -> Tensor:
        """Log hazard."""
        level, effect, log_shape = self.parameters_
        shape = log_shape.exp()
        return log_shape + level + effect * placebo + (shape - 1) * week.log()

    def accelerated(self) -> tuple[float, float, float]:
        """Intercept, effect and scale as for the log of time, the usual form."""
        level, effect, log_shape = self.parameters_.detach()
        scale = (-log_shape).exp()
        return (-level * scale).item(), (-effect * scale).item(), scale.item()


class Network(nn.Module):
    """Any smooth function of time and treatment."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, week: Tensor, placebo: Tensor) -> Tensor:
        """Log hazard."""
        inputs = torch.stack([week / 20 - 1, placebo.expand_as(week)], -1)
        values: Tensor = self.net(inputs)
        return values[..., 0] - 2


def load() -> Cohort:
    """Read the data."""
    data = json.loads((HERE / "data" / "leukemia.json").read_text(encoding="utf-8"))
    weeks = [week for arm in ARMS for week in data[arm]["weeks"]]
    relapsed = [flag == 1 for arm in ARMS for flag in data[arm]["relapsed"]]
    placebo = [float(i) for i, arm in enumerate(ARMS) for _ in data[arm]["weeks"]]
    return Cohort(
        torch.tensor(weeks, dtype=torch.float64),
        torch.tensor(relapsed),
        torch.tensor(placebo, dtype=torch.float64),
    )


def fit(log_hazard: nn.Module, cohort: Cohort, penalty: float = 0.0) -> float:
    """Maximise the likelihood; return its log."""
    criterion = mlc.HazardNLLLoss(log_hazard, mlc.GaussLegendre(64), reduction="sum")
    optimizer = torch.optim.LBFGS(
        log_hazard.parameters(),
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = criterion(cohort.weeks, cohort.relapsed, cohort.placebo)
        size = sum(p.square().sum() for p in log_hazard.parameters())
        loss = loss + penalty * size
        loss.backward()
        return loss

    optimizer.step(closure)
    # The value by the adaptive rule, which also sees what 64 nodes might miss.
    exact = mlc.HazardNLLLoss(log_hazard, reduction="sum", rtol=1e-10)
    with torch.no_grad():
        return -exact(cohort.weeks, cohort.relapsed, cohort.placebo).item()


def survival(log_hazard: nn.Module, weeks: Tensor, placebo: float) -> Tensor:
    """Probability of no relapse until some weeks."""
    arm = torch.tensor(placebo, dtype=torch.float64)
    with torch.no_grad():
        hazard = mlc.cumulative_integrate(
            lambda week: log_hazard(week, arm).exp(), 0.0, weeks
        )
    return (-hazard).exp()


def kaplan_meier(cohort: Cohort) -> tuple[list[float], list[float]]:
    """The estimate without any model: steps at the relapses."""
    weeks, share = [0.0], [1.0]
    for week in cohort.weeks[cohort.relapsed].unique().tolist():
        at_risk = (cohort.weeks >= week).sum().item()
        ended = ((cohort.weeks == week) & cohort.relapsed).sum().item()
        weeks.append(week)
        share.append(share[-1] * (1 - ended / at_risk))
    return [*weeks, 35.0], [*share, share[-1]]


def save_picture(models: dict[str, nn.Module], cohort: Cohort, folder: Path) -> Path:
    """Survival by model next to Kaplan and Meier, and the hazards."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(0.01, 35, 200, dtype=torch.float64)
    for i, (arm, color) in enumerate(zip(ARMS, ("C0", "C1"), strict=True)):
        left.step(*kaplan_meier(cohort.arm(i)), where="post", color=color, label=arm)
        for (name, model), style in zip(models.items(), (":", "--", "-"), strict=True):
            left.plot(grid, survival(model, grid, i), style, color=color, alpha=0.7)
            draw_hazard(right, grid, model, i, color, style, f"{name}, {arm}")
    left.set(xlabel="week", ylabel="share in remission", ylim=(0, 1.02))
    left.legend(frameon=False, title="Kaplan-Meier")
    right.set(xlabel="week", ylabel="relapses per week")
    right.legend(frameon=False, fontsize="small")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "survival_hazard.png"
    figure.savefig(path, dpi=110)
    return path


def draw_hazard(
    axes: Axes,
    grid: Tensor,
    model: nn.Module,
    arm: int,
    color: str,
    style: str,
    label: str,
) -> None:
    """One hazard."""
    with torch.no_grad():
        hazard = model(grid, torch.tensor(float(arm), dtype=torch.float64)).exp()
    axes.plot(grid, hazard, style, color=color, label=label)


def print_exponential(model: Exponential, cohort: Cohort, found: float) -> None:
    """Rates and likelihood next to their closed form."""
    exact = 0.0
    for i, arm in enumerate(ARMS):
        weeks, relapses = cohort.arm(i).weeks.sum(), cohort.arm(i).relapsed.sum()
        rate = relapses / weeks
        exact += (relapses * rate.log() - relapses).item()
        print(
            f"{arm}: rate {model.log_rate[i].exp().item():.12f}, {relapses} relapses "
            f"in {weeks:.0f} weeks are {rate.item():.12f}"
        )
    print(f"exponential: log likelihood {found:.10f}, in closed form {exact:.10f}")


def main() -> None:
    """Fit the three hazards, and print what is known of them."""
    parser = argparse.ArgumentParser(description="Hazards of a relapse.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    cohort = load()
    exponential, weibull, network = Exponential(), Weibull(), Network()
    models = {"exponential": exponential, "Weibull": weibull, "network": network}
    found = {
        name: fit(model, cohort, penalty=0.02 if model is network else 0.0)
        for name, model in tqdm(models.items(), unit="fit")
    }
    print_exponential(exponential, cohort, found["exponential"])
    intercept, effect, scale = weibull.accelerated()
    print(
        f"Weibull: intercept {intercept:.4f}, placebo {effect:.4f}, scale {scale:.4f}, "
        f"log likelihood {found['Weibull']:.4f}"
    )
    # W. N. Venables, B. D. Ripley, "Modern Applied Statistics with S", 4th ed.,
    # Springer 2002, section 13.2, https://doi.org/10.1007/978-0-387-21706-2
    print("published: 3.516, -1.267, 0.732 and -106.6")
    print(f"network: log likelihood {found['network']:.4f}")
    print(f"\nPicture: {save_picture(models, cohort, arguments.output)}")


if __name__ == "__main__":
    main()
