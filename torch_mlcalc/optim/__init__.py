"""Optimisers, drop-in for those of ``torch.optim``."""

from torch_mlcalc.optim.sgd import SGD

__all__ = ["SGD"]
