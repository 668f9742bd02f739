"""The device follows the inputs, and fixed rules read nothing from it.

A tensor on torch's "meta" device has a shape and no numbers: whoever reads one fails,
and so does a tensor that was made on the CPU beside it. ``test_emulated_device`` has
numbers too, and ``test_gpu`` does the same on a real GPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_calls import FIXED, PLANS, SEARCHED, rate, upper, wave
from torch import Tensor
from torch.overrides import TorchFunctionMode

import torch_mlcalc as mlc

META = torch.device("meta")
CPU = torch.device("cpu")


class NoWaiting(TorchFunctionMode):
    """Refuses copies from the host that wait until all before them is done."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.device == META:
            source = args[0] if args else None
            here = not isinstance(source, Tensor) or source.device == CPU
            made = func in (torch.tensor, torch.as_tensor, torch.asarray)
            moved = func is Tensor.to and not kwargs.get("non_blocking")
            assert not (here and (made or moved)), f"{func} copies {source}"
        return result


@pytest.mark.parametrize("name", [*FIXED, *PLANS])
def test_results_are_where_the_inputs_are(name: str) -> None:
    value = {**FIXED, **PLANS}[name](META)
    assert value.device == META
    assert value.requires_grad
    value.sum().backward()


@pytest.mark.parametrize("name", FIXED)
def test_fixed_rules_do_not_wait(name: str) -> None:
    FIXED[name](META)  # makes the tables
    with NoWaiting():
        FIXED[name](META)


def test_the_guard_sees_a_copy() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="copies"):
        torch.ones(3).to(META)
    with NoWaiting(), pytest.raises(AssertionError, match="copies"):
        torch.tensor([1.0], device=META)


@pytest.mark.parametrize("name", [*FIXED, *PLANS, *SEARCHED])
def test_the_calls_themselves_work(name: str) -> None:
    value = {**FIXED, **PLANS, **SEARCHED}[name](CPU)
    assert value.isfinite().all()
    assert value.dtype == torch.float64


def test_breakpoints_that_are_numbers_settle_nothing() -> None:
    args = (rate(CPU),)
    for rule in (None, mlc.GaussLegendre(20)):
        value = mlc.integrate(
            wave, mlc.Interval(0, 1), rule, args=args, breakpoints=[0.3]
        )
        assert value.dtype == torch.float64
        exact = mlc.integrate(wave, mlc.Interval(0, 1), args=args)
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=0)
    flat = mlc.Box(0.0, 1.0, dimension=2)
    value = mlc.integrate(
        lambda x, r: r * x.prod(-1), flat, args=args, breakpoints=[[0.3], None]
    )
    assert value.dtype == torch.float64
    area = mlc.cumulative_integrate(wave, 0.0, 1.0, args=args, breakpoints=[0.3])
    assert area.dtype == torch.float64


def test_a_box_of_numbers_and_tensors_is_on_one_device() -> None:
    top = upper(META)[0]
    density = mlc.NormalizedDensity(
        lambda x: -x.square().sum(-1),
        mlc.Box([0.0, 0.0], [1.0, top]),
        mlc.Product(mlc.GaussLegendre(5)),
    )
    assert density.support.base_constraint.upper_bound.device == META


def test_a_layer_that_changes_its_dtype_leaves_its_plan_where_it_is() -> None:
    layer = mlc.Integral(wave, mlc.Interval(0, 1), plan_every=10)
    layer(torch.ones(2))
    layer.to("meta").double()
    assert layer.plan is not None
    assert layer.plan.status.device.type == "meta"
