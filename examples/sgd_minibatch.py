"""An ordinary mini-batch training loop: copy this one.

Linear regression on 100 000 generated rows of 50 columns, with a validation split and a
learning rate schedule. The true weights are known, so the result can be judged: from n
rows with noise sigma, least squares itself misses each weight by about sigma / sqrt(n).

    python examples/sgd_minibatch.py
    python examples/sgd_minibatch.py --epochs 20 --batch-size 1000
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset, random_split
from tqdm import tqdm

import torch_mlcalc as mlc

COLUMNS = 50
NOISE = 2.0

Batches = DataLoader[tuple[Tensor, ...]]


def generate(rows: int, generator: torch.Generator) -> tuple[TensorDataset, Tensor]:
    """Rows of standard normal features x and targets y = x w + noise, and w itself."""
    features = torch.randn(rows, COLUMNS, generator=generator)
    weights = torch.randn(COLUMNS, 1, generator=generator)
    noise = NOISE * torch.randn(rows, 1, generator=generator)
    return TensorDataset(features, features @ weights + noise), weights


def train(
    model: nn.Module,
    batches: Batches,
    criterion: nn.Module,
    optimizer: mlc.SGD,
    scheduler: CosineAnnealingLR,
) -> float:
    """One pass over the data; returns the mean loss."""
    model.train()
    total, rows = 0.0, 0
    for features, target in batches:
        optimizer.zero_grad()
        loss = criterion(model(features), target)
        loss.backward()
        optimizer.step()
        scheduler.step()  # per batch, so that the decay is smooth
        total, rows = total + len(target) * loss.item(), rows + len(target)
    return total / rows


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, criterion: nn.Module) -> float:
    """The mean loss on data that was not trained on."""
    model.eval()
    total, rows = 0.0, 0
    for features, target in batches:
        loss = criterion(model(features), target)
        total, rows = total + len(target) * loss.item(), rows + len(target)
    return total / rows


def main() -> None:
    """Train, and compare the outcome with what is known."""
    parser = argparse.ArgumentParser(description="Mini-batch SGD with torch_mlcalc.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # A generator of our own: no other code that draws numbers can change the run.
    generator = torch.Generator().manual_seed(options.seed)
    data, true_weights = generate(options.rows, generator)
    training, validation = random_split(data, [0.8, 0.2], generator=generator)
    train_batches = DataLoader(
        training, options.batch_size, shuffle=True, generator=generator
    )
    validation_batches = DataLoader(validation, options.batch_size)

    model = nn.Linear(COLUMNS, 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # a convex problem needs no random start
    criterion = mlc.MSELoss()
    optimizer = mlc.SGD(model.parameters(), lr=options.lr, momentum=options.momentum)
    scheduler = CosineAnnealingLR(optimizer, options.epochs * len(train_batches))

    for epoch in tqdm(range(1, options.epochs + 1), unit="epoch"):
        train_loss = train(model, train_batches, criterion, optimizer, scheduler)
        validation_loss = evaluate(model, validation_batches, criterion)
        tqdm.write(
            f"epoch {epoch:>3}   loss: {train_loss:8.4f} training,"
            f" {validation_loss:8.4f} validation"
        )

    validation_loss = evaluate(model, validation_batches, criterion)
    error = (model.weight.detach().T - true_weights).square().mean().sqrt().item()
    limit = NOISE / math.sqrt(len(training))
    variance = torch.cat([target for _, target in validation_batches]).var().item()
    print(f"error of a weight: {error:.5f} (statistical limit {limit:.5f})")
    print(
        f"validation R^2: {1 - validation_loss / variance:.4f}"
        f" (with the true weights {1 - NOISE**2 / variance:.4f})"
    )


if __name__ == "__main__":
    main()
