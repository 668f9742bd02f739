"""Logistic mixed models by marginal maximum likelihood.

Every herd (or patient) has an intercept of its own, normal with standard deviation
sigma, which is integrated out: one integral per group, all in one call, differentiable.
AdaptiveGaussHermite finds each group's mode and as many nodes as the group needs. With
one node it is the Laplace approximation, which the toenail data defeat.

    python examples/mixed_model.py
    python examples/mixed_model.py --dataset cbpp --nodes 1 25
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mixed_model_picture import save_picture
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).parent


class Groups(NamedTuple):
    """Binomial observations ``(groups, rows)`` with features ``(groups, rows, k)``.

    Rows that fill up a group have 0 trials and so a likelihood of 1.
    """

    features: Tensor
    successes: Tensor
    trials: Tensor

    def log_joint(self, z: Tensor, beta: Tensor, sigma: Tensor) -> Tensor:
        """Log density of a group's data and its intercept ``sigma * z``, z normal."""
        logits = self.features @ beta + sigma * z[..., None]
        log_likelihood = self.successes * logits - self.trials * softplus(logits)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
        return log_likelihood.sum(-1) + prior

    @property
    def log_choices(self) -> Tensor:
        """Log of the binomial coefficients, which no parameter enters."""
        n, k = self.trials, self.successes
        return (
            torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        ).sum()

    @property
    def saturated(self) -> Tensor:
        """Log likelihood with a probability for every row, less ``log_choices``."""
        n, k = self.trials, self.successes
        return (k.xlogy(k / n) + (n - k).xlogy(1 - k / n)).nansum()


class Fit(NamedTuple):
    """Maximum likelihood with a number of nodes; None for as many as needed."""

    nodes: int | None
    log_likelihood: float
    beta: list[float]
    sigma: float


def load(name: str) -> tuple[Groups, dict[str, Any]]:
    """A data set, and what was published about it."""
    data = json.loads((HERE / "data" / f"{name}.json").read_text(encoding="utf-8"))
    features: list[list[list[float]]] = []
    if name == "cbpp":
        rows = list(zip(data["herd"], data["period"], strict=True))
        herds = sorted(set(data["herd"]))
        index = [[i for i, (h, _) in enumerate(rows) if h == herd] for herd in herds]
        for group in index:
            period = [data["period"][i] for i in group]
            features.append(
                [[1.0, *(float(p == q) for q in (2, 3, 4))] for p in period]
            )
        successes = [[data["incidence"][i] for i in group] for group in index]
        trials = [[data["size"][i] for i in group] for group in index]
    else:
        treated = data["terbinafine"]
        for group, months in zip(treated, data["months"], strict=True):
            features.append([[1.0, group, m, group * m] for m in months])
        successes = data["infected"]
        trials = [[1] * len(group) for group in successes]
    return Groups(pad(features), pad(successes), pad(trials)), data["published"]


def pad(rows: list[Any]) -> Tensor:
    """Lists of unequal length as one tensor, zeros behind."""
    tensors = [torch.tensor(row, dtype=torch.float64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def log_likelihood(groups: Groups, theta: Tensor, nodes: int | None) -> Tensor:
    """Sum over the groups of the log of the integral over their intercept."""
    return mlc.log_integrate(
        lambda z, *rows: Groups(*rows).log_joint(z, theta[:-1], theta[-1]),
        mlc.RealLine(),
        mlc.AdaptiveGaussHermite(nodes),
        args=groups,
        batch_shape=groups.trials.shape[:1],
    ).sum()


def fit(groups: Groups, nodes: int | None) -> Fit:
    """Maximise the likelihood from coefficients of 0 and a sigma of 1."""
    theta = torch.zeros(groups.features.shape[-1] + 1, dtype=torch.float64)
    theta[-1] = 1.0
    theta.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [theta],
        max_iter=200,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -log_likelihood(groups, theta, nodes)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        value = log_likelihood(groups, theta, nodes) + groups.log_choices
    *beta, sigma = theta.tolist()
    return Fit(nodes, value.item(), beta, abs(sigma))


def print_table(name: str, groups: Groups, fits: list[Fit], published: Any) -> None:  # noqa: ANN401
    """Fits by number of nodes, and the published numbers."""
    print(f"\n{name}: {len(groups.trials)} groups, {int(groups.trials.sum())} trials")
    print(f"{'nodes':>8}{'log L':>16}{'deviance':>16}{'sigma':>9}  coefficients")
    for found in fits:
        nodes = "default" if found.nodes is None else str(found.nodes)
        relative = found.log_likelihood - (groups.saturated + groups.log_choices).item()
        beta = " ".join(f"{b:8.5f}" for b in found.beta)
        print(
            f"{nodes:>8}{found.log_likelihood:16.8f}{-2 * relative:16.9f}"
            f"{found.sigma:9.5f}  {beta}"
        )
    for what, number in published.items():
        print(f"published {what}: {number}")


def main() -> None:
    """Fit both data sets with several numbers of nodes."""
    parser = argparse.ArgumentParser(description="Logistic mixed models.")
    parser.add_argument("--dataset", choices=["cbpp", "toenail"])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 5, 11, 25])
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    names = [arguments.dataset] if arguments.dataset else ["cbpp", "toenail"]
    numbers = [*arguments.nodes, None]
    results = {}
    with tqdm(total=len(names) * len(numbers), unit="fit") as bar:
        for name in names:
            groups, published = load(name)
            fits = []
            for nodes in numbers:
                fits.append(fit(groups, nodes))
                bar.update()
            results[name] = (groups, fits, published)
    for name, (groups, fits, published) in results.items():
        print_table(name, groups, fits, published)
    drawn = {name: (groups, fits) for name, (groups, fits, _) in results.items()}
    print(f"\nPicture: {save_picture(drawn, arguments.output)}")


if __name__ == "__main__":
    main()
