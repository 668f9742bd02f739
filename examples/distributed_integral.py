"""A density trained by several processes, which share its normaliser.

An energy 1/2 |x L|^2 of three coordinates is fitted by exact maximum likelihood. Every
process has its own rows of the data, as always with DistributedDataParallel, and its
own nodes of the integral that normalises the density, a grid of 24 x 24 x 24. Both
answers are known: the integral in closed form, and the matrix L L^T of the best
density, which is the inverse covariance of all data. It runs as one process too.

    python examples/distributed_integral.py
    torchrun --nproc-per-node 2 examples/distributed_integral.py
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

import torch_mlcalc as mlc

ROWS, DIMENSION, NODES = 1200, 3, 24
DOUBLE = torch.float64


class Density(nn.Module):
    """Negative log likelihood of data under a density known up to its normaliser."""

    def __init__(self) -> None:
        """Begin with the identity; processes that run alone have no group, None."""
        super().__init__()
        self.factor = nn.Parameter(torch.eye(DIMENSION, dtype=DOUBLE))
        infinite = torch.full((DIMENSION,), math.inf, dtype=DOUBLE)
        self.log_normalizer = mlc.LogNormalizer(
            self.log_density,
            mlc.Box(-infinite, infinite),
            mlc.Product(mlc.GaussHermite(NODES)),
            process_group=dist.group.WORLD,
        )
        self.evaluated = 0

    def log_density(self, x: Tensor) -> Tensor:
        """The log of the density at ``(n, 3)``, not normalised."""
        self.evaluated += len(x)
        return -(x @ self.factor).square().sum(-1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the rows of the data."""
        data = (x @ self.factor).square().sum(-1) / 2
        return data.mean() + self.log_normalizer()


def generate(rows: int) -> Tensor:
    """Rows with a covariance of their own, which every process makes alike."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 1.2]])
    return (torch.randn(rows, DIMENSION, generator=generator) @ mix).to(DOUBLE)


def train(model: nn.Module, data: Tensor, steps: int) -> None:
    """Descend; only the first process shows how far it is."""
    optimizer = mlc.SGD(model.parameters(), lr=0.1, momentum=0.8)
    for _ in tqdm(range(steps), unit="step", disable=rank() > 0):
        optimizer.zero_grad()
        model(data).backward()
        optimizer.step()


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def report(model: Density, data: Tensor) -> None:
    """Compare with what is known."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    model.evaluated = 0
    found = model.log_normalizer()
    if rank() > 0:
        return
    precision = (model.factor @ model.factor.T).detach()
    exact = (DIMENSION * math.log(2 * math.pi) - torch.logdet(precision)) / 2
    best = torch.linalg.inv(data.T @ data / len(data))
    print(f"processes: {processes}")
    print(f"nodes on the first: {model.evaluated} of {NODES**DIMENSION}")
    print(f"log normaliser: {found:.12f}, exactly {exact:.12f}")
    print(f"error of the log normaliser: {(found - exact).abs():.1e}")
    print(f"error of the fitted matrix: {(precision - best).abs().max():.1e}")


def main() -> None:
    """Train in as many processes as there are, and report."""
    parser = argparse.ArgumentParser(description="Integrals shared by processes.")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()

    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    data, model = generate(ROWS), Density()
    if dist.is_initialized():
        parallel = nn.parallel.DistributedDataParallel(model)
        train(parallel, data[rank() :: dist.get_world_size()], options.steps)
    else:
        train(model, data, options.steps)
    report(model, data)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
