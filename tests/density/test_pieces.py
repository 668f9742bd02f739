"""Networks evaluated on a few nodes at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.density.pieces import PIECE_BYTES

DOUBLE = torch.float64
COUNT, NODES, WIDTH = 300, 24, 32


def network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = nn.Linear(2, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 1)).double()


def density(
    net: nn.Module, sizes: list[int], features: Tensor, **settings: object
) -> mlc.NormalizedDensity:
    def energy(y: Tensor, features: Tensor) -> Tensor:
        sizes.append(len(y))
        return net(torch.stack([y, features.expand_as(y)], -1))[..., 0]

    return mlc.NormalizedDensity(
        energy, mlc.Interval(-1, 1), mlc.GaussLegendre(NODES), args=(features,),
        batch_shape=features.shape, **settings,
    )  # fmt: skip


def test_pieces_keep_small_graphs_and_change_nothing() -> None:
    net, sizes = network(), []
    features = torch.randn(COUNT, dtype=DOUBLE, requires_grad=True)
    log_z = density(net, sizes, features).log_normalizer
    # Two layers of tanh, whose results are kept once, and the input.
    node = (2 * WIDTH + 2) * COUNT * features.itemsize
    assert sum(sizes) == NODES and sizes[0] == 1
    assert max(sizes) == PIECE_BYTES // node < NODES // 2
    t, w = (
        torch.tensor(a)[:, None] for a in mlc.GaussLegendre(NODES).nodes_and_weights()
    )
    both = torch.stack(torch.broadcast_tensors(t, features), -1)
    plain = (net(both)[..., 0] + w.log()).logsumexp(0)
    torch.testing.assert_close(log_z, plain, rtol=1e-13, atol=1e-13)
    wrt = (features, *net.parameters())
    slopes = [
        torch.autograd.grad(z.sum(), wrt, create_graph=True) for z in (log_z, plain)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-12)
    seconds = [
        torch.autograd.grad(sum(s.square().sum() for s in slope), wrt[:-1])
        for slope in slopes
    ]
    torch.testing.assert_close(*seconds, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", ["no gradient", "one density", "memory", "func"])
def test_there_are_no_pieces_where_they_are_of_no_use(case: str) -> None:
    net, sizes = network(), []
    features = torch.randn(1 if case == "one density" else COUNT, dtype=DOUBLE)
    settings = {"memory": 2**40} if case == "memory" else {}
    if case == "func":
        torch.func.grad(lambda f: density(net, sizes, f).log_normalizer.sum())(features)
    else:
        with torch.set_grad_enabled(case != "no gradient"):
            _ = density(net, sizes, features, **settings).log_normalizer
    assert sizes == [NODES]


def test_wrong_shapes_are_told_as_they_are() -> None:
    features = torch.zeros(COUNT, dtype=DOUBLE)
    p = mlc.NormalizedDensity(
        lambda x, f: f, mlc.Interval(-1, 1), mlc.GaussLegendre(NODES), args=(features,)
    )
    with pytest.raises(ValueError, match=rf"\({NODES}, {COUNT}\).*\({COUNT},\)"):
        _ = p.log_normalizer
    points = mlc.NormalizedDensity(
        lambda x, f: None,
        mlc.Interval(-1, 1),
        mlc.GaussLegendre(NODES),
        args=(features,),
    )
    with pytest.raises(TypeError, match="NoneType"):
        _ = points.log_normalizer
