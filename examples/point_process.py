"""An inhomogeneous Poisson process whose intensity is a network.

The log likelihood of event times is the sum of log intensities there less the
integral of the intensity, the compensator. All its values come from one call of
cumulative_integrate; between events it must grow by exponential steps of mean 1, which
a Kolmogorov-Smirnov test checks (time rescaling).

    python examples/point_process.py
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent
END, PEAK = 24.0, 60.0


class Intensity(nn.Module):
    """A positive function of the time of day."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, t: Tensor) -> Tensor:
        """Events per hour; the day closes on itself."""
        angle = 2 * math.pi * t / END
        values: Tensor = self.net(torch.stack([angle.sin(), angle.cos()], -1))
        return 30 * torch.exp(values[..., 0])


def truth(t: Tensor) -> Tensor:
    """A night, a morning rush and a flatter evening."""
    return (
        5 + 50 * torch.exp(-((t - 8) ** 2) / 3) + 25 * torch.exp(-((t - 18) ** 2) / 8)
    )


def generate(generator: torch.Generator) -> Tensor:
    """Event times of one day, by thinning a process of constant intensity."""
    count = int(torch.poisson(torch.tensor(PEAK * END), generator=generator))
    t = END * torch.rand(count, dtype=torch.float64, generator=generator)
    keep = torch.rand(count, generator=generator) * PEAK < truth(t)
    return t[keep].sort().values


def log_likelihood(intensity: Intensity | None, t: Tensor) -> Tensor:
    """Of event times on the whole day; of the true intensity for None."""
    rate = truth if intensity is None else intensity
    return rate(t).log().sum() - mlc.cumulative_integrate(rate, 0.0, t.new_tensor(END))


def rescaled(intensity: Intensity, t: Tensor) -> Tensor:
    """Steps of the compensator between events."""
    return mlc.cumulative_integrate(intensity, 0.0, t).diff(prepend=t.new_zeros(1))


def save_picture(intensity: Intensity, t: Tensor, folder: Path) -> Path:
    """Intensities with the events, and rescaled steps against exponential ones."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grid = torch.linspace(0, END, 400, dtype=torch.float64)
    with torch.no_grad():
        fit, steps = intensity(grid), rescaled(intensity, t).sort().values
    left.hist(t, bins=48, weights=torch.full_like(t, 2.0), color="lightgray")
    left.plot(grid, truth(grid), "--", label="truth")
    left.plot(grid, fit, label="network")
    left.set(xlabel="hour", ylabel="events per hour")
    left.legend(frameon=False)
    share = (torch.arange(len(t)) + 0.5) / len(t)
    right.plot(-torch.log1p(-share), steps, ".")
    right.axline((0, 0), slope=1, color="gray")
    right.set(xlabel="exponential quantile", ylabel="step of the compensator")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "point_process.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Fit one day of events, and compare with the intensity that made them."""
    parser = argparse.ArgumentParser(description="A Poisson process.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    t = generate(torch.Generator().manual_seed(0))
    intensity = Intensity().double()
    optimizer = torch.optim.Adam(intensity.parameters(), lr=0.02)
    for _ in tqdm(range(arguments.steps), unit="step"):
        optimizer.zero_grad()
        loss = -log_likelihood(intensity, t) / len(t)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        ours, theirs = (log_likelihood(i, t).item() for i in (intensity, None))
        expected = mlc.cumulative_integrate(intensity, 0.0, t.new_tensor(END)).item()
        p = stats.kstest(rescaled(intensity, t).numpy(), "expon").pvalue
    print(f"{len(t)} events, expected by the network {expected:.1f}")
    print(f"log likelihood {ours:.2f}, of the true intensity {theirs:.2f}")
    print(f"Kolmogorov-Smirnov test of the rescaled steps: p = {p:.2f}")
    print(f"\nPicture: {save_picture(intensity, t, arguments.output)}")


if __name__ == "__main__":
    main()
