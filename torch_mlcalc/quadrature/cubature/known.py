"""Grids and plans between numbers, which are placed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    BLOCK_BYTES,
    LinearSum,
    LogSum,
    accumulator,
)
from torch_mlcalc.quadrature.cubature.box import Box, Solid
from torch_mlcalc.quadrature.cubature.chart import Placed
from torch_mlcalc.quadrature.cubature.cubature import FixedCubature
from torch_mlcalc.quadrature.cubature.nodes import block_of_nodes
from torch_mlcalc.quadrature.cubature.product import Product
from torch_mlcalc.quadrature.cubature.region_plan import RegionPlan
from torch_mlcalc.quadrature.cubature.sparse_grid import SparseGrid
from torch_mlcalc.quadrature.host import (
    dual_level,
    frozen,
    is_plain,
    kept,
    transforming,
)
from torch_mlcalc.quadrature.integrand import (
    HALF,
    Function,
    Integrand,
    as_result,
    checked,
    default_device,
)

if TYPE_CHECKING:
    from torch_mlcalc.quadrature.rules import Rule

Corner = tuple[float, ...]


class Known(NamedTuple):
    """Points ``(n, d)`` in a box, and their Lebesgue weights ``(n)`` or the logs."""

    points: Tensor
    weights: Tensor


def known_nodes(
    rule: Rule,
    domain: Solid,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    *,
    log: bool = False,
) -> Known | None:
    """The nodes of a rule, if they lie between numbers and fit into one block.

    Args:
        rule: Any rule, or a plan.
        domain: Any domain.
        dtype: That of the points; None for torch's default, which the limits must not
            settle otherwise.
        device: Where they are; None likewise.
        log: Whether the logs of the weights are wanted. Of a plan, which may have
            negative ones, there are none.

    Returns:
        The nodes, or None.
    """
    if type(domain) is not Box or torch.compiler.is_compiling():
        return None
    d = domain.dimension
    if isinstance(rule, RegionPlan):
        # Within a transform the plan may be mapped as well.
        if log or transforming() or not rule.is_alone or rule.dimension != d:
            return None
        count = rule.n
    elif isinstance(rule, (Product, SparseGrid)):
        count = rule.count(d)
    else:
        return None
    corners = domain.corners or (_read_corners(domain) if dtype else None)
    if corners is None or 8 * d * count > BLOCK_BYTES:
        return None
    dtype, device = dtype or torch.get_default_dtype(), device or default_device()
    return None if dtype in HALF else _placed(rule, *corners, dtype, device, log)


def _read_corners(box: Box) -> tuple[Corner, Corner] | None:
    """Corners that are tensors without a batch, where to read them costs nothing."""
    lower, upper = box.lower, box.upper
    if not isinstance(lower, Tensor) or not isinstance(upper, Tensor) or dual_level():
        return None
    for limits in (lower, upper):
        if limits.ndim != 1 or limits.requires_grad or not is_plain(limits):
            return None
    return Box(lower.tolist(), upper.tolist(), box.dimension).corners


@kept(32)
def _placed(
    rule: FixedCubature | RegionPlan,
    lower: Corner,
    upper: Corner,
    dtype: torch.dtype,
    device: torch.device,
    log: bool,
) -> Known:
    box = Box(lower, upper)
    integrand = Integrand(_nobody, (), (), dtype, device, box.dimension)
    with frozen():
        if isinstance(rule, RegionPlan):
            assert rule.tails is not None  # noqa: S101
            chart = box.chart(integrand, rule.tails)
            placed = Placed(*rule.placed(integrand, chart))
        else:
            chart = box.chart(integrand)
            nodes = rule.nodes(chart)
            placed = nodes.block(0, nodes.n, chart, log=log)
        assert placed.density is not None  # noqa: S101
        weights = chart.scale(placed.density.to(accumulator(dtype)), log=log)
        return Known(placed.points.to(dtype), weights)


def _nobody(*_: Any) -> Tensor:  # noqa: ANN401
    raise AssertionError("places nodes, has no integrand")


def apply_at_once(rule: Rule, domain: Solid, function: Function) -> Tensor | None:
    """The integral of a function without args, all in one call.

    Of 5^3 nodes it takes 32 microseconds, where the integrand and the sum alone take
    11, and with nodes that are placed anew 400.

    Returns:
        The integral, or None where there is more to it.
    """
    known = known_nodes(rule, domain)
    if known is None:
        return None
    # An integrand may write to its points.
    values = checked(function(known.points.clone()), known.points, domain.dimension)
    return LinearSum()(known.weights, known.weights, values)


def apply_known(
    rule: Rule, domain: Solid, integrand: Integrand, *, log: bool
) -> Tensor | None:
    """The same, or its log, of a batch with args."""
    if integrand.ranks is not None:
        return None
    known = known_nodes(rule, domain, integrand.dtype, integrand.device, log=log)
    if known is None:
        return None
    points, weights = known
    n, d = points.shape
    if n > block_of_nodes(n, integrand, None).unseen:
        return None
    batch = integrand.batch_shape
    points = points.clone()
    if batch:
        points = points.view(n, *(1,) * len(batch), d).expand(n, *batch, d)
    add = LogSum() if log else LinearSum()
    return as_result(add(weights, weights, integrand(points)), integrand)
