"""Calculus for PyTorch training: exact losses, a hand-written SGD, integrals.

Each part states its public names once, in its own ``__all__``; all of them are
importable from here.
"""

from torch_mlcalc import density as _density
from torch_mlcalc import layers as _layers
from torch_mlcalc import losses as _losses
from torch_mlcalc import optim as _optim
from torch_mlcalc import quadrature as _quadrature
from torch_mlcalc import special, testing
from torch_mlcalc.density import *
from torch_mlcalc.layers import *
from torch_mlcalc.losses import *
from torch_mlcalc.optim import *
from torch_mlcalc.quadrature import *

__all__ = ["special", "testing"]
__all__ += _density.__all__
__all__ += _layers.__all__
__all__ += _losses.__all__
__all__ += _optim.__all__
__all__ += _quadrature.__all__
