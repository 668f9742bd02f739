"""A monotone network: the antiderivative of a positive one, trained and inverted.

A calibration curve must not go down. The model is F(x) = c + integral from 0 to x of a
softplus network, so its derivative is positive by construction; the inverse is exact.

    python examples/monotone_network.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
NOISE = 0.2


class Slope(nn.Module):
    """A positive function of one variable."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Values for points of any shape."""
        values: Tensor = self.net(t[..., None])
        return softplus(values[..., 0])


class Monotone(nn.Module):
    """An increasing function and its inverse."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.start = nn.Parameter(torch.zeros(()))
        self.curve = mlc.Antiderivative(Slope())

    def forward(self, x: Tensor) -> Tensor:
        """The function."""
        return self.start + self.curve(x)

    def inverse(self, y: Tensor) -> Tensor:
        """The ``x`` with this value."""
        return self.curve.inverse(y - self.start)


def truth(x: Tensor) -> Tensor:
    """Steep, flat, steep: increasing, with slopes from 0.05 to 1.95."""
    return x + 0.95 * torch.sin(x)


def train(model: Monotone, x: Tensor, y: Tensor, steps: int) -> None:
    """Least squares by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    criterion = mlc.MSELoss()
    for _ in tqdm(range(steps), unit="step"):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        scheduler.step()


def save_picture(model: Monotone, x: Tensor, y: Tensor, folder: Path) -> Path:
    """Data, fit, and the inverse on the mirrored axes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(-6, 6, 300, dtype=x.dtype)
    with torch.no_grad():
        fit, back = model(grid), model.inverse(grid)
    left.plot(x, y, ".", color="lightgray")
    left.plot(grid, truth(grid), "--", label="truth")
    left.plot(grid, fit, label="monotone network")
    left.set(xlabel="x", ylabel="y")
    right.plot(truth(grid), grid, "--", label="truth")
    right.plot(grid, back, label="inverse of the network")
    right.set(xlabel="y", ylabel="x")
    for ax in (left, right):
        ax.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "monotone_network.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Train, invert, and compare with the truth."""
    parser = argparse.ArgumentParser(description="A monotone network.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    x = 12 * torch.rand(500, dtype=torch.float64) - 6
    y = truth(x) + NOISE * torch.randn(500, dtype=torch.float64)
    model = Monotone().double()
    train(model, x, y, arguments.steps)
    grid = torch.linspace(-5.5, 5.5, 200, dtype=torch.float64, requires_grad=True)
    value = model(grid)
    (slope,) = torch.autograd.grad(value.sum(), grid)
    with torch.no_grad():
        error = (value - truth(grid)).square().mean().sqrt()
        back = (model.inverse(value) - grid).abs().max()
    print(f"root mean squared error {error:.3f}, noise of a single value {NOISE}")
    print(f"smallest slope {slope.min():.3f}, true one 0.050")
    print(f"largest error of the inverse of F(x): {back:.1e}")
    print(f"\nPicture: {save_picture(model, x, y, arguments.output)}")


if __name__ == "__main__":
    main()
