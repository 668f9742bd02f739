"""What every loss with an integral inside has to do, whatever its formula."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torch_mlcalc.losses.integral.settings import IntegralLoss

DOUBLE = torch.float64


def t(*values: float, grad: bool = True) -> Tensor:
    """A row of doubles that requires grad."""
    return torch.tensor(values, dtype=DOUBLE, requires_grad=grad)


def number(value: float) -> Tensor:
    """A double without dimensions that requires grad."""
    return torch.tensor(value, dtype=DOUBLE, requires_grad=True)


def assert_reductions(loss: Callable[..., Tensor], like: Tensor) -> None:
    """Of ``loss(reduction, weight)``, whose elements have the shape of ``like``."""
    elements = loss("none", None)
    assert elements.shape == like.shape
    weight = torch.rand(like.shape, dtype=DOUBLE) + 0.1
    exact = {"rtol": 1e-13, "atol": 0.0}
    torch.testing.assert_close(loss("sum", None), elements.sum(), **exact)
    torch.testing.assert_close(loss("mean", None), elements.mean(), **exact)
    torch.testing.assert_close(loss("none", weight), elements * weight, **exact)
    torch.testing.assert_close(loss("sum", weight), (elements * weight).sum(), **exact)
    mean = (elements * weight).sum() / weight.sum()
    torch.testing.assert_close(loss("mean", weight), mean, **exact)
    with pytest.raises(ValueError, match="reduction must be 'none'"):
        loss("average", None)
    with pytest.raises(ValueError, match="weight must have the (batch_)?shape"):
        loss("mean", torch.ones(7, 3))
    with pytest.raises(TypeError, match="weight must be a torch.Tensor, got list"):
        loss("mean", [1.0] * len(elements))
    with pytest.raises(TypeError, match="weight must be real, got torch.complex128"):
        loss("mean", weight * 1j)


def assert_module(
    module: IntegralLoss, call: Callable[[IntegralLoss], Tensor], expected: Tensor
) -> None:
    """It gives what the function gives, also when copied, pickled and loaded."""
    assert torch.equal(call(module), expected)
    assert torch.equal(call(copy.deepcopy(module)), expected)
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(call(again), expected)
    again.load_state_dict(module.state_dict())
    assert torch.equal(call(again), expected)
    assert f"reduction={module.reduction!r}, " in repr(module)
    assert f"rule={module.rule}" in repr(module)


def assert_settings(make: Callable[..., IntegralLoss]) -> None:
    """Of ``make(rule, **settings)``: kept, shown, and refused when wrong."""
    import torch_mlcalc as mlc

    module = make(None, rtol=1e-3, max_evals=500, on_failure="ignore")
    assert "rtol=0.001, max_evals=500, on_failure='ignore'" in repr(module)
    assert "on_failure" not in repr(make(None))
    with pytest.raises(TypeError, match="rule is a str; a rule object is wanted"):
        make("gauss")
    with pytest.raises(ValueError, match="rtol, atol and grad_rtol have no effect"):
        make(mlc.GaussLegendre(8), rtol=1e-3)
    with pytest.raises(ValueError, match="on_failure is 'stop'"):
        make(None, on_failure="stop")
    with pytest.raises(ValueError, match="reduction must be"):
        make(None, reduction="average")
