"""Plans of rules with negative weights in the log form: value, gradient, effort."""

import math

import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q

DOUBLE = torch.float64


def two_peaks(x: Tensor, width: Tensor) -> Tensor:
    left, right = ((x - c).square().sum(-1) / width**2 for c in (1.5, -1.5))
    return torch.logaddexp(-left, -right) + 500


def exact(width: Tensor) -> Tensor:
    return 500 + math.log(2 * math.pi) + 2 * width.log()


PLANE = q.Box(torch.full((2,), -math.inf, dtype=DOUBLE), math.inf)


@pytest.mark.parametrize("rule", [None, q.GenzMalik(7), q.GenzMalik(9)], ids=str)
@pytest.mark.parametrize("widths", [0.7, [0.5, 0.9]], ids=["single", "batch"])
def test_a_replay_is_right_in_value_and_gradient(
    rule: q.Rule | None, widths: float | list[float]
) -> None:
    width = torch.tensor(widths, dtype=DOUBLE, requires_grad=True)
    estimate = q.log_integrate_with_error(
        two_peaks,
        PLANE,
        rule,
        args=(width,),
        rtol=1e-6,
    )
    assert (estimate.status == q.Status.CONVERGED).all()
    # With a gradient wanted, the value is that of the plan.
    torch.testing.assert_close(estimate.value, exact(width), rtol=0, atol=1e-5)
    (slope,) = torch.autograd.grad(estimate.value.sum(), width)
    torch.testing.assert_close(slope, 2 / width.detach(), rtol=1e-4, atol=0)
    again = q.log_integrate(two_peaks, PLANE, estimate.plan, args=(width.detach(),))
    torch.testing.assert_close(again, estimate.value.detach(), rtol=0, atol=1e-12)


def test_a_replay_evaluates_every_node_once() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x.shape[0])
        return two_peaks(x, torch.tensor(0.7, dtype=DOUBLE))

    plan = q.adapt(counted, PLANE, q.GenzMalik(7), log=True, rtol=1e-4)
    calls.clear()
    q.log_integrate(counted, PLANE, plan)
    assert sum(calls) == plan.n


def test_gradients_of_closures_args_and_limits_to_second_order() -> None:
    width = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    tilt = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    upper = torch.tensor([1.0, 1.2], dtype=DOUBLE, requires_grad=True)
    lower = torch.tensor([-1.0, -0.5], dtype=DOUBLE)

    def integrand(x: Tensor, width: Tensor, tilt: Tensor) -> Tensor:
        return two_peaks(x, width) + tilt * x[..., 0]

    plan = q.adapt(
        integrand,
        q.Box(lower, upper.detach()),
        q.GenzMalik(7),
        log=True,
        args=(width.detach(), tilt.detach()),
        rtol=1e-2,
    )

    def replay(width: Tensor, tilt: Tensor, upper: Tensor) -> Tensor:
        # One parameter as an argument, the other closed over.
        return q.log_integrate(
            lambda x, width: integrand(x, width, tilt),
            q.Box(lower, upper),
            plan,
            args=(width,),
        )

    assert torch.autograd.gradcheck(replay, (width, tilt, upper))
    assert torch.autograd.gradgradcheck(replay, (width, tilt, upper))
