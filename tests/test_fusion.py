"""Compiled integrals: nodes, integrand and sum become one loop in one kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch._inductor.config
from torch import Tensor
from torch._inductor.utils import get_code

import torch_mlcalc as mlc

RATE = torch.tensor([0.5, 1.0], dtype=torch.float64)
UPPER = torch.tensor(2.0, dtype=torch.float64)


def wave(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x) * torch.cos(x)


def fixed(rate: Tensor) -> Tensor:
    domain = mlc.Interval(0, UPPER)
    return mlc.integrate(wave, domain, mlc.GaussLegendre(64), args=(rate,))


def log_form(rate: Tensor) -> Tensor:
    return mlc.log_integrate(
        lambda x, rate: -rate * x * x,
        mlc.Interval(0, UPPER),
        mlc.GaussLegendre(64),
        args=(rate,),
    )


def of_plan() -> Callable[[Tensor], Tensor]:
    plan = mlc.adapt(lambda x: wave(x, RATE), mlc.Interval(0, UPPER), batch_shape=(2,))
    return lambda rate: mlc.integrate(
        lambda x: wave(x, rate), mlc.Interval(0, UPPER), plan, batch_shape=(2,)
    )


# What torch warns of when it imports its own compiler.
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is dep:DeprecationWarning"
)
@pytest.mark.parametrize(
    "make",
    [lambda: fixed, lambda: log_form, of_plan],
    ids=["fixed", "log", "plan"],
)
def test_one_kernel_does_it_all(make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    torch.compiler.reset()
    # The code that the compiler writes, without the time that a C++ compiler takes. It
    # must not be cached, as it is never made into a library.
    with torch._inductor.config.patch(fx_graph_cache=False):
        code, *_ = get_code(torch.compile(make(), fullgraph=True), RATE)
    body = code[code.index("def call(") : code.index("return (")]
    assert len(re.findall(r"^ +cpp_fused\w*\(", body, re.M)) == 1
    assert "extern_kernels" not in body
