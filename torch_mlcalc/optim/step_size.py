"""Step sizes that are found from the loss, instead of set beforehand."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, SupportsFloat, final

import torch
from torch import Tensor

from torch_mlcalc.optim.options import Formula, Numbers

__all__ = ["ArmijoStep", "PolyakStep", "StepSize"]


class Along(Protocol):
    """The loss along the line that the gradient points down."""

    #: Value of the objective where the step starts.
    loss: float
    #: How fast it falls along the line there: the sum of lr times gradient squared.
    slope: float
    #: Factor of the step before, 1 at first.
    last_factor: float
    #: Distance of 1 from the next number, in the dtype of the loss.
    eps: float

    def loss_at(self, factor: float) -> float:
        """Return the objective a factor along the line, calling the closure once."""


class StepSize(abc.ABC):
    r"""Rule for the factor in [0, 1] that multiplies ``lr`` in a step of :class:`SGD`.

    A rule of one's own is a subclass with a method ``factor``. It is told about the
    objective :math:`f`, which is what the closure returned plus the penalty of
    ``weight_decay`` (and negative with ``maximize``), along the line
    :math:`\theta - s \, \gamma \nabla f(\theta)`.
    """

    @abc.abstractmethod
    def factor(self, along: Along) -> float:
        """Return the factor for this step.

        Args:
            along: Has ``loss``, ``slope`` (of the objective at 0), ``last_factor``,
                ``eps`` (of the loss) and ``loss_at(factor)``, which calls the closure.
        """


@final
@dataclass(frozen=True)
class PolyakStep(StepSize):
    r"""Polyak's step size, as far as ``lr`` allows: the SPS_max rule.

    .. math::
        \min\left( \gamma,\;
            \frac{f(\theta) - f^*}{c \, \lVert \nabla f(\theta) \rVert^2} \right)

    with :math:`\gamma` = ``lr``. With one batch for all steps this is the classic rule
    of Polyak, with another one for each step the stochastic one. For the rule without
    a bound pass an ``lr`` that is never reached. Groups with ``lr`` of their own share
    a factor, for which :math:`\gamma` is part of the norm. With momentum, the step
    size is that of the gradient alone.

    The closure is called once and nothing is copied.

    Args:
        optimum: :math:`f^*`, the best objective that can be reached: of a batch, if the
            closure returns the loss of a batch. 0 suits models that can fit every
            example.
        c: Positive; smaller means larger steps. 1 is Polyak's, 1/2 is the fastest
            that Loizou et al. prove for strongly convex objectives.

    Raises:
        ValueError: If ``c`` is not positive or a number is not finite.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> x = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = mlc.SGD([x], lr=10.0, step_size=mlc.PolyakStep(c=0.5))
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (x - 3).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure)
        tensor(29., grad_fn=<SumBackward0>)
        >>> x.detach()
        tensor([3., 3.])

    References:
        B. T. Polyak, "Introduction to optimization", 1987, section 5.3.

        N. Loizou, S. Vaswani, I. Laradji, S. Lacoste-Julien, "Stochastic Polyak
        step-size for SGD: an adaptive learning rate for fast convergence", AISTATS
        2021, equation (3), https://arxiv.org/abs/2002.10542
    """

    optimum: float = 0.0
    c: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        _check_finite("optimum", self.optimum)
        _check_finite("c", self.c)
        if self.c <= 0:
            raise ValueError(f"c must be positive, got {self.c}")

    def factor(self, along: Along) -> float:
        """Return the factor for this step; :class:`SGD` calls this.

        Args:
            along: The objective along the line of the step.

        Raises:
            ValueError: If the objective is better than the optimum.
        """
        gap = along.loss - self.optimum
        if gap < -4 * along.eps * max(abs(along.loss), abs(self.optimum)):
            raise ValueError(
                f"optimum must be the best objective there is, got {self.optimum}, but "
                f"the objective is {along.loss} now (weight_decay included, negative "
                "with maximize). No parameter was changed; pass a lower optimum"
            )
        if gap <= 0:
            return 0.0
        # Without a slope there is no step, whatever the factor.
        return min(1.0, gap / (self.c * along.slope)) if along.slope else 1.0


@final
@dataclass(frozen=True)
class ArmijoStep(StepSize):
    r"""Backtracking line search: the first step that lowers the objective enough.

    The factor :math:`s \le 1` of ``lr`` (:math:`\gamma`) is multiplied by ``shrink``
    until

    .. math::
        f(\theta - s \gamma \nabla f(\theta))
            \le f(\theta) - c \, s \gamma \lVert \nabla f(\theta) \rVert^2

    The search is along the gradient; with momentum, the step then taken has the step
    size that was found.

    The closure is called once, and once more for each trial. It must evaluate the
    same function each time: the same batch, and the same random numbers if any. The
    gradients it leaves behind are those of the last trial. Parameters and gradients
    are copied once for the time of the step.

    Args:
        c: Share of the predicted decrease to insist on, between 0 and 1.
        shrink: Factor between two trials, between 0 and 1.
        growth: The first trial is the factor of the step before times this, at most 1;
            at least 1. ``math.inf`` starts each search from ``lr``.
        max_trials: After this many, the search has failed.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> x = torch.nn.Parameter(torch.tensor([-1.2, 1.0]))
        >>> optimizer = mlc.SGD([x], lr=1.0, step_size=mlc.ArmijoStep())
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - x[0])**2 + 100 * (x[1] - x[0]**2)**2
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(closure).item() for _ in range(200)]
        >>> losses == sorted(losses, reverse=True)
        True

    References:
        L. Armijo, "Minimization of functions having Lipschitz continuous first partial
        derivatives", Pacific Journal of Mathematics 16, 1966.

        S. Vaswani, A. Mishkin, I. Laradji, M. Schmidt, G. Gidel, S. Lacoste-Julien,
        "Painless stochastic gradient: interpolation, line-search, and convergence
        rates", NeurIPS 2019, equation (1) and section 6 for ``c`` and ``growth``,
        https://arxiv.org/abs/1905.09997
    """

    c: float = 0.1
    shrink: float = 0.5
    growth: float = 2.0
    max_trials: int = 40

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("c", "shrink"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be between 0 and 1, got {getattr(self, name)}"
                )
        if not self.growth >= 1:
            raise ValueError(f"growth must be at least 1, got {self.growth}")
        if isinstance(self.max_trials, bool) or self.max_trials != int(self.max_trials):
            raise ValueError(f"max_trials must be an integer, got {self.max_trials}")
        if self.max_trials < 1:
            raise ValueError(f"max_trials must be at least 1, got {self.max_trials}")

    def factor(self, along: Along) -> float:
        """Return the factor for this step; :class:`SGD` calls this.

        Args:
            along: The objective along the line of the step.

        Raises:
            RuntimeError: If no trial was good enough.
        """
        factor = min(1.0, self.growth * along.last_factor)
        # Below this, a decrease cannot be told from rounding.
        noise = 4 * along.eps * abs(along.loss)
        for _ in range(self.max_trials):
            wanted = along.loss - self.c * factor * along.slope
            if along.loss_at(factor) <= wanted + noise:
                return factor
            factor *= self.shrink
        raise RuntimeError(
            f"no factor down to {factor / self.shrink} lowered the objective "
            f"{along.loss} enough, whose slope should be {-along.slope}. No parameter "
            "was changed. Let the closure clear the gradients, evaluate the same "
            "function each time and return what it called backward() on, or allow more "
            "max_trials"
        )


class Line:
    """The objective of an optimizer along its gradient: what a rule is told."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        loss: object,
        closure: Callable[[], object],
    ) -> None:
        """Take the gradients that the closure has just left in ``.grad``.

        Args:
            groups: Parameter groups of an optimizer.
            loss: What the closure returned.
            closure: For values elsewhere on the line.

        Raises:
            TypeError: If what the closure returned is not a number.
            ValueError: If the groups disagree about ``maximize``, or a number is not
                finite.
        """
        if len({bool(group["maximize"]) for group in groups}) > 1:
            raise ValueError(
                "maximize must be the same for all parameter groups with a step_size, "
                "which has to know what the objective is"
            )
        self._closure = closure
        self._members = [
            (param, param.grad, Formula.of(group).as_numbers())
            for group in groups
            for param in group["params"]
            if param.grad is not None
        ]
        #: Gradients, by parameter group: the own ones until the closure is called.
        self.grads: list[list[Tensor | None]] = [
            [param.grad for param in group["params"]] for group in groups
        ]
        self._sign = -1.0 if groups[0]["maximize"] else 1.0
        self._origin: list[Tensor] = []
        self._descents: list[Tensor] = []
        is_tensor = isinstance(loss, Tensor) and loss.is_floating_point()
        self.eps = torch.finfo(loss.dtype if is_tensor else torch.float64).eps  # type: ignore[attr-defined]
        self.last_factor = float(groups[0].get("last_factor", 1.0))
        self.loss = self._objective(loss)
        self.slope = math.fsum(
            float(formula.lr) * _squared_norm(_gradient(param, grad, formula))
            for param, grad, formula in self._members
        )
        for name, number in (("loss", self.loss), ("gradient", self.slope)):
            if not math.isfinite(number):
                raise ValueError(
                    f"{name} must be finite to find a step_size, got {number}. No "
                    "parameter was changed"
                )

    def loss_at(self, factor: float) -> float:
        """Return the objective a factor along the line, calling the closure once."""
        if not self._origin:
            self._remember()
        steps = zip(self._members, self._origin, self._descents, strict=True)
        for (param, _, formula), origin, descent in steps:
            param.copy_(origin.add(descent, alpha=-factor * float(formula.lr)))
        with torch.enable_grad():
            loss = self._closure()
        return self._objective(loss)

    def go_back(self) -> None:
        """Put the parameters back where they were, bit for bit."""
        for (param, _, _), origin in zip(self._members, self._origin, strict=False):
            param.copy_(origin)

    def _remember(self) -> None:
        """Copy what the closure is about to overwrite."""
        self._origin = [param.detach().clone() for param, _, _ in self._members]
        self._descents = [_gradient(*member).clone() for member in self._members]
        self.grads = [
            [None if grad is None else grad.detach().clone() for grad in grads]
            for grads in self.grads
        ]

    def _objective(self, loss: object) -> float:
        penalty = math.fsum(
            float(formula.weight_decay) / 2 * _squared_norm(param.detach())
            for param, _, formula in self._members
            if formula.weight_decay != 0 and not formula.decoupled_weight_decay
        )
        return self._sign * _number(loss) + penalty


def factor_of(rule: StepSize, line: Line) -> float:
    """Ask a rule for its factor.

    Args:
        rule: The rule, perhaps of somebody else.
        line: What it is told.

    Returns:
        The factor.

    Raises:
        ValueError: If it is none.
    """
    factor = rule.factor(line)
    if isinstance(factor, SupportsFloat) and 0 <= float(factor) <= 1:
        return float(factor)
    raise ValueError(
        f"{rule} must return a factor between 0 and 1, got {factor!r}. No parameter "
        "was changed"
    )


def _number(loss: object) -> float:
    if isinstance(loss, SupportsFloat) and not (
        isinstance(loss, Tensor) and loss.numel() != 1
    ):
        return float(loss)
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    raise TypeError(
        "the closure must return the loss, a number or a one-element tensor, to find "
        f"a step_size, got {type(loss).__name__}{shape}. No parameter was changed"
    )


def _gradient(param: Tensor, grad: Tensor, formula: Numbers) -> Tensor:
    """Return the gradient of the objective, penalty included."""
    grad = grad.detach().to_dense() if grad.is_sparse else grad.detach()
    grad = -grad if formula.maximize else grad
    if formula.weight_decay != 0 and not formula.decoupled_weight_decay:
        grad = grad.add(param.detach(), alpha=float(formula.weight_decay))
    return grad


def _squared_norm(tensor: Tensor) -> float:
    wide = tensor.float() if tensor.element_size() < 4 else tensor
    norm = torch.linalg.vector_norm(wide)
    # The norm of a DTensor is a DTensor that may not have been summed yet.
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(whole) ** 2


def _check_finite(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
