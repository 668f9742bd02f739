"""Survival likelihoods of 2 000 subjects: truth and time next to torchsurv.

The hazard is that of Gompertz with features, whose likelihood is known:
``h(t) = exp(a + x b + c t)``, so that the hazard up to ``t`` is
``exp(a + x b) (exp(c t) - 1) / c``. Both methods start from the parameters and end with
their gradient. torchsurv takes the log hazard on a grid of times that all subjects
share, and walks over the subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from figures import Row, Timed, figure
from timing import medians, timer
from torch import Tensor

import torch_mlcalc as mlc

TITLE = "Survival likelihood"
SUBJECTS, FEATURES = 2000, 3
#: Points of the grid: 100, and as many as make up for the trapezoids.
GRIDS = (100, 1000)
TOLERANCE = 1e-6

Call = Callable[[], tuple[Tensor, ...]]


class Cohort:
    """Subjects with features, times and events, and the parameters of their hazard."""

    def __init__(self) -> None:
        """Draw them, half of them censored, from a seed of their own."""
        generator = torch.Generator().manual_seed(0)
        double = {"dtype": torch.float64, "generator": generator}
        self.x = 0.5 * torch.randn(SUBJECTS, FEATURES, **double)
        self.time = 0.1 + 9.9 * torch.rand(SUBJECTS, **double)
        self.event = torch.rand(SUBJECTS, **double) < 0.5
        values = ([-3.0], [0.5, -0.3, 0.2], [0.35])
        self.parameters = [
            torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values
        ]

    def log_hazard(self, t: Tensor, x: Tensor) -> Tensor:
        """At times ``(n, subjects)``."""
        level, slopes, growth = self.parameters
        return level + x @ slopes + growth * t

    def with_gradient(self, loss: Callable[[], Tensor]) -> Call:
        """A loss as a call that also returns its gradient."""

        def call() -> tuple[Tensor, ...]:
            value = loss()
            return (value.detach(), *torch.autograd.grad(value, self.parameters))

        return call

    def closed_form(self) -> Tensor:
        """The truth."""
        level, slopes, growth = self.parameters
        rate = (level + self.x @ slopes).exp()
        exposed = rate * torch.expm1(growth * self.time) / growth
        at_event = self.log_hazard(self.time, self.x)
        return (exposed - torch.where(self.event, at_event, 0)).mean()

    def by_integral(self, rule: mlc.Rule | None) -> Tensor:
        """What the package does."""
        return mlc.hazard_nll_loss(
            self.log_hazard, self.time, self.event, args=(self.x,), rule=rule
        )

    def by_torchsurv(self, count: int) -> Tensor:
        """What torchsurv does with a grid of so many times."""
        from torchsurv.loss.survival import neg_log_likelihood

        grid = torch.linspace(0, 10, count, dtype=torch.float64)
        log_hazard = self.log_hazard(grid[:, None], self.x).T
        return neg_log_likelihood(log_hazard, self.event, self.time, grid)


def rows(quick: bool = False) -> Iterator[Row]:
    """How right each method is, and how long it takes."""
    cohort = Cohort()
    calls: dict[str, Call] = {
        "GaussLegendre(16)": cohort.with_gradient(
            lambda: cohort.by_integral(mlc.GaussLegendre(16))
        ),
        "default": cohort.with_gradient(lambda: cohort.by_integral(None)),
    }
    for count in GRIDS:
        calls[f"torchsurv, {count} times"] = cohort.with_gradient(
            lambda count=count: cohort.by_torchsurv(count)
        )
    truth = cohort.with_gradient(cohort.closed_form)()
    errors = {name: error(call(), truth) for name, call in calls.items()}
    yield from (_right(name, errors[name]) for name in calls)
    # The coarser grid alone is timed, though it is wrong: to be right takes longer.
    timed_calls = {
        n: c for n, c in calls.items() if n != f"torchsurv, {GRIDS[1]} times"
    }
    seconds = medians(
        {name: timer(call) for name, call in timed_calls.items()},
        rounds=3 if quick else 9,
        burst=0.1,
    )
    timed = Timed(seconds, errors, TOLERANCE)
    *ours, peer = timed_calls
    for name in ours:
        ratio = seconds[peer] / seconds[name]
        yield figure(
            f"{SUBJECTS} subjects, value and gradient: {peer} / {name}",
            "at least 100",
            f"{ratio:.0f}" if timed.is_right(name) else "wrong, so no time counts",
            timed.is_right(name) and ratio >= 100,
            "; ".join(map(timed.described, seconds)),
        )


def _right(name: str, error: float) -> Row:
    ours = "torchsurv" not in name
    return figure(
        f"error of value and gradient: {name}",
        f"at most {TOLERANCE:.0e}" if ours else "",
        f"{error:.1e}",
        error <= TOLERANCE if ours else None,
        "largest relative error against the closed form",
    )


def error(found: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """Largest error of value and gradient, each relative to its largest element."""
    return max(
        ((f - t).abs().max() / t.abs().max()).item()
        for f, t in zip(found, truth, strict=True)
    )
