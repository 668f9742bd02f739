"""The normaliser of a density: the search for its nodes, and its value there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.density.known import Heard, Known
from torch_mlcalc.density.pieces import in_pieces
from torch_mlcalc.quadrature.contract import BLOCK_BYTES
from torch_mlcalc.quadrature.cubature.box import DETERMINISTIC, Solid
from torch_mlcalc.quadrature.estimate import Status, report
from torch_mlcalc.quadrature.host import dual_level, read, readable, transforming
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import adapt, log_integrate
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import FixedRule, Rule

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Wanted error of a log normaliser in single precision and several dimensions. At that
#: of other integrals, 3e-4, two small grids in three dimensions agree and are 5e-3 off;
#: rounding leaves a curved density in two dimensions 5e-5.
SINGLE = 1e-4


def find_plan(density: NormalizedDensity) -> Plan:
    """Search for the nodes of the normaliser."""
    return _search(density, density.rule, **density._search | _sharper(density))


def find_other_plan(density: NormalizedDensity) -> Plan:
    """Search for nodes of other functions, where those of the normaliser won't do."""
    settings = density._search | {"rtol": None, "atol": None, "on_failure": "ignore"}
    return _search(density, None, **settings)


def _search(density: NormalizedDensity, rule: Rule | None, **settings: Any) -> Plan:  # noqa: ANN401
    # Transforms hide the graph that a look at the gradient needs.
    hidden = transforming() or dual_level() or torch.compiler.is_compiling()
    function, args = density._asked
    return adapt(
        # The first search has nothing to look up.
        function.record if isinstance(function, Known) else function,
        density.domain,
        rule,
        log=True,
        grad_rtol=None if hidden else density._grad_rtol,
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
        function = heard = Heard(_in_pieces(density))
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
