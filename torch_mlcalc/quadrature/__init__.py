"""Integrals: domains, rules, and the functions that join them."""

from torch_mlcalc.quadrature.adapt import adapt
from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.cubature import FixedCubature
from torch_mlcalc.quadrature.cubature.genz_malik import GenzMalik
from torch_mlcalc.quadrature.cubature.lattice import Lattice
from torch_mlcalc.quadrature.cubature.monte_carlo import MonteCarlo
from torch_mlcalc.quadrature.cubature.product import Product
from torch_mlcalc.quadrature.cubature.simplex import Simplex
from torch_mlcalc.quadrature.cubature.sobol import Sobol
from torch_mlcalc.quadrature.cubature.sparse_grid import SparseGrid
from torch_mlcalc.quadrature.cubature.tails import Tails
from torch_mlcalc.quadrature.cubature.torchquad import Torchquad
from torch_mlcalc.quadrature.cubature.vegas import Vegas
from torch_mlcalc.quadrature.cumulative import cumulative_integrate
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
from torch_mlcalc.quadrature.gauss import (
    GaussHermite,
    GaussJacobi,
    GaussLaguerre,
    GaussLegendre,
)
from torch_mlcalc.quadrature.gauss_kronrod import GaussKronrod
from torch_mlcalc.quadrature.integrate import (
    integrate,
    integrate_with_error,
    log_integrate,
    log_integrate_with_error,
)
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import (
    ClenshawCurtis,
    FixedRule,
    Rule,
    Simpson,
    TabulatedRule,
    Trapezoid,
)
from torch_mlcalc.quadrature.sampled import cumulative_simpson, simpson

__all__ = [
    "AdaptiveGaussHermite",
    "Box",
    "ClenshawCurtis",
    "Domain",
    "DoubleExponential",
    "Estimate",
    "FixedCubature",
    "FixedRule",
    "GaussHermite",
    "GaussJacobi",
    "GaussKronrod",
    "GaussLaguerre",
    "GaussLegendre",
    "GenzMalik",
    "HalfLine",
    "IntegrationError",
    "IntegrationWarning",
    "Interval",
    "Lattice",
    "MonteCarlo",
    "Plan",
    "Product",
    "RealLine",
    "Rule",
    "Simplex",
    "Simpson",
    "Sobol",
    "SparseGrid",
    "Status",
    "TabulatedRule",
    "Tails",
    "Torchquad",
    "Trapezoid",
    "Vegas",
    "adapt",
    "cumulative_integrate",
    "cumulative_simpson",
    "domain_of",
    "integrate",
    "integrate_with_error",
    "log_integrate",
    "log_integrate_with_error",
    "simpson",
]
