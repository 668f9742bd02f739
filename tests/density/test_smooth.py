"""Which log densities are known to have bounded gradients, and need no look at them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.density.smooth import is_smooth

THETA = torch.tensor(1.5, requires_grad=True)

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "polynomial": (lambda x: THETA * x**3 - x**2 / 2, True),
    "exponential": (lambda x: torch.exp(-THETA * x) + x.cos(), True),
    "product of parts": (lambda x: torch.stack([x, x * THETA], -1).prod(-1), False),
    "sum of parts": (lambda x: torch.stack([x, x * THETA], -1).sum(-1), True),
    "log": (lambda x: THETA * x.log(), False),
    "root": (lambda x: THETA * x**0.5, False),
    "pole": (lambda x: THETA * x**-1, False),
    "power": (lambda x: x**THETA, False),
    "quotient": (lambda x: THETA / x, False),
    "divided by a parameter": (lambda x: x / THETA, False),
    "hidden from autograd": (lambda x: THETA * x.detach().log(), False),
    "without a gradient": (lambda x: x.detach() ** 2, False),
}
LAYERS = ("Tanh", "Sigmoid", "Softplus", "ReLU", "LeakyReLU", "ELU", "SiLU", "GELU")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, smooth = FUNCTIONS[name]
    x = torch.tensor([0.3, 0.7], requires_grad=True)
    assert is_smooth(function(x), x) is smooth


@pytest.mark.parametrize("layer", LAYERS)
def test_a_network_is_looked_at_in_one_point(layer: str) -> None:
    torch.manual_seed(0)
    act = getattr(nn, layer)
    net = nn.Sequential(nn.Linear(2, 4), act(), nn.Linear(4, 4), act(), nn.Linear(4, 1))
    features, looked = torch.randn(3, 1), []

    def energy(y: Tensor, features: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            looked.append(len(y))
        both = torch.cat([y[..., None], features.expand(*y.shape, 1)], -1)
        return net(both)[..., 0]

    p = mlc.NormalizedDensity(
        energy, mlc.Interval(-1, 1), args=(features,), batch_shape=(3,)
    )
    assert p._plan is not None
    # After the search; of two points at each end, and one between, there would be 5.
    assert looked[-1] == 1
