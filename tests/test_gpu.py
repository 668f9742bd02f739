"""On a GPU: the same numbers as on the CPU, there, and fixed rules do not wait for it.

Skipped, and said so, where there is none; ``test_device`` has what can be seen without.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from device_calls import FIXED, PLANS, SEARCHED, Call, trained, upper, wave
from device_losses import LOSSES, WAITING, Make
from torch import Tensor, nn

import torch_mlcalc as mlc

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: these tests have not run"
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CALLS = {**FIXED, **PLANS, **SEARCHED}


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Makes it an error that the host waits for the GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        # torch says that the mode is a prototype.
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(mode)


def value_and_gradient(call: Call, device: torch.device) -> tuple[Tensor, Tensor]:
    value = call(device)
    (slope,) = torch.autograd.grad(value.sum(), upper(device), allow_unused=True)
    if slope is None:
        slope = torch.zeros_like(upper(device))
    return value, slope


@pytest.mark.parametrize("name", CALLS)
def test_a_gpu_gives_the_numbers_of_the_cpu(name: str) -> None:
    found = value_and_gradient(CALLS[name], GPU)
    wanted = value_and_gradient(CALLS[name], CPU)
    for own, other in zip(found, wanted, strict=True):
        assert own.device.type == "cuda"
        # Searches may stop at other nodes, both within their tolerance.
        rtol = 1e-11 if name in FIXED else 1e-7
        torch.testing.assert_close(own.cpu(), other, rtol=rtol, atol=1e-12)


def made_once(name: str) -> None:
    FIXED[name](GPU).sum().backward()


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_rule_does_not_wait(name: str, request: pytest.FixtureRequest) -> None:
    made_once(name)  # its tables
    request.getfixturevalue("no_waiting")
    FIXED[name](GPU).sum().backward()


def loss_and_gradients(name: str, device: torch.device) -> list[Tensor]:
    make = Make(device)
    value = {**LOSSES, **WAITING}[name](make)
    return [value, *torch.autograd.grad(value, make.leaves, materialize_grads=True)]


@pytest.mark.parametrize("name", [*LOSSES, *WAITING])
def test_a_gpu_gives_the_losses_of_the_cpu(name: str) -> None:
    found = loss_and_gradients(name, GPU)
    wanted = loss_and_gradients(name, CPU)
    for own, other in zip(found, wanted, strict=True):
        assert own.device.type == "cuda"
        rtol = 1e-9 if name in LOSSES else 1e-7
        torch.testing.assert_close(own.cpu(), other, rtol=rtol, atol=1e-11)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_does_not_wait(name: str, request: pytest.FixtureRequest) -> None:
    loss_and_gradients(name, GPU)  # its tables
    request.getfixturevalue("no_waiting")
    loss_and_gradients(name, GPU)


def test_a_network_is_integrated_where_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def area(device: torch.device) -> Tensor:
        net.to(device)
        unit = mlc.Interval(0, torch.ones((), dtype=torch.float64, device=device))
        rule = mlc.GaussLegendre(32)
        return mlc.integrate(lambda x: net(x[..., None])[..., 0], unit, rule)

    on_cpu = area(CPU)
    torch.testing.assert_close(area(GPU).cpu(), on_cpu, rtol=1e-12, atol=0)


def test_a_layer_takes_its_plan_along() -> None:
    layer = mlc.Integral(wave, mlc.Interval(0, 1), plan_every=10)
    layer(torch.ones(2))
    assert layer.to(GPU)(torch.ones(2, device=GPU)).device.type == "cuda"


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"flat": True}], ids=str)
def test_sgd_steps_on_a_gpu(options: dict[str, bool]) -> None:
    found, wanted = (trained(device, **options).detach() for device in (GPU, CPU))
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-6)


def test_a_flat_group_follows_its_model_to_a_gpu() -> None:
    def train(*devices: torch.device) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = mlc.SGD(model.parameters(), 0.1, momentum=0.9, flat=True)
        for device in devices:
            model.to(device)
            for _ in range(3):
                optimizer.zero_grad(set_to_none=False)
                model(torch.ones(4, 3, device=device)).square().sum().backward()
                optimizer.step()
        blocks = {param.untyped_storage().data_ptr() for param in model.parameters()}
        assert len(blocks) == 1
        buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
        return [*model.parameters(), *buffers]

    for found, wanted in zip(train(CPU, GPU), train(CPU, CPU), strict=True):
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-6)
