"""The update of stochastic gradient descent: in place, out of place, compensated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from torch_mlcalc.optim.options import Formula, check_options, scalar

__all__ = ["sgd_step"]

State: TypeAlias = dict[str, Any]
Tensors: TypeAlias = Mapping[str, Tensor | None] | Sequence[Tensor | None]


def update_(param: Tensor, grad: Tensor, state: State, formula: Formula) -> None:
    """Apply the formula of :class:`SGD` to one parameter, in place.

    This body is the reference: every other one is compared with it.

    Args:
        param: The parameter, changed in place.
        grad: Its gradient, never written to.
        state: Where its ``"momentum_buffer"`` is, or will be.
        formula: The options.
    """
    lr, momentum, dampening, weight_decay, nesterov, maximize, decoupled = formula
    if maximize:
        grad = -grad
    if weight_decay != 0 and decoupled:
        param.mul_(_what_remains(lr, weight_decay))
    elif weight_decay != 0:
        grad = _add(_as_dense_as(param, grad), param, weight_decay)
    if momentum != 0:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            buffer = grad.clone()
        else:
            buffer = _as_dense_as(grad, buffer)
            other = _addable(grad, buffer)
            buffer.mul_(momentum).add_(other, alpha=1 - dampening)  # type: ignore[arg-type]
        state["momentum_buffer"] = buffer
        grad = _ahead(grad, buffer, momentum) if nesterov else buffer
    grad = _addable(grad, param)
    if _has_gradient(lr):
        param.addcmul_(grad, lr, value=-1)
    else:
        param.add_(grad, alpha=-lr)  # type: ignore[arg-type]


def unscaled(grads: list[Tensor | None], scale: Tensor | None) -> list[Tensor | None]:
    """Divide gradients by what ``torch.amp.GradScaler`` multiplied the loss by.

    Args:
        grads: Gradients, never written to.
        scale: By how much they are too large, ``None`` for not at all.

    Returns:
        The gradients themselves if there is no scale.
    """
    if scale is None:
        return grads
    return [
        None if grad is None else grad / scale.reshape(()).to(grad.device)
        for grad in grads
    ]


def updated(
    param: Tensor, grad: Tensor, buffer: Tensor | None, formula: Formula
) -> tuple[Tensor, Tensor | None]:
    """Apply the formula of :class:`SGD` to one parameter, out of place.

    Nothing is detached, and every number that is a tensor receives its gradient.

    Args:
        param: The parameter.
        grad: Its gradient.
        buffer: Its momentum buffer, ``None`` before the first step.
        formula: The options.

    Returns:
        The parameter and the momentum buffer after the step.
    """
    lr, momentum, dampening, weight_decay, nesterov, maximize, decoupled = formula
    if maximize:
        grad = -grad
    # A tensor counts even if it is 0: its gradient is not, and reading it takes time.
    if isinstance(weight_decay, Tensor) or weight_decay != 0:
        if decoupled:
            param = _scaled(param, _what_remains(lr, weight_decay))
        else:
            grad = _add(_as_dense_as(param, grad), param, weight_decay)
    if isinstance(momentum, Tensor) or momentum != 0:
        if buffer is None:
            buffer = grad.clone()
        else:
            buffer = _as_dense_as(grad, buffer)
            buffer = _add(_scaled(buffer, momentum), grad, 1 - dampening)
        grad = _ahead(grad, buffer, momentum) if nesterov else buffer
    if _has_gradient(lr):
        new = param.addcmul(grad, lr, value=-1)
    else:
        new = param.add(grad, alpha=-lr)  # type: ignore[arg-type]
    return new.to(param.dtype), buffer


def update_under_autograd_(
    param: Tensor, grad: Tensor, state: State, formula: Formula
) -> None:
    """Apply :func:`updated`, then put the result in the place of the parameter.

    Args:
        param: The parameter: no leaf that requires grad.
        grad: Its gradient.
        state: Where its ``"momentum_buffer"`` is, or will be.
        formula: The options.
    """
    if formula.momentum == 0:
        formula = formula._replace(momentum=0)
    # The graph keeps both, one changes below and the caller may zero the other.
    new, buffer = updated(
        param.clone(), grad.clone(), state.get("momentum_buffer"), formula
    )
    if buffer is not None:
        state["momentum_buffer"] = buffer
    param.copy_(new)


def update_compensated_(
    param: Tensor, grad: Tensor, state: State, formula: Formula
) -> None:
    r"""Apply the formula in float32 to a parameter of fewer bits, and lose no bits.

    The parameter is held as a sum :math:`\theta + c` of two numbers of its dtype, of
    which :math:`c` is the ``"compensation"``: what rounding took from
    :math:`\theta`. The momentum buffer is float32.

    Args:
        param: The parameter, float16 or bfloat16, changed in place.
        grad: Its gradient.
        state: Where its ``"momentum_buffer"`` and ``"compensation"`` are, or will be.
        formula: The options.
    """
    rest = state.get("compensation")
    if rest is None:
        rest = state["compensation"] = torch.zeros_like(param)
    buffer = state.get("momentum_buffer")
    new, new_buffer = updated(
        param.float() + rest, grad.float(), _as_float(buffer), formula
    )
    if formula.momentum != 0:
        state["momentum_buffer"] = new_buffer
    param.copy_(new)
    rest.copy_(new - param)


def sgd_step(
    params: Tensors,
    grads: Tensors,
    momentum_buffers: Tensors | None = None,
    *,
    lr: float | Tensor,
    momentum: float | Tensor = 0,
    dampening: float | Tensor = 0,
    weight_decay: float | Tensor = 0,
    nesterov: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> tuple[Any, Any]:
    r"""One step of :class:`SGD` as a function, to differentiate through training.

    .. math::
        (\theta_t, b_t) = \operatorname{step}(\theta_{t-1}, g_t, b_{t-1};
            \gamma, \mu, \tau, \lambda)

    Nothing is changed in place and nothing is detached. The results have gradients in
    the parameters, in their gradients (if those were taken with
    ``create_graph=True``) and in every option that is a tensor, in reverse and forward
    mode, to any order, and under ``torch.func``. The loss may be as nonlinear as it
    likes, which ``torch.optim.SGD(..., differentiable=True)`` does not allow.

    Args:
        params: Parameters: a dict by name, as :func:`torch.func.functional_call` takes
            it, or a list or tuple.
        grads: Their gradients, in the same order or under the same names. A parameter
            whose gradient is ``None`` is left alone, and so is its buffer.
        momentum_buffers: What the step before returned; ``None`` at first.
        lr: As in :class:`SGD`, and so are the others.
        momentum: Momentum factor. The number 0 is off; a tensor never is.
        dampening: Share of each gradient, after the first, withheld from momentum.
        weight_decay: L2 penalty.
        nesterov: Take the step from the gradient one momentum step ahead.
        maximize: Ascend instead of descend.
        decoupled_weight_decay: Shrink the parameters instead of adding to the gradient.

    Returns:
        The new parameters and the new momentum buffers, as dicts or lists like
        ``params``.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If one is out of range (what is in a tensor is not looked at), or
            names or lengths do not match.

    Example:
        A learning rate that makes the loss after two steps smallest:

        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> log_lr = torch.tensor(-3.0, requires_grad=True)
        >>> outer = mlc.SGD([log_lr], lr=0.2)
        >>> for _ in range(60):
        ...     w, b = [torch.tensor([1.0, 2.0], requires_grad=True)], None
        ...     for _ in range(2):
        ...         grads = torch.autograd.grad((w[0]**4).sum(), w, create_graph=True)
        ...         w, b = mlc.sgd_step(w, grads, b, lr=log_lr.exp(), momentum=0.5)
        ...     outer.zero_grad()
        ...     (w[0]**4).sum().backward()
        ...     outer.step()
        >>> round(log_lr.exp().item(), 3), round((w[0]**4).sum().item(), 3)
        (0.048, 0.15)

    References:
        D. Maclaurin, D. Duvenaud, R. P. Adams, "Gradient-based hyperparameter
        optimization through reversible learning", ICML 2015, section 2,
        https://arxiv.org/abs/1502.03492
    """
    formula = Formula(
        scalar(lr),
        scalar(momentum),
        scalar(dampening),
        scalar(weight_decay),
        nesterov,
        maximize,
        decoupled_weight_decay,
    )
    _check(formula)
    keys = _keys(params)
    for name, other in (("grads", grads), ("momentum_buffers", momentum_buffers)):
        if other is not None and set(_keys(other)) != set(keys):
            raise ValueError(
                f"{name} must have an entry for each of params, got {_keys(other)} "
                f"where params has {keys}"
            )
    new = {key: _entry(key, params, grads, momentum_buffers, formula) for key in keys}
    if isinstance(params, Mapping):
        return {k: n[0] for k, n in new.items()}, {k: n[1] for k, n in new.items()}
    return [n[0] for n in new.values()], [n[1] for n in new.values()]


def _check(formula: Formula) -> None:
    """Refuse what :class:`SGD` refuses, but for values of tensors.

    Reading those would stall a GPU at every step, and fail under vmap.

    Raises:
        ValueError: If an option is out of range.
    """
    allowed = {"lr": 1.0, "momentum": 1.0, "dampening": 0.0, "weight_decay": 0.0}
    options = formula._asdict()
    for name, stand_in in allowed.items():
        option = options[name]
        if isinstance(option, Tensor) and option.numel() == 1:
            options[name] = stand_in
    switches = ("fused", "foreach", "flat", "compensated", "differentiable")
    check_options({**options, **dict.fromkeys(switches, False)})


def _entry(
    key: Any,  # noqa: ANN401
    params: Tensors,
    grads: Tensors,
    buffers: Tensors | None,
    formula: Formula,
) -> tuple[Tensor | None, Tensor | None]:
    param, grad = params[key], grads[key]
    buffer = None if buffers is None else buffers[key]
    if param is None or grad is None:
        return param, buffer
    return updated(param, grad, buffer, formula)


def _keys(tensors: Tensors) -> list[Any]:
    if isinstance(tensors, Mapping):
        return list(tensors)
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(
            "params, grads and momentum_buffers must be dicts, lists or tuples of "
            f"tensors, got {type(tensors).__name__}; put a single tensor into a list"
        )
    return list(range(len(tensors)))


def _as_dense_as(other: Tensor, tensor: Tensor) -> Tensor:
    """Make a sparse tensor dense before a dense one is added, which torch refuses."""
    mixed = tensor.is_sparse and not other.is_sparse
    return tensor.to_dense() if mixed else tensor


def _addable(sparse: Tensor, tensor: Tensor) -> Tensor:
    # In torch 2.13 tensor.add_(sparse) counts the storage offset twice on a CPU: it
    # writes to memory beyond a view, where there may be nothing.
    elsewhere = sparse.is_sparse and not tensor.is_sparse and tensor.storage_offset()
    return sparse.to_dense() if elsewhere else sparse


def _ahead(grad: Tensor, buffer: Tensor, momentum: float | Tensor) -> Tensor:
    return _add(_as_dense_as(buffer, grad), buffer, momentum)


def _as_float(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.float()


def _what_remains(lr: float | Tensor, weight_decay: float | Tensor) -> float | Tensor:
    # In float32, which most tensors of one number are, a decay of 1e-8 would be none.
    lr, weight_decay = (
        n.double() if isinstance(n, Tensor) else n for n in (lr, weight_decay)
    )
    return 1 - lr * weight_decay


def _scaled(tensor: Tensor, factor: float | Tensor) -> Tensor:
    # A tensor without dimensions would take on the dtype of the factor.
    return (tensor * factor).to(tensor.dtype)


def _has_gradient(option: float | Tensor) -> TypeGuard[Tensor]:
    """Tell whether to multiply by an option; ``alpha=`` drops all gradients in it.

    Returns:
        Whether it requires grad, or may carry a forward-mode tangent.
    """
    return isinstance(option, Tensor) and (
        option.requires_grad or torch.is_grad_enabled()
    )


def _add(input: Tensor, other: Tensor, alpha: float | Tensor) -> Tensor:
    """Return ``input + alpha * other``."""
    if _has_gradient(alpha):
        return input.addcmul(other, alpha).to(torch.result_type(input, other))
    # A 0-d tensor will do for alpha, which the stubs do not know.
    return input.add(other, alpha=alpha)  # type: ignore[arg-type]
