"""Stochastic gradient descent: the class, its options and its state."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from torch_mlcalc.optim.bodies import Bodies, Grads
from torch_mlcalc.optim.checkpoint import (
    check_groups,
    check_shapes,
    restore_precision,
)
from torch_mlcalc.optim.options import Formula, check_before_step, check_options
from torch_mlcalc.optim.partition import Settings, one_by_one
from torch_mlcalc.optim.step_size import Line, StepSize, factor_of
from torch_mlcalc.optim.update import unscaled, update_under_autograd_

__all__ = ["SGD"]

Loss = TypeVar("Loss")

# Options that torch's SGD lacks.
_OWN_OPTIONS = ("decoupled_weight_decay", "compensated", "flat")


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

    With ``decoupled_weight_decay`` the first line is without :math:`\lambda` and the
    last one starts from :math:`(1 - \gamma \lambda) \, \theta_{t-1}`.

    Names, defaults, numbers and ``state_dict`` are those of ``torch.optim.SGD`` in
    torch 2.13. With ``foreach=False`` the update is the plain loop, equal to torch's
    bit for bit; so is ``foreach=True`` on a CPU. By default each parameter is updated
    by what is fastest for it. For float32 and float64 on a CPU that is torch's kernel
    ``fused``, unless threads would cost more than they do; it may differ from the loop
    in the last bit of what is left after the last full vector register. For 16 bits
    those elements are rounded otherwise by any kernel of torch, and with ``flat`` they
    are other ones.

    What differs:

    * ``.grad`` is never written to. torch does so in three cases: ``weight_decay`` is a
      tensor that requires grad, ``foreach`` with ``nesterov``, ``fused`` with
      ``GradScaler``.
    * ``fused`` is right: also for float16, bfloat16, tensors whose strides differ,
      gradients that come late, and a first step that is skipped. Where torch's kernel
      is wrong it is not used.
    * With ``differentiable`` no gradient is lost: torch detaches :math:`b_1`, and
      changes :math:`b` in place, so that a gradient in ``lr`` cannot be taken.
    * Every numeric option may be a one-element tensor, here also ``momentum`` and
      ``dampening``, and receives its gradient.
    * NaN and infinite options are refused, and options given for one parameter group
      are checked like the others.
    * Sparse gradients go with ``weight_decay``.
    * :meth:`load_state_dict` keeps momentum that is more precise than its parameter,
      and refuses momentum of another shape.

    Args:
        params: Parameters, ``(name, parameter)`` pairs, or dicts with a key
            ``"params"`` whose other keys override the options below for that group.
        lr: Learning rate, non-negative.
        momentum: Momentum factor, non-negative. Exactly 0 is off, and off is a case of
            its own in the formula: a tensor of 0 receives no gradient.
        dampening: Share of each gradient, after the first, withheld from momentum.
        weight_decay: L2 penalty, non-negative.
        nesterov: Take the step from the gradient one momentum step ahead. Needs
            ``momentum`` and no ``dampening``.
        maximize: Ascend instead of descend.
        foreach: ``True`` for one call per operation for all parameters, ``False`` for
            the loop (unless ``fused``), ``None`` for what is fastest.
        differentiable: Run :meth:`step` under autograd. Parameters are changed in place
            and so cannot be leaves that require grad: optimise a clone, evaluate the
            loss on a clone of that, and let ``.grad`` have a graph. :func:`sgd_step`
            needs no such care. A property of the whole optimiser, not of one group.
        fused: ``True`` for one pass over memory, wherever torch's kernel is right;
            ``False`` for never. As torch's ``fused`` does, ``True`` takes over from
            ``torch.amp.GradScaler``: :meth:`step` itself divides by the
            scale, and skips if an inf was found, so that float16 gradients are allowed.
            Unlike in torch, ``.grad`` stays scaled. Needs real floating-point
            parameters with dense gradients, no ``foreach``, no ``differentiable``.
        decoupled_weight_decay: Shrink the parameters by ``lr * weight_decay`` instead
            of adding the penalty to the gradient.
        compensated: For float16 and bfloat16 parameters: keep momentum in float32, and
            what rounding takes from a parameter in a second tensor of its dtype, to be
            added at the next step. Small steps are not lost then.
        flat: Move the parameters of a group into one block of memory for each dtype and
            device, of which they become views, and update the block: for many small
            parameters. With ``zero_grad(set_to_none=False)`` the gradients become views
            as well, which saves copying them at each step. Tensors made earlier from a
            parameter (``detach()``, ``data``) do not follow it. Parameters that were
            moved elsewhere (``model.to(device)``) are collected again by the next step,
            and what a checkpoint says about ``flat`` is ignored. Not for views, nor for
            memory shared with another process or parameter.
        step_size: Rule that multiplies ``lr`` in each step by a factor in [0, 1] found
            from the loss, :class:`PolyakStep` or :class:`ArmijoStep`. It is a setting
            of SGD, not an optimiser of its own, so that momentum, groups and schedulers
            (of ``lr``, the largest step) work as ever. :meth:`step` then needs a
            closure, unless all ``lr`` are 0. The factor is in each group as
            ``"last_factor"``. With several processes, the closure must return the loss
            of all.

    Raises:
        TypeError: If a numeric option is not a number.
        ValueError: If a numeric option is out of range, or ``nesterov`` lacks momentum.
        RuntimeError: If two switches exclude each other.

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

        I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019,
        algorithm 1, https://arxiv.org/abs/1711.05101. Their decay is not multiplied by
        ``lr``; here it is, as in ``torch.optim.AdamW``.

        P. Zamirai, J. Zhang, C. R. Aberger, C. De Sa, "Revisiting BFloat16 training",
        2020, algorithm 1, https://arxiv.org/abs/2010.06192, for ``compensated``.
    """

    # Only before that may a parameter be in memory of one in a group yet to come.
    _has_all_groups = True

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
        decoupled_weight_decay: bool = False,
        compensated: bool = False,
        flat: bool = False,
        step_size: StepSize | None = None,
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
            "decoupled_weight_decay": decoupled_weight_decay,
            "compensated": compensated,
            "flat": flat,
        }
        check_options(defaults)
        if step_size is not None and not isinstance(step_size, StepSize):
            raise TypeError(
                f"step_size must be a rule such as PolyakStep(), got {step_size!r}; "
                "a fixed step is lr"
            )
        if step_size is not None and differentiable:
            raise RuntimeError(
                "`step_size` does not support `differentiable`: the factor is a number "
                "without a gradient"
            )
        # Not a default: what is in a group ends up in checkpoints, which hold no code.
        self.step_size = step_size
        self._bodies = Bodies()
        self._has_all_groups = False
        super().__init__(params, defaults)
        self._has_all_groups = True
        self._bodies.move_into_blocks(self.param_groups)

    def __getstate__(self) -> dict[str, Any]:
        """Return what to pickle or copy."""
        return {**super().__getstate__(), "step_size": self.step_size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a ``state_dict``, also one of an older torch."""
        super().__setstate__(state)
        self._bodies = Bodies()
        for group in self.param_groups:
            for option in ("nesterov", "maximize", "differentiable", "fused"):
                group.setdefault(option, False)
            group.setdefault("foreach", None)
            for option in _OWN_OPTIONS:
                group.setdefault(option, self.defaults.get(option, False))

    def __repr__(self) -> str:
        """Return the groups as torch does, and the step size rule if there is one."""
        text = super().__repr__()
        if self.step_size is None:
            return text
        return f"{text.removesuffix(')')}step_size: {self.step_size}\n)"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, also one of ``torch.optim.SGD``.

        torch casts momentum to the dtype of its parameter. Here it keeps its own if
        that is more precise, as float32 momentum of bfloat16 parameters is.

        Args:
            state_dict: What ``state_dict`` returned.

        Raises:
            ValueError: If the groups are others, an option is out of range, or a buffer
                is not of the shape of its parameter; nothing is loaded.
            RuntimeError: If two switches exclude each other; nothing is loaded.
        """
        seen = [state_dict]
        flat = [group["flat"] for group in self.param_groups]

        def see(_: Optimizer, state_dict: dict[str, Any]) -> None:
            seen[0] = state_dict
            check_groups(self, state_dict)
            check_shapes(self, state_dict)

        def restore(_: Optimizer) -> None:
            for group, is_flat in zip(self.param_groups, flat, strict=True):
                group["flat"] = is_flat
            restore_precision(self, seen[0])

        # After the hooks of the caller that change what is loaded, and before those
        # that look at what has been.
        hooks = (
            self.register_load_state_dict_pre_hook(see),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, after checking the options it overrides.

        Args:
            param_group: ``"params"`` and the options that differ from the defaults.

        Raises:
            ValueError: If an option is out of range, ``differentiable`` differs, or a
                flat parameter cannot be moved.
        """
        if isinstance(param_group, dict):
            # As in torch, a group may switch momentum off under an inherited nesterov.
            check_options({**self.defaults, "nesterov": False, **param_group})
            differentiable = self.defaults["differentiable"]
            if param_group.get("differentiable", differentiable) != differentiable:
                raise ValueError(
                    "differentiable cannot be set for one parameter group, got "
                    f"{param_group['differentiable']} where the optimizer has "
                    f"{differentiable}; pass it to SGD(..., differentiable=...)"
                )
        super().add_param_group(param_group)
        if self._has_all_groups:
            try:
                self._bodies.move_into_blocks(self.param_groups)
            except ValueError:
                self.param_groups.pop()
                raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients.

        Args:
            set_to_none: Set ``.grad`` to ``None``, or else to zero. With ``flat``,
                gradients that are set to zero become views of one block.
        """
        if not set_to_none:
            for flat_group in self._bodies.move_into_blocks(self.param_groups):
                flat_group.zero_grad()
        super().zero_grad(set_to_none)

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
            RuntimeError: If an option does not go with a gradient, or a rule for the
                step size has no closure or a scaled loss; nothing is updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if getattr(self, "found_inf", None):
            return loss

        for group in self.param_groups:
            check_before_step(group)
        rule = self.step_size
        if rule is not None and closure is None:
            stays = all(group["lr"] == 0 for group in self.param_groups)
            # torch.distributed.checkpoint takes such a step to have all the state.
            rule = None if stays else rule
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if rule is None:
                self._update(None, 1.0)
            elif closure is None:
                raise RuntimeError(
                    f"{rule} needs the loss: call step(closure), with a closure that "
                    "clears the gradients, calls backward() and returns the loss"
                )
            elif getattr(self, "grad_scale", None) is not None:
                raise RuntimeError(
                    f"{rule} does not go with torch.amp.GradScaler, which scales the "
                    "loss that the closure returns; use bfloat16, which needs no scale"
                )
            else:
                line = Line(self.param_groups, loss, closure)
                self._update_along(line, rule)
        return loss

    def _update_along(self, line: Line, rule: StepSize) -> None:
        """Let the rule choose the factor of ``lr``, then take the step."""
        try:
            factor = factor_of(rule, line)
        finally:
            line.go_back()
        for group in self.param_groups:
            group["last_factor"] = factor
        self._update(line.grads, factor)

    def _update(self, grads: list[Grads] | None, factor: float) -> None:
        """Update all groups, by what is in ``.grad`` unless gradients are given."""
        if torch.compiler.is_compiling() or self.defaults["differentiable"]:
            self._update_by_reference(grads, factor)
            return
        # Set by torch.amp.GradScaler for the length of the call, if fused.
        scale: Tensor | None = getattr(self, "grad_scale", None)
        self._bodies.update(self.param_groups, self.state, grads, scale, factor)

    def _update_by_reference(self, grads: list[Grads] | None, factor: float) -> None:
        scale: Tensor | None = getattr(self, "grad_scale", None)
        for i, group in enumerate(self.param_groups):
            formula = Formula.of(group, factor)
            settings = Settings.of(group, formula)
            own = grads[i] if grads is not None else [p.grad for p in group["params"]]
            pairs = zip(group["params"], unscaled(own, scale), strict=True)
            for param, grad in pairs:
                if grad is None:
                    continue
                if self.defaults["differentiable"]:
                    state = self.state[param] if settings.has_momentum else {}
                    update_under_autograd_(param, grad, state, formula)
                else:
                    one_by_one(param, grad, self.state, formula, settings)
