"""What the tests of losses of classes share: the ladder of reductions, and modules."""

import copy
import pickle
from collections.abc import Callable

import torch
from torch import Tensor, nn

REDUCTIONS = ("none", "mean", "sum")
Call = Callable[..., Tensor]


def assert_reductions(elements: Call, call: Call, weight: Tensor | None = None) -> None:
    """Check that sum and mean are those of the elements, weighted if they are."""
    loss = elements()
    weights = torch.ones_like(loss) if weight is None else weight
    torch.testing.assert_close(call("sum"), loss.sum())
    torch.testing.assert_close(call("mean"), loss.sum() / weights.sum())


def assert_module(module: nn.Module, *inputs: Tensor, expected: Tensor) -> None:
    """Check a module, its copies, and that its buffers are saved and moved."""
    copies = (
        module,
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        nn.Sequential(module)[0],
    )
    for one in copies:
        torch.testing.assert_close(one(*inputs), expected)
    fresh = copy.deepcopy(module)
    for buffer in fresh.buffers():
        buffer.zero_()
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(fresh(*inputs), expected)
    moved = copy.deepcopy(module).double()
    assert all(buffer.dtype == torch.float64 for buffer in moved.buffers())
