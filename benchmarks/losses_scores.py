"""Scores of ensembles: time and memory next to the estimators that form all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from figures import Row, Timed, figure
from scoringrules import crps_ensemble
from timing import Timer, extra_memory, medians, timer
from torch import Tensor
from torchmetrics.functional.regression import continuous_ranked_probability_score

import torch_mlcalc as mlc

TITLE = "Scores of ensembles"
OURS = "torch_mlcalc"
PEERS = ("scoringrules nrg", "torchmetrics")
FORECASTS, MEMBERS = 64, 1000
TOLERANCE = 1e-6

Score = Callable[[Tensor, Tensor], Tensor]


def rows(quick: bool = False) -> Iterator[Row]:
    """Time and memory of value and gradient, each gated on the truth."""
    forecasts, members = (16, 300) if quick else (FORECASTS, MEMBERS)
    calls = {m: prepare(m, forecasts, members) for m in (OURS, *PEERS)}
    errors = {m: worst_error(call(), forecasts, members) for m, call in calls.items()}
    timers: dict[str, Timer] = {m: timer(call) for m, call in calls.items()}
    timed = Timed(medians(timers, rounds=3 if quick else 5), errors, TOLERANCE)
    name = f"CRPS of {forecasts} ensembles of {members}, value and gradient"
    for peer in PEERS:
        yield timed.ratio(name, peer, OURS, least=50)
    needed = {
        m: extra_memory(
            "losses_scores",
            "prepare",
            warm_up={"forecasts": 2, "members": 10},
            method=m,
            forecasts=forecasts,
            members=members,
        )
        for m in (OURS, *PEERS)
    }
    for peer in PEERS:
        ratio = needed[peer] / needed[OURS]
        right = timed.is_right(peer) and timed.is_right(OURS)
        yield figure(
            f"{name}, memory: {peer} / {OURS}",
            "at least 50",
            f"{ratio:.0f}" if right else "wrong, so no memory counts",
            right and ratio >= 50,
            "; ".join(f"{m} {mib:.1f} MiB" for m, mib in needed.items()),
        )


def prepare(
    method: str, forecasts: int, members: int
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return the call that is measured: mean score and gradient in the members."""
    score, (input, target) = SCORES[method], data(forecasts, members)
    input.requires_grad_()

    def call() -> tuple[Tensor, Tensor]:
        loss = score(input, target)
        (gradient,) = torch.autograd.grad(loss, input)
        return loss.detach(), gradient

    return call


def data(forecasts: int, members: int) -> tuple[Tensor, Tensor]:
    """Draw ensembles and observations of the standard normal distribution."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(forecasts, members, generator=generator)
    return input, torch.randn(forecasts, generator=generator)


def scoringrules_energy_form(input: Tensor, target: Tensor) -> Tensor:
    """The estimator of scoringrules that forms all pairs, with gradients by torch."""
    return crps_ensemble(target, input, estimator="nrg", backend="torch").mean()


SCORES: dict[str, Score] = {
    OURS: mlc.ensemble_crps_loss,
    "scoringrules nrg": scoringrules_energy_form,
    "torchmetrics": continuous_ranked_probability_score,
}


def worst_error(found: tuple[Tensor, Tensor], forecasts: int, members: int) -> float:
    """Largest error relative to the largest number, from all pairs in float64."""
    input, target = (x.double() for x in data(forecasts, members))
    scores, slopes = [], []
    for x, y in zip(input, target, strict=True):
        pairs = x[:, None] - x
        scores.append((x - y).abs().mean() - pairs.abs().mean() / 2)
        slopes.append(((x - y).sign() - pairs.sign().mean(1)) / members / forecasts)
    exact = torch.stack(scores).mean(), torch.stack(slopes)
    return max(
        ((ours - truth).abs().max() / truth.abs().max()).item()
        for ours, truth in zip(found, exact, strict=True)
    )
