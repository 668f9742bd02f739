"""A second look at a plan, by points that have nothing to do with it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.cubature.lattice import Lattice
from torch_mlcalc.quadrature.estimate import Estimate, Status, report
from torch_mlcalc.quadrature.host import transforming
from torch_mlcalc.quadrature.plan import Plan

#: 131,072 points see whatever fills more than about 1e-4 of the domain.
AUDITOR = Lattice(16384, replicates=8)

#: Any seed but that of calls without a generator.
SEED = 20_231

#: Half widths of the lattice's 95 % interval by which the two may differ. At 7 degrees
#: of freedom a right plan is blamed twice in 10,000 integrals.
WIDTHS = 3.0


def audit_settings(settings: Settings) -> Settings:
    """Settings of the lattice: one round, silent, seeded by the caller if wanted."""
    generator = settings.generator or torch.Generator().manual_seed(SEED)
    return Settings(None, None, None, settings.memory, "ignore", generator)


def audited(plan: Plan, value: Tensor, other: Estimate, settings: Settings) -> Plan:
    """The plan, with worse error and status where a lattice says something else.

    Args:
        plan: The plan.
        value: What it gives.
        other: What the lattice gives.
        settings: Of the call.

    Returns:
        The plan, or a copy of it.
    """
    with torch.no_grad():
        difference = (value.detach() - other.value.detach()).abs().double()
        tolerance = (settings.rtol or 0.0) * value.detach().abs().double()
        apart = ~(difference <= WIDTHS * other.error + plan.error + tolerance)
        # Equal infinities, as the log of 0, agree.
        apart &= value.detach() != other.value.detach()
        events = tuple(range(plan.status.ndim, apart.ndim))
        blamed = apart.any(events) if events else apart
        worst = torch.full_like(plan.status, int(Status.TOLERANCE_NOT_REACHED))
        status = torch.where(blamed, torch.maximum(plan.status, worst), plan.status)
        error = torch.where(apart, torch.maximum(plan.error, difference), plan.error)
    if not transforming() and bool(blamed.any()):
        detail = " An audit by a lattice disagrees: the search has missed something."
        news = torch.where(blamed, status, 0).cpu().numpy()
        report(news, detail, settings.on_failure, stacklevel=4)
    return replace(plan, status=status, error=error)  # type: ignore[type-var]
