"""Integrals: domains, rules, and the functions that join them."""

from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.domains import (
    Domain,
    HalfLine,
    Interval,
    RealLine,
    domain_of,
)
from torch_mlcalc.quadrature.double_exponential import DoubleExponential
from torch_mlcalc.quadrature.estimate import (
    Estimate,
    IntegrationError,
    IntegrationWarning,
    Status,
)
from torch_mlcalc.quadrature.gauss_kronrod import GaussKronrod
from torch_mlcalc.quadrature.integrate import (
    adapt,
    integrate,
    integrate_with_error,
    log_integrate,
    log_integrate_with_error,
)
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import (
    ClenshawCurtis,
    FixedRule,
    GaussHermite,
    GaussJacobi,
    GaussLaguerre,
    GaussLegendre,
    Rule,
    Simpson,
    TabulatedRule,
    Trapezoid,
)

__all__ = [
    "Box",
    "ClenshawCurtis",
    "Domain",
    "DoubleExponential",
    "Estimate",
    "FixedRule",
    "GaussHermite",
    "GaussJacobi",
    "GaussKronrod",
    "GaussLaguerre",
    "GaussLegendre",
    "HalfLine",
    "IntegrationError",
    "IntegrationWarning",
    "Interval",
    "Plan",
    "RealLine",
    "Rule",
    "Simpson",
    "Status",
    "TabulatedRule",
    "Trapezoid",
    "adapt",
    "domain_of",
    "integrate",
    "integrate_with_error",
    "log_integrate",
    "log_integrate_with_error",
]
