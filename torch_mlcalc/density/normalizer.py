"""The normaliser of a density: the search for its nodes, and its value there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.density.known import Heard, Known
from torch_mlcalc.density.pieces import in_pieces
from torch_mlcalc.density.smooth import is_smooth
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.quadrature.adapt import adapt
from torch_mlcalc.quadrature.contract import BLOCK_BYTES
from torch_mlcalc.quadrature.cubature.box import DETERMINISTIC, Solid
from torch_mlcalc.quadrature.estimate import Status, report
from torch_mlcalc.quadrature.host import dual_level, read, readable, transforming
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import log_integrate
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import FixedRule, Rule
from torch_mlcalc.quadrature.slopes import length_of

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Wanted error of a log normaliser in single precision and several dimensions. At that
#: of other integrals, 3e-4, two small grids in three dimensions agree and are 5e-3 off;
#: rounding leaves a curved density in two dimensions 5e-5.
SINGLE = 1e-4

#: How near to an end, in units of rounding, the gradient of a density is looked at, and
#: by which part of that inside, where no rule has a node, it must change on the way.
NEXT, STEEP, INSIDE = 16, 1e-3, 0.37


def find_plan(density: NormalizedDensity) -> Plan:
    """Search for the nodes of the normaliser."""
    return _search(density, density.rule, **density._search | _sharper(density))


def find_other_plan(density: NormalizedDensity) -> Plan:
    """Search for nodes of other functions, where those of the normaliser won't do."""
    settings = density._search | {"rtol": None, "atol": None, "on_failure": "ignore"}
    return _search(density, None, **settings)


def find_steep_plan(density: NormalizedDensity, plan: Plan) -> Plan:
    """Nodes that are right for the gradient too, where it is singular at an end.

    A polynomial is integrated at once, but the derivative by its power has a logarithm
    in it: of Beta(1, 1) it was 9e-4 off, and of Beta(2, 2) 2e-6.

    Args:
        density: The density.
        plan: The nodes for its normaliser.

    Returns:
        Others, or the same if there is nothing to be seen at the ends.
    """
    if _hidden() or not _is_coarse(plan) or not _is_steep(density):
        return plan
    settings = density._search | {"on_failure": "ignore"}
    grad_rtol = torch.finfo(density.dtype).eps ** 0.5
    found = _search(density, density.rule, **settings, grad_rtol=grad_rtol)
    return plan if (read(found.status) > 0).any() else found


def _is_coarse(plan: Plan) -> bool:
    """Whether nodes do not gather at some end, as those for singular ends do."""
    assert isinstance(plan, LinePlan)  # noqa: S101
    for cells in plan.cells:
        positions, _, _, low, high = cells
        eps = torch.finfo(positions.dtype).eps
        at_end = ((low == 0) | (high == 1)).reshape(-1)
        near = positions.reshape(len(positions), -1).abs().amin(0)
        if (read(at_end & (near > eps**0.5)) > 0).any():
            return True
    return False


def _is_steep(density: NormalizedDensity) -> bool:
    """Whether the gradient of the log density grows towards a finite end."""
    lower, upper, _, scale = (
        torch.as_tensor(t, dtype=density.dtype, device=density.device).detach()
        for t in extent_of(density.domain)
    )
    length = torch.where((upper - lower).isfinite(), upper - lower, scale)
    inside = INSIDE * length
    middle = torch.where(lower.isfinite(), lower + inside, upper - inside)
    ends = [(t, s) for t, s in ((lower, 1), (upper, -1)) if read(t.isfinite()).any()]
    if not ends:
        return False
    # One point, none of those below, tells of most networks that nothing is to be seen.
    one = (middle + STEEP * length).expand(1, *density.batch_shape)
    one = one.clone().requires_grad_()
    if is_smooth(density.log_unnormalized(one, *density.args), one):
        return False
    eps, rows = torch.finfo(density.dtype).eps, [middle]
    # A logarithm differs by 15 between the two, what is smooth by 1e-8.
    for part in (NEXT * eps, eps**0.5):
        step = part * length
        rows += [torch.where(t.isfinite(), t + s * step, middle) for t, s in ends]
    points = torch.stack([t.expand(density.batch_shape) for t in rows])
    values = density.log_unnormalized(points, *density.args)
    if not values.requires_grad:
        return False
    near, far = values[1:].chunk(2)
    return length_of((near - far).sum()) > STEEP * length_of(values[0].sum())


def _hidden() -> bool:
    """Whether transforms hide the graph that a look at the gradient needs."""
    return transforming() or dual_level() or torch.compiler.is_compiling()


def _search(density: NormalizedDensity, rule: Rule | None, **settings: Any) -> Plan:  # noqa: ANN401
    settings.setdefault("grad_rtol", None if _hidden() else density._grad_rtol)
    function, args = density._asked
    return adapt(
        # The first search has nothing to look up.
        function.record if isinstance(function, Known) else function,
        density.domain,
        rule,
        log=True,
        memory=density._block,
        args=args,
        **density._shape,
        **settings,
    )


def log_normalizer(density: NormalizedDensity) -> Tensor:
    """Log of the integral, by the nodes that were found or given."""
    plan, heard = density._plan, None
    function, args = density.log_unnormalized, density.args
    training = density._fixed and torch.is_grad_enabled()
    if training and not density._memory.knows("values"):
        # A step of a training run: a look at what is known costs more.
        function = _in_pieces(density)
        # A GPU would have to be waited for.
        if density.device.type == "cpu":
            function = heard = Heard(function)
    else:
        function, args = density._asked
    log_z = log_integrate(
        function,
        density.domain,
        plan,
        args=args,
        memory=density._block,
        max_evals=density._search["max_evals"] if density._fixed else None,
        **density._shape,
    )
    if log_z.shape != density.batch_shape:
        raise ValueError(
            f"the log density has values with event dimensions "
            f"{tuple(log_z.shape[len(density.batch_shape) :])}; one number for each "
            "point is wanted."
        )
    if heard is not None and heard.pairs and not density.event_shape:
        density._known.remember(heard.pairs)
    # Where nodes were looked for a GPU has been waited for.
    eager = not (transforming() or torch.compiler.is_compiling())
    if readable(log_z) or (eager and not density._fixed):
        empty = read(~log_z.isfinite()).astype(bool)
        detail = " A density without any mass, or an infinite one, has no log."
        report(
            empty * int(Status.SUSPECTED_DIVERGENT),
            detail,
            density._search["on_failure"],
            stacklevel=5,
        )
    return log_z


def _in_pieces(density: NormalizedDensity) -> Function:
    """The log density on a few nodes at a time, unless they come in blocks."""
    rule, count = density.rule, density.batch_shape.numel()
    bytes_each = count * density.dtype.itemsize
    short = isinstance(rule, FixedRule) and rule.n * bytes_each <= BLOCK_BYTES
    # On a GPU pieces would be many small kernels.
    on_cpu = density.device.type == "cpu"
    few = short and on_cpu and count > 1 and density._block is None
    return in_pieces(density.log_unnormalized) if few else density.log_unnormalized


def _sharper(density: NormalizedDensity) -> dict[str, Any]:
    """The default tolerance of what is chosen by default."""
    domain, search = density.domain, density._search
    few = isinstance(domain, Solid) and domain.dimension <= DETERMINISTIC
    asked = search["rtol"] is not None or search["atol"] is not None
    if density.rule is not None or asked or not few:
        return {}
    return {"rtol": min(torch.finfo(density.dtype).eps ** 0.5, SINGLE)}
