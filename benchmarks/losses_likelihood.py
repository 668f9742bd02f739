"""Likelihoods against torch.nn: time and memory, truth first.

Forward and backward of a mean, with gradients for everything that a network puts out.
The truth is the formula in float64, written out here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Sections are run as modules beside this one, and the memory of a call in a process.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
import torch.nn.functional as F
from figures import Row, Timed, figure
from timing import extra_memories, medians, timer
from torch import Tensor

import torch_mlcalc as mlc

TITLE = "Likelihoods"
Loss = Callable[..., Tensor]

#: torch's time and memory, and this much more for the noise of the measurement.
MOST = 1.1
SIZES = {False: (1_000, 10_000_000), True: (1_000, 1_000_000)}
#: float32, and torch's Stirling's approximation, which is off by 0.02 on average.
TOLERANCE = 0.02


def gaussian_exact(mean: Tensor, target: Tensor, var: Tensor) -> Tensor:
    """The mean of the Gaussian likelihood."""
    return (0.5 * (var.log() + (mean - target).square() / var)).mean()


def poisson_exact(full: bool, log_rate: Tensor, count: Tensor) -> Tensor:
    """The mean of the Poisson likelihood."""
    loss = log_rate.exp() - count * log_rate
    return (loss + (count + 1).lgamma() if full else loss).mean()


def rate_exact(rate: Tensor, count: Tensor) -> Tensor:
    """The mean of the Poisson likelihood of rates."""
    return (rate - count * rate.log()).mean()


def gaussian_inputs(n: int) -> tuple[Tensor, ...]:
    """Means, values and variances far above eps."""
    generator = torch.Generator().manual_seed(0)
    mean, target = torch.randn(2, n, generator=generator)
    return mean, target, torch.rand(n, generator=generator) + 0.5


def poisson_inputs(log: bool, n: int) -> tuple[Tensor, ...]:
    """Rates and their counts."""
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(n, generator=generator) * 5 + 0.5
    count = torch.poisson(rate, generator=generator)
    return rate.log() if log else rate, count


#: Losses of torch and of this package, the exact one, the inputs, and which of them
#: have a gradient.
PAIRS: dict[str, tuple[Loss, Loss, Loss, Callable[[int], tuple[Tensor, ...]], str]] = {
    "GaussianNLLLoss": (
        F.gaussian_nll_loss,
        mlc.gaussian_nll_loss,
        gaussian_exact,
        gaussian_inputs,
        "yny",
    ),
    "GaussianNLLLoss, eps=1e-6": (
        F.gaussian_nll_loss,
        partial(mlc.gaussian_nll_loss, eps=1e-6),
        gaussian_exact,
        gaussian_inputs,
        "yny",
    ),
    "PoissonNLLLoss": (
        F.poisson_nll_loss,
        mlc.poisson_nll_loss,
        partial(poisson_exact, False),
        partial(poisson_inputs, True),
        "yn",
    ),
    "PoissonNLLLoss of rates": (
        partial(F.poisson_nll_loss, log_input=False),
        partial(mlc.poisson_nll_loss, log_input=False),
        rate_exact,
        partial(poisson_inputs, False),
        "yn",
    ),
    "PoissonNLLLoss, full": (
        partial(F.poisson_nll_loss, full=True),
        partial(mlc.poisson_nll_loss, full=True),
        partial(poisson_exact, True),
        partial(poisson_inputs, True),
        "yn",
    ),
}


def prepare(pair: str, method: str, n: int) -> Callable[[], list[Tensor]]:
    """Return the call that is measured: value and gradients."""
    torchs, ours, _, make, differentiated = PAIRS[pair]
    loss = ours if method == "ours" else torchs
    return call(loss, make(n), differentiated)


def call(
    loss: Loss, inputs: tuple[Tensor, ...], differentiated: str
) -> Callable[[], list[Tensor]]:
    """Return a call that gives the value and the gradients of a loss."""
    leaves = [
        tensor.clone().requires_grad_(which == "y")
        for tensor, which in zip(inputs, differentiated, strict=True)
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]

    def value_and_gradients() -> list[Tensor]:
        value = loss(*leaves)
        return [value.detach(), *torch.autograd.grad(value, wanted)]

    return value_and_gradients


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest error, relative to the largest number of each tensor."""
    return max(
        ((a.double() - b).abs().max() / b.abs().max()).item()
        for a, b in zip(found, exact, strict=True)
    )


def rows(quick: bool = False) -> Iterator[Row]:
    """Every figure asked for: its name, what was asked, what was reached, and how."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for pair in PAIRS:
            for n in SIZES[quick]:
                yield _time(pair, n, 5 if quick or n > 1000 else 60)
        yield from _memory(SIZES[quick][-1])
        yield _cox(2_000, 3 if quick else 9)
    finally:
        torch.set_num_threads(threads)


def _time(pair: str, n: int, rounds: int) -> Row:
    _, _, exact, make, differentiated = PAIRS[pair]
    calls = {name: prepare(pair, name, n) for name in ("ours", "torch")}
    doubles = tuple(each.double() for each in make(n))
    truth = call(exact, doubles, differentiated)()
    errors = {name: error(method(), truth) for name, method in calls.items()}
    seconds = medians({name: timer(each) for name, each in calls.items()}, rounds)
    timed = Timed(seconds, errors, TOLERANCE)
    return timed.ratio(f"{pair}, {n} elements", "ours", "torch", most=MOST)


def _memory(n: int) -> Iterator[Row]:
    calls = [(pair, method) for pair in PAIRS for method in ("ours", "torch")]
    found = extra_memories(
        "losses_likelihood",
        "prepare",
        [{"pair": pair, "method": method, "n": n} for pair, method in calls],
        warm_up={"n": 1000},
        environ={"OMP_NUM_THREADS": "1"},
    )
    used = dict(zip(calls, found, strict=True))
    for pair in PAIRS:
        ours, torchs = used[pair, "ours"], used[pair, "torch"]
        yield figure(
            f"{pair}, {n} elements: memory",
            "not above torch's",
            f"{ours:.0f} MiB",
            ours <= torchs + 1,
            f"torch {torchs:.0f} MiB; forward and backward, in a fresh process",
        )


def _cox(n: int, rounds: int) -> Row:
    generator = torch.Generator().manual_seed(0)
    eta = torch.randn(n, generator=generator, dtype=torch.float64)
    time = (torch.rand(n, generator=generator) * 200).ceil()
    event = torch.rand(n, generator=generator) < 0.6
    calls = {
        "ours": call(lambda x: mlc.cox_nll_loss(x, time, event), (eta,), "y"),
        "loop over times": call(lambda x: _loop(x, time, event), (eta,), "y"),
    }
    truth = calls["loop over times"]()
    errors = {name: error(method(), truth) for name, method in calls.items()}
    seconds = medians({name: timer(each) for name, each in calls.items()}, rounds)
    timed = Timed(seconds, errors, 1e-9)
    return figure(
        f"Cox, {n} subjects with ties (Efron): loop over times / ours",
        "nothing",
        f"{seconds['loop over times'] / seconds['ours']:.1f}",
        None,
        "; ".join(map(timed.described, seconds)),
    )


def _loop(eta: Tensor, time: Tensor, event: Tensor) -> Tensor:
    total = torch.zeros((), dtype=eta.dtype)
    for t in time[event].unique():
        died = (time == t) & event
        risk, tied = eta[time >= t].exp().sum(), eta[died].exp().sum()
        shares = torch.arange(int(died.sum()), dtype=eta.dtype) / died.sum()
        total = total + (risk - shares * tied).log().sum() - eta[died].sum()
    return total / event.sum()


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
