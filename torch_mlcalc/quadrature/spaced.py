"""Blocks of a long rule whose nodes are equally spaced: all alike but for their place.

Made one by one they took a quarter of the time of a cheap integrand. Here a block is an
addition to one that was placed before, and its weights are a part of those.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import Sum, accumulator
from torch_mlcalc.quadrature.domains import Limit
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.placement import FINITE, Placement
from torch_mlcalc.quadrature.rules import FixedRule


class SpacedBlocks:
    """Sums over the nodes from ``start`` to ``stop``, for at most ``size`` of them."""

    @staticmethod
    def fit(rule: FixedRule, placement: Placement) -> bool:
        """Whether the rule is such, and its place does not depend on a gradient."""
        kind, anchor, span, _ = placement
        if not (isinstance(kind, int) and kind == FINITE and rule.period):
            return False
        limits = [t for t in (anchor, span) if isinstance(t, Tensor)]
        if limits and (transforming() or dual_level()):
            return False
        return not any(t.requires_grad for t in limits)

    def __init__(
        self,
        rule: FixedRule,
        placement: Placement,
        integrand: Integrand,
        add: Sum,
        size: int,
    ) -> None:
        """Place the first block."""
        self.rule, self.integrand, self.add = rule, integrand, add
        self.dtype = accumulator(integrand.dtype)
        _, anchor, span, _ = placement
        self.anchor, self.span = (
            t.to(self.dtype) if isinstance(t, Tensor) else t for t in (anchor, span)
        )
        self.step = 2.0 / (rule.n - 1)
        device = integrand.device
        steps = torch.arange(size, device=device).to(self.dtype)
        steps = steps.reshape(-1, *(1,) * len(integrand.batch_shape))
        self.up = steps * (self.span * self.step)
        self.down = -self.up.flip(0)
        # Repeated on the device: to copy them takes as long as a cheap integrand.
        period = torch.from_numpy(rule.slice(1, 1 + rule.period)[1])
        period = period.to(device, self.dtype, non_blocking=True)
        self.weights: Tensor = period.repeat(size // rule.period + 2)
        self.log_weights = add.weigh(self.weights)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Sum over a block."""
        n, count = self.rule.n, stop - start
        # Counted from the nearer end, so that none is beyond it.
        if start < n // 2:
            points = self.up[:count] + self._place(self.step * start - 1.0)
        else:
            points = self.down[-count:] + self._place(1.0 - self.step * (n - stop))
        if points.dtype != self.integrand.dtype:
            points = points.to(self.integrand.dtype)
        if points.shape[1:] != self.integrand.batch_shape:
            points = points.expand(count, *self.integrand.batch_shape)
        weights, log_weights = self._weights(start, stop)
        return self.add(weights, log_weights, self.integrand(points))

    def _place(self, position: float) -> Limit:
        return self.anchor + self.span * position

    def _weights(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        first = (start - 1) % self.rule.period
        part = slice(first, first + stop - start)
        ends = [i for i in (0, self.rule.n - 1) if start <= i < stop]
        if not ends:
            return self.weights[part], self.log_weights[part]
        weights = self.weights[part].clone()
        for i in ends:
            weights[i - start] = self.rule.slice(i, i + 1)[1].item()
        return weights, self.add.weigh(weights)
