"""Optimisers, drop-in for those of ``torch.optim``."""

from torch_mlcalc.optim.sgd import SGD
from torch_mlcalc.optim.step_size import ArmijoStep, PolyakStep, StepSize
from torch_mlcalc.optim.update import sgd_step

__all__ = ["SGD", "ArmijoStep", "PolyakStep", "StepSize", "sgd_step"]
