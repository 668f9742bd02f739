"""The calculus of training in nine steps, each a few lines with a check.

From the derivative of a loss in one weight to the decision that minimises an expected
loss; every number is compared with one known by hand.

    python examples/calculus_tour.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Beta, Binomial, Normal
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
X = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
Y = torch.tensor([1.0, 3.0, 4.0, 8.0], dtype=torch.float64)


def scalar(value: float) -> Tensor:
    """A weight that gradients flow to."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def derivative() -> tuple[float, float]:
    """The derivative of a squared error in one weight: d/dw (3 w - 6)^2 at w = 1."""
    w = scalar(1.0)
    (slope,) = torch.autograd.grad(mlc.mse_loss(3 * w, scalar(6.0)), w)
    return slope.item(), 2 * 3 * (3 - 6)


def gradient() -> tuple[float, float]:
    """The gradient in many weights: its length at zero weights is known by hand."""
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(mlc.mse_loss(w[0] + w[1] * X, Y), w)
    by_hand = [-2 * Y.mean().item(), -2 * (X * Y).mean().item()]
    return g.norm().item(), math.hypot(*by_hand)


def update() -> tuple[float, float]:
    """One step of gradient descent: w - lr * slope."""
    w = scalar(1.0)
    optimizer = mlc.SGD([w], lr=0.1)
    mlc.mse_loss(3 * w, scalar(6.0)).backward()
    optimizer.step()
    return w.item(), 1 - 0.1 * (-18)


def regression() -> tuple[float, float]:
    """Linear regression by mean squared error: the slope of least squares."""
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = mlc.SGD([w], lr=0.1, momentum=0.8)
    for _ in range(400):
        optimizer.zero_grad()
        mlc.mse_loss(w[0] + w[1] * X, Y).backward()
        optimizer.step()
    deviation = X - X.mean()
    return w[1].item(), (deviation @ Y / (deviation @ deviation)).item()


def area() -> tuple[float, float]:
    """The area under a curve: sin from 0 to pi."""
    domain = mlc.Interval(torch.tensor(0.0, dtype=torch.float64), math.pi)
    return mlc.integrate(torch.sin, domain).item(), 2.0


def density() -> tuple[float, float]:
    """A density that integrates to 1: the normaliser of exp(-x^4) is 2 Gamma(5/4)."""
    line = mlc.RealLine(torch.tensor(0.0, dtype=torch.float64))
    p = mlc.NormalizedDensity(lambda x: -(x**4), line)
    return p.log_normalizer.exp().item(), 2 * math.gamma(1.25)


def mean() -> tuple[float, float]:
    """An expected value: exp of a standard normal variable has mean sqrt(e)."""
    return mlc.expectation(torch.exp, Normal(scalar(0.0), 1.0)).item(), math.exp(0.5)


def log_joint(p: Tensor) -> Tensor:
    """A uniform probability and 7 successes of 10."""
    return Binomial(10, p, validate_args=False).log_prob(torch.tensor(7.0).to(p))


def posterior() -> mlc.NormalizedDensity:
    """What the data say about the probability."""
    return mlc.NormalizedDensity(
        log_joint, mlc.Interval(torch.tensor(0.0, dtype=torch.float64), 1.0)
    )


def evidence() -> tuple[float, float]:
    """A Bayesian posterior's evidence: 7 successes of 10 under a uniform prior."""
    return posterior().log_normalizer.exp().item(), 1 / 11


def decision() -> tuple[float, float]:
    """The decision that minimises an expected loss, over too much thrice too little."""
    choice = scalar(0.5)
    optimizer = torch.optim.LBFGS(
        [choice], max_iter=60, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )
    p = posterior()
    distribution = Beta(torch.tensor(8.0).double(), torch.tensor(4.0).double())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.expectation(lambda x: 3 * (choice - x).relu() + (x - choice).relu())
        loss.backward()
        return loss

    optimizer.step(closure)
    # It is the quantile at 1 / (1 + 3) of the posterior, Beta(8, 4).
    quantile = mlc.cumulative_integrate(
        lambda x: distribution.log_prob(x).exp(), 0.0, choice.detach()
    )
    return quantile.item(), 0.25


STEPS: dict[str, Callable[[], tuple[float, float]]] = {
    "derivative of a loss in one weight": derivative,
    "gradient in many weights": gradient,
    "the update rule": update,
    "linear regression": regression,
    "area under a curve": area,
    "a density that integrates to 1": density,
    "an expected value": mean,
    "a posterior and its evidence": evidence,
    "the best decision": decision,
}


def save_picture(folder: Path) -> Path:
    """The loss, the area, the posterior and the expected loss."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    w = torch.linspace(-1, 4, 100)
    axes[0].plot(w, (3 * w - 6) ** 2)
    axes[0].plot(w, 9 - 18 * (w - 1), "--")
    axes[0].set(title="a loss and its slope", xlabel="w", ylim=(-10, 90))
    x = torch.linspace(0, math.pi, 100)
    axes[1].fill_between(x, x.sin(), alpha=0.3)
    axes[1].plot(x, x.sin())
    axes[1].set(title="an area of 2", xlabel="x")
    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    p = posterior()
    axes[2].plot(grid, p.log_prob(grid).exp())
    axes[2].set(title="a posterior", xlabel="probability")
    loss = p.expectation(
        lambda x: 3 * (grid - x[..., None]).relu() + (x[..., None] - grid).relu()
    )
    axes[3].plot(grid, loss)
    axes[3].plot(p.icdf(torch.tensor(0.25).double()), loss.min(), "o")
    axes[3].set(title="an expected loss", xlabel="decision")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "calculus_tour.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Take all steps, print each beside what is known, and draw."""
    parser = argparse.ArgumentParser(description="Nine steps of calculus.")
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    rows = [(name, *step()) for name, step in tqdm(STEPS.items(), unit="step")]
    print(f"{'step':<36}{'found':>16}{'known':>16}{'error':>10}")
    for name, found, known in rows:
        print(f"{name:<36}{found:16.10f}{known:16.10f}{abs(found - known):10.1e}")
    print(f"\nPicture: {save_picture(arguments.output)}")


if __name__ == "__main__":
    main()
