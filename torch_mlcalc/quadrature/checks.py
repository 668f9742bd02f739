"""Refusing bad calls before any work, and the settings that all calls share."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from torch_mlcalc.quadrature.domains import Domain, Extent
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import FixedRule, Rule


class Settings(NamedTuple):
    """What the caller asked for besides the integral; see :func:`integrate`."""

    rtol: float | None
    atol: float | None
    max_evals: int | None
    memory: int | None
    on_failure: str


def check(
    function: Function,
    domain: object,
    rule: object,
    settings: Settings,
    progress: bool,
) -> Function:
    """Refuse what is not a domain, a rule or a setting; count points for a bar."""
    if not isinstance(domain, Domain):
        raise TypeError(
            f"domain is a {type(domain).__name__}; a domain is wanted, for example "
            "Interval(0, 1) or RealLine()."
        )
    if rule is not None and not isinstance(rule, Rule):
        raise TypeError(
            f"rule is a {type(rule).__name__}; a rule object is wanted, for example "
            "GaussLegendre(32), or None to have one chosen."
        )
    if settings.on_failure not in ("warn", "raise", "ignore"):
        raise ValueError(
            f"on_failure is {settings.on_failure!r}; "
            "'warn', 'raise' or 'ignore' is wanted."
        )
    for name in ("max_evals", "memory"):
        value = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"{name} is a {type(value).__name__}; an integer is wanted."
            )
        if value < 1:
            raise ValueError(f"{name} is {value}; at least 1 is wanted.")
    return _counting(function) if progress else function


def _counting(function: Function) -> Function:
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True shows a bar by tqdm, which is not installed: "
            "pip install 'torch_mlcalc[examples]'"
        ) from None
    bar = tqdm(unit=" points", unit_scale=True)

    def counted(points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        bar.update(points.numel())
        bar.refresh()
        return function(points, *args)

    return counted


def refuse_tolerance(rule: Rule, settings: Settings) -> None:
    """Refuse a tolerance that a fixed rule could not keep."""
    if settings.rtol is not None or settings.atol is not None:
        raise ValueError(
            f"rtol and atol have no effect with {rule}, whose nodes are fixed; leave "
            "them out, or use an adaptive rule such as GaussKronrod()."
        )


def refuse_fixed(rule: Rule | None) -> None:
    """Refuse a rule without an error estimate where one is asked for."""
    if isinstance(rule, (FixedRule, Plan)):
        raise ValueError(
            f"{rule} has no error estimate, as its nodes are fixed; use an adaptive "
            "rule such as GaussKronrod(), or none, or call integrate."
        )


def refuse_reversed(extent: Extent) -> None:
    """Refuse a negative integral where its log is asked for."""
    lower, upper = extent.lower, extent.upper
    reversed_ = lower > upper
    if isinstance(reversed_, Tensor):
        # On a GPU and in vmap reading this would stall or fail; the result is nan.
        reversed_ = readable(reversed_) and bool(reversed_.any())
    if reversed_:
        raise ValueError(
            f"the log of an integral needs lower <= upper, got lower={lower}, "
            f"upper={upper}; swap them."
        )
