"""Which functions have bounded derivatives for all that they are composed of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: Operations, as autograd calls them, that are defined on all numbers and whose
#: derivatives are finite there, with those that only move numbers about. The rest is
#: not known to be smooth: logs, roots, powers, quotients, whatever a caller defines.
SMOOTH = frozenset(
    f"{name}Backward0"
    for name in (
        *("Add", "Sub", "Mul", "Neg", "Addmm", "Mm", "Bmm", "Baddbmm", "Addcmul"),
        *("Exp", "Expm1", "Sin", "Cos", "Tanh", "Sigmoid", "Softplus", "LogSigmoid"),
        *("LogSigmoidForward", "Relu", "Elu", "Silu", "Gelu", "LeakyRelu", "Softmax"),
        *("Abs", "Mv", "Dot", "Mish", "Sum", "Mean", "Cat", "Stack", "Expand", "View"),
        *("UnsafeView", "ReshapeAlias", "Select", "Slice", "Squeeze", "Unsqueeze"),
        *("T", "Transpose", "Permute", "Clone", "ToCopy", "Alias", "Unbind", "Split"),
    )
) | {
    "SumBackward1",
    "MeanBackward1",
    "SqueezeBackward1",
    "torch::autograd::AccumulateGrad",
}


def is_smooth(value: Tensor, x: Tensor) -> bool:
    """Whether a value is known to be a smooth function of all that has a gradient.

    Args:
        value: What was computed.
        x: The leaf, with a gradient, that it was computed from. Without it, so that
            each operation on the way from it can be seen, nothing is known.

    Returns:
        True if every operation is smooth.
    """
    found, todo = False, [value.grad_fn]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if not _is_smooth(node):
            return False
        found = found or getattr(node, "variable", None) is x
        some = {after for after, _ in node.next_functions} - seen
        seen |= some
        todo += some
    return found


def _is_smooth(node: Any) -> bool:  # noqa: ANN401
    if node.name() == "PowBackward0":
        power = node._saved_exponent
        return bool(power >= 0 and power == int(power))
    if node.name() == "DivBackward0":
        # By a number, or a tensor that is neither a parameter nor depends on x.
        return node.next_functions[1][0] is None
    return node.name() in SMOOTH
