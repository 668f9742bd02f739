r"""The normaliser of the densities that belong to Barron's losses.

.. math:: Z(\alpha) = \int_{-\infty}^{\infty} e^{-\rho(x, \alpha)}\, dx

There is no closed form. With :math:`x = \sqrt b \sinh t`, :math:`b = |\alpha - 2|`, the
loss is :math:`b / \alpha \cdot (\cosh^\alpha t - 1)` and the trapezoidal rule in
:math:`t` converges exponentially for all shapes from 0 to infinity. The nodes take no
part in the derivatives: these are sums over the derivatives of the loss at fixed
:math:`x`, which cancel nowhere.
"""

import torch
from torch import Tensor

from torch_mlcalc.losses.blocks import sum_over_blocks
from torch_mlcalc.losses.robust.shape import general
from torch_mlcalc.quadrature.host import kept

# Spaces between the nodes. The largest error over shapes from 0 to 1e5, against mpmath,
# is 3e-6, 2e-8, 1e-10, 2e-12 and 4e-16 with 60, 80, 100, 120 and 160; the derivative
# has all digits from 200 on. Value and derivative take a fifth of the time that they
# take by torch_mlcalc.log_integrate, which has to find out where to put its nodes.
_SPACES = 200
# Where the integrand is below exp(-40) = 4e-18 of what it is at 0.
_CUT = 40.0
# Above, the integrand is to 1e-6 that of the infinite shape, for which the nodes do.
_LARGEST = 1e6


@kept(256)
def log_normalizer_of(alpha: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same of a number, once and for all: it takes most of a small loss."""
    return log_normalizer(torch.full((), alpha, dtype=dtype, device=device))


def log_normalizer(alpha: Tensor) -> Tensor:
    """Return the log of the normaliser, infinite for negative shapes.

    Computed in float64, of which there is one number for each shape, not for each
    residual.

    Args:
        alpha: Shapes.

    Returns:
        A tensor of the shape and the dtype of ``alpha``.
    """
    a = alpha.double()
    proper = torch.where(a < 0, 1, a)
    nodes, weights = _nodes_and_weights(proper.detach())

    def term(
        begin: int, end: int, nodes: Tensor, weights: Tensor, shape: Tensor
    ) -> tuple[Tensor]:
        density = torch.exp(-general(nodes[begin:end], shape))
        return ((weights[begin:end] * density).sum(0),)

    normalizer = sum_over_blocks(term, _SPACES + 1, a.numel(), nodes, weights, proper)
    return torch.where(a < 0, torch.inf, normalizer.log()).to(alpha.dtype)


def _nodes_and_weights(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return positive nodes ``(n, *)`` and weights of the whole line."""
    a = alpha.clamp(max=_LARGEST)
    # At 2 the width would be 0; there and next to it any small one does.
    b = (a - 2).abs().clamp(min=torch.finfo(a.dtype).eps)
    # The log of cosh t at which the loss is 80; for shapes near 0, where it grows as
    # 2 log cosh t alone, that at which the loss less the log of the Jacobian is 40.
    small = a * _CUT < 1e-9
    end = (2 * _CUT * torch.where(small, 1, a) / b).log1p() / torch.where(small, 1, a)
    log_cosh = torch.where(small, _CUT, end.clamp(max=_CUT))
    last = log_cosh + (1 + (-torch.expm1(-2 * log_cosh)).sqrt()).log()
    step = last / _SPACES
    place = torch.arange(_SPACES + 1, dtype=a.dtype, device=a.device)
    t = step * place.view(-1, *[1] * a.ndim)
    weights = 2 * step * b.sqrt() * t.cosh()
    halved = torch.where(place == 0, 0.5, 1.0).view(-1, *[1] * a.ndim)
    return b.sqrt() * t.sinh(), halved.to(a.dtype) * weights
