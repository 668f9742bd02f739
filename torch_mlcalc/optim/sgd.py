"""Stochastic gradient descent, written so that the update can be read."""

import math
from collections.abc import Callable
from typing import Any, SupportsFloat, TypeGuard, TypeVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["SGD"]

Loss = TypeVar("Loss")

# The numeric options, and what torch calls those of which it refuses negative values.
_NUMBERS = {
    "lr": "learning rate",
    "momentum": "momentum value",
    "weight_decay": "weight_decay value",
    "dampening": None,
}


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum, drop-in for ``torch.optim.SGD``.

    With :math:`\gamma` = ``lr``, :math:`\lambda` = ``weight_decay``, :math:`\mu` =
    ``momentum`` and :math:`\tau` = ``dampening``, step :math:`t` is

    .. math::
        g_t &= \pm \nabla f(\theta_{t-1}) + \lambda \theta_{t-1} \\
        b_t &= \mu \, b_{t-1} + (1 - \tau) \, g_t, \qquad b_1 = g_1 \\
        \theta_t &= \theta_{t-1} - \gamma \begin{cases}
            g_t & \mu = 0 \\ b_t & \mu \ne 0 \\ g_t + \mu \, b_t & \text{nesterov}
        \end{cases}

    with the minus sign if ``maximize``. The first :math:`b` of a parameter is its
    first gradient, undamped. A parameter whose ``.grad`` is ``None`` is left alone,
    and so is its :math:`b`.

    Names, defaults, ``state_dict`` and, bit for bit, the numbers are those of
    ``torch.optim.SGD(..., foreach=False)`` in torch 2.13. Five things differ:

    * ``.grad`` is never written to. torch writes to it if ``weight_decay`` is a tensor
      that requires grad, and if ``fused`` meets a ``GradScaler``.
    * With ``differentiable`` no gradient is lost: torch detaches :math:`b_1`, and
      changes :math:`b` in place, so that a gradient in ``lr`` cannot be taken.
    * Every numeric option may be a one-element tensor, here also ``momentum`` and
      ``dampening``, and receives its gradient.
    * NaN and infinite options are refused, and options given for one parameter group
      are checked like the others.
    * A first step that ``found_inf`` skips leaves no momentum buffer behind; torch's
      ``fused`` keeps one of uninitialised memory.

    Args:
        params: Parameters, ``(name, parameter)`` pairs, or dicts with a key
            ``"params"`` whose other keys override the options below for that group.
        lr: Learning rate, non-negative.
        momentum: Momentum factor, non-negative. Exactly 0 is off, and off is a case of
            its own in the formula: a tensor of 0 receives no gradient.
        dampening: Share of each gradient, after the first, withheld from momentum.
        weight_decay: L2 penalty, non-negative. Not for sparse gradients.
        nesterov: Take the step from the gradient one momentum step ahead. Needs
            ``momentum`` and no ``dampening``.
        maximize: Ascend instead of descend.
        foreach: Today ``None``, ``False`` and ``True`` run the same body, whose numbers
            are promised for all three. With ``True``, :meth:`zero_grad` clears all
            gradients of a dtype in one call.
        differentiable: Run :meth:`step` under autograd. Parameters are changed in place
            and so cannot be leaves that require grad: optimise a clone, evaluate the
            loss on a clone of that, and let ``.grad`` have a graph. A property of the
            whole optimiser, not of one group.
        fused: Today ``True`` runs the same body too. As torch's ``fused`` does, it
            takes over from ``torch.amp.GradScaler``: :meth:`step` itself divides by the
            scale, and skips if an inf was found, so that float16 gradients are allowed.
            Unlike in torch, ``.grad`` stays scaled. Needs real floating-point
            parameters with dense gradients, no ``foreach``, no ``differentiable``.

    Raises:
        TypeError: If a numeric option is not a number.
        ValueError: If a numeric option is out of range, or ``nesterov`` lacks momentum.
        RuntimeError: If ``fused`` is combined with ``foreach`` or ``differentiable``.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> x = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = mlc.SGD([x], lr=0.1, momentum=0.5)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     (x - 3).square().sum().backward()
        ...     optimizer.step()
        >>> x.detach()
        tensor([3.0000, 3.0000])

    References:
        I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of
        initialization and momentum in deep learning", ICML 2013, equations (1) to (4),
        https://proceedings.mlr.press/v28/sutskever13.html. There :math:`\gamma` is
        inside :math:`b`; here, as in torch, a new ``lr`` acts at once on all of it.

        Y. Bengio, N. Boulanger-Lewandowski, R. Pascanu, "Advances in optimizing
        recurrent networks", 2012, section 3.5, https://arxiv.org/abs/1212.0901, for
        the Nesterov step taken without leaving :math:`\theta`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Tensor = 0,
        dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        """Check the options, then register the parameters."""
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        _check_options(defaults)
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a ``state_dict``, also one of an older torch."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option in ("nesterov", "maximize", "differentiable", "fused"):
                group.setdefault(option, False)
            group.setdefault("foreach", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, after checking the options it overrides.

        Args:
            param_group: ``"params"`` and the options that differ from the defaults.

        Raises:
            ValueError: If an option is out of range, or ``differentiable`` differs.
        """
        if isinstance(param_group, dict):
            # As in torch, a group may switch momentum off under an inherited nesterov.
            _check_options({**self.defaults, "nesterov": False, **param_group})
            differentiable = self.defaults["differentiable"]
            if param_group.get("differentiable", differentiable) != differentiable:
                raise ValueError(
                    "differentiable cannot be set for one parameter group, got "
                    f"{param_group['differentiable']} where the optimizer has "
                    f"{differentiable}; pass it to SGD(..., differentiable=...)"
                )
        super().add_param_group(param_group)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Tell ``torch.amp.GradScaler`` to leave unscaling and skipping to step."""
        return bool(self.defaults.get("fused"))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:
        """Update every parameter that has a gradient.

        Args:
            closure: Evaluates the model and returns the loss, with gradients enabled.

        Returns:
            What ``closure`` returned, or ``None``.

        Raises:
            RuntimeError: If an option does not go with a gradient; nothing is updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        # Set by torch.amp.GradScaler for the length of the call, if fused.
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        if getattr(self, "found_inf", None):
            return loss

        for group in self.param_groups:
            _check_gradients(group)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group in self.param_groups:
                self._update(group, grad_scale)
        return loss

    def _update(self, group: dict[str, Any], grad_scale: Tensor | None) -> None:
        """Apply the formula of the class to each parameter of one group."""
        lr = _scalar(group["lr"])
        momentum = _scalar(group["momentum"])
        dampening = _scalar(group["dampening"])
        weight_decay = _scalar(group["weight_decay"])

        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            if grad_scale is not None:
                grad = grad / grad_scale.reshape(()).to(grad.device)
            if group["maximize"]:
                grad = -grad
            if weight_decay != 0 or _has_gradient(weight_decay):
                grad = _add(grad, param, weight_decay)
            if momentum != 0:
                state = self.state[param]
                buffer = state.get("momentum_buffer")
                if buffer is None:
                    buffer = grad.clone()
                elif self.defaults["differentiable"]:
                    # The graph of earlier steps holds the old buffer.
                    buffer = _add(buffer * momentum, grad, 1 - dampening)
                else:
                    buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
                state["momentum_buffer"] = buffer
                grad = _add(grad, buffer, momentum) if group["nesterov"] else buffer
            _subtract_(param, grad, lr)


def _scalar(option: float | Tensor) -> float | Tensor:
    """Drop the dimensions of a one-element tensor: ``alpha`` cannot have any.

    Returns:
        A number, or a tensor of shape ``()``.
    """
    return option.reshape(()) if isinstance(option, Tensor) else option


def _has_gradient(option: float | Tensor) -> TypeGuard[Tensor]:
    """Tell whether to multiply by an option; ``alpha=`` drops all gradients in it.

    Returns:
        Whether it requires grad, or may carry a forward-mode tangent.
    """
    return isinstance(option, Tensor) and (
        option.requires_grad or torch.is_grad_enabled()
    )


def _add(input: Tensor, other: Tensor, alpha: float | Tensor) -> Tensor:
    """Add ``alpha * other``.

    Returns:
        ``input + alpha * other``.
    """
    if _has_gradient(alpha):
        # The graph keeps other, and a parameter is about to change in place.
        return input.addcmul(other.clone(), alpha)
    # A 0-d tensor will do for alpha, which the stubs do not know.
    return input.add(other, alpha=alpha)  # type: ignore[arg-type]


def _subtract_(param: Tensor, grad: Tensor, lr: float | Tensor) -> None:
    """Subtract ``lr * grad`` in place."""
    if _has_gradient(lr):
        # The graph keeps grad, and the caller may zero .grad in place.
        param.addcmul_(grad.clone(), lr, value=-1)
    else:
        param.add_(grad, alpha=-lr)  # type: ignore[arg-type]


def _check_options(options: dict[str, Any]) -> None:
    """Refuse what torch refuses, in its words, and what is not finite.

    Raises:
        TypeError: If a numeric option is not a number.
        ValueError: If one is out of range, or ``nesterov`` lacks momentum.
        RuntimeError: If ``fused`` is combined with ``foreach`` or ``differentiable``.
    """
    for name, label in _NUMBERS.items():
        value = options[name]
        if not isinstance(value, SupportsFloat):
            raise TypeError(
                f"{name} must be a number or a one-element tensor, got {value!r}"
            )
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        number = value.item() if isinstance(value, Tensor) else float(value)
        if label is not None and number < 0:
            raise ValueError(f"Invalid {label}: {value}")
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {value}")
    if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    if options["fused"] and options["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`")
    if options["fused"] and options["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _check_gradients(group: dict[str, Any]) -> None:
    """Refuse gradients that an option cannot take, before any parameter changes.

    Raises:
        RuntimeError: If ``fused`` meets complex or sparse numbers, or ``weight_decay``
            sparse ones.
    """
    for param in group["params"]:
        if param.grad is None:
            continue
        if group["fused"] and not param.is_floating_point():
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors, "
                f"got {param.dtype}; pass fused=False"
            )
        if group["fused"] and param.grad.is_sparse:
            raise RuntimeError("`_fused_sgd` does not support sparse gradients")
        if param.grad.is_sparse and _scalar(group["weight_decay"]) != 0:
            raise RuntimeError(
                "weight_decay needs dense gradients, got a sparse one and weight_decay="
                f"{group['weight_decay']}; put its parameter in a group with 0"
            )
