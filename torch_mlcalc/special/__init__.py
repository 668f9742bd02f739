"""Special functions that torch lacks, or lacks the derivatives of.

They are plain torch: differentiable in all arguments, to any order and in any mode,
under ``vmap`` and ``torch.compile``, in ``float32`` and ``float64``, on any device.
"""

from torch_mlcalc.special.beta import betainc, betaincc
from torch_mlcalc.special.gamma import gammainc, gammaincc
from torch_mlcalc.special.student import stdtr

__all__ = ["betainc", "betaincc", "gammainc", "gammaincc", "stdtr"]
