"""``check_optimizer`` itself: every case of it finds the fault it is there for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.testing import OptimizerCheckError, check_optimizer
from torch_mlcalc.testing.optimizers import _CASES

Options = dict[str, Any]
Closure = Callable[[], Any] | None

WRONG: dict[str, tuple[Options, str]] = {
    "lr": (dict(lr=0.2), r"every gradient, float64, step 0.*params\[0\]\[0, 0\] is"),
    "state": (
        dict(momentum=0.0),
        r"params\[0\] has \['momentum_buffer'\], but .* \[\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_finds_a_difference(name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(OptimizerCheckError, match=message):
        check_optimizer(
            torch.optim.SGD,
            torch.optim.SGD,
            options=dict(lr=0.1, momentum=0.9),
            reference_options=options,
        )


class Faulty(torch.optim.SGD):
    """SGD of torch that can be told to take its gradients for others."""

    def params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @contextlib.contextmanager
    def taken_for(self, other: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        held = [param.grad for param in self.params()]
        for param in self.params():
            param.grad = other(param)
        yield
        for param, grad in zip(self.params(), held, strict=True):
            param.grad = grad


class TakesTwice(Faulty):
    def step(self, closure: Closure = None) -> object:
        super().step()
        return super().step(closure)


class TakesNoneForZero(Faulty):
    def step(self, closure: Closure = None) -> object:
        zero = torch.zeros_like
        with self.taken_for(lambda p: zero(p) if p.grad is None else p.grad):
            return super().step(closure)


class GivesZeroForNone(Faulty):
    def step(self, closure: Closure = None) -> object:
        loss = super().step(closure)
        for param in self.params():
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        return loss


class ReplacesGradients(Faulty):
    def step(self, closure: Closure = None) -> object:
        loss = super().step(closure)
        for param in self.params():
            param.grad = None if param.grad is None else param.grad.clone()
        return loss


class UpdatesThoseOfTheFirstStep(Faulty):
    def step(self, closure: Closure = None) -> object:
        if not hasattr(self, "first"):
            self.first = {id(p) for p in self.params() if p.grad is not None}
        with self.taken_for(lambda p: p.grad if id(p) in self.first else None):
            return super().step(closure)


class MovesTheFrozen(Faulty):
    def step(self, closure: Closure = None) -> object:
        for param in self.params():
            if not param.requires_grad:
                param.add_(1)
        return super().step(closure)


class PairsMemory(Faulty):
    def step(self, closure: Closure = None) -> object:
        def by_memory(param: Tensor) -> Tensor | None:
            if param.grad is None or not param.is_contiguous():
                return param.grad
            return param.grad.as_strided(param.shape, param.stride())

        with self.taken_for(by_memory):
            return super().step(closure)


class ClearsNothingInPlace(Faulty):
    def zero_grad(self, set_to_none: bool = True) -> None:
        if set_to_none:
            super().zero_grad()


class ReturnsTheLossAfterwards(Faulty):
    def step(self, closure: Closure = None) -> object:
        loss = super().step(closure)
        return loss if closure is None else closure()


class ReturnsNoLoss(Faulty):
    def step(self, closure: Closure = None) -> object:
        super().step(closure)


class NeverEvaluates(Faulty):
    def step(self, closure: Closure = None) -> object:
        super().step()
        return None if closure is None else closure()


class HasOneLr(Faulty):
    def step(self, closure: Closure = None) -> object:
        for group in self.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        return super().step(closure)


class KeepsTheFirstLr(Faulty):
    def step(self, closure: Closure = None) -> object:
        for group in self.param_groups:
            group["lr"] = group.setdefault("first_lr", group["lr"])
        return super().step(closure)


class LoadsNoState(Faulty):
    def load_state_dict(self, state_dict: Options) -> None:
        super().load_state_dict({**state_dict, "state": {}})


class CopiesNoState(Faulty):
    def __getstate__(self) -> Options:
        return {**super().__getstate__(), "state": type(self.state)(dict)}


class IsItsOwnCopy(Faulty):
    def __deepcopy__(self, memo: Options) -> IsItsOwnCopy:
        return self


class TakesTheLastOfTheSameRow(Faulty):
    def step(self, closure: Closure = None) -> object:
        def last(param: Tensor) -> Tensor | None:
            if param.grad is None or not param.grad.is_sparse:
                return param.grad
            dense = torch.zeros_like(param)
            dense[param.grad._indices()[0]] = param.grad._values()
            return dense

        with self.taken_for(last):
            return super().step(closure)


ELEMENT = r"params\[\d\]\[.*\] is"
#: What is wrong, the case that finds it, and what it says.
FAULTS: dict[type[Faulty], tuple[str, str]] = {
    TakesTwice: ("every gradient", ELEMENT),
    ReplacesGradients: ("every gradient", r"gradient of params\[0\] was written"),
    TakesNoneForZero: ("missing gradients", r"params\[1\]\['momentum_buffer'\]|has \["),
    GivesZeroForNone: ("missing gradients", r"gradient of params\[1\] was written"),
    UpdatesThoseOfTheFirstStep: ("late gradients", ELEMENT),
    MovesTheFrozen: ("frozen parameter", rf"step 2.*{ELEMENT}"),
    PairsMemory: ("other strides", rf"step 1.*{ELEMENT}"),
    ClearsNothingInPlace: ("zeroed in place", rf"step 1.*{ELEMENT}"),
    ReturnsTheLossAfterwards: ("closure", "step 0 failed: loss is"),
    ReturnsNoLoss: ("closure", "step 0: step returned None"),
    NeverEvaluates: ("closure", ELEMENT),
    HasOneLr: ("added group", r"step 2.*params\[7\]"),
    KeepsTheFirstLr: ("changed options", rf"step 1.*{ELEMENT}"),
    LoadsNoState: ("saved and loaded", rf"step 3.*{ELEMENT}"),
    CopiesNoState: ("copied", rf"step 3.*{ELEMENT}"),
    IsItsOwnCopy: ("copied", "steps of the copy changed the original"),
    TakesTheLastOfTheSameRow: ("sparse gradients", rf"step 0.*{ELEMENT}"),
}


@pytest.mark.parametrize("faulty", FAULTS, ids=lambda faulty: faulty.__name__)
def test_finds_a_fault_by_the_case_that_has_it(faulty: type[Faulty]) -> None:
    case, message = FAULTS[faulty]

    def check(*cases: str) -> None:
        check_optimizer(
            faulty,
            torch.optim.SGD,
            options=dict(lr=0.1, momentum=0.9),
            dtypes=[torch.float64],
            cases=cases,
        )

    if case != "every gradient":
        check("every gradient")
    with pytest.raises(OptimizerCheckError, match=rf"(?s){case}, float64.*{message}"):
        check(case)


def test_every_case_has_a_fault() -> None:
    assert {case for case, _ in FAULTS.values()} == set(_CASES)
    check_optimizer(
        Faulty,
        torch.optim.SGD,
        options=dict(lr=0.1, momentum=0.9),
        dtypes=[torch.float64],
    )


class Counts(torch.optim.SGD):
    """Counts its steps in its state, as Adam does."""

    by = 1

    def step(self, closure: Closure = None) -> object:
        loss = super().step(closure)
        for state in self.state.values():
            state["step"] = state.get("step", 0) + self.by
        return loss


class CountsInTwos(Counts):
    by = 2


class KeepsWideMomentum(torch.optim.SGD):
    def step(self, closure: Closure = None) -> object:
        loss = super().step(closure)
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].double()
        return loss


STATES: dict[type[Any], tuple[type[Any], str]] = {
    CountsInTwos: (Counts, r"params\[0\] has step=2, but that of the reference 1"),
    KeepsWideMomentum: (torch.optim.SGD, "torch.float64, but .* torch.float32"),
}


@pytest.mark.parametrize("faulty", STATES, ids=lambda faulty: faulty.__name__)
def test_finds_state_that_is_no_tensor_or_of_another_dtype(faulty: type[Any]) -> None:
    reference, message = STATES[faulty]

    def check(optimizer: type[Any]) -> None:
        check_optimizer(
            optimizer,
            reference,
            options=dict(momentum=0.9),
            dtypes=[torch.float64, torch.float32],
            cases=["every gradient"],
        )

    check(reference)
    with pytest.raises(OptimizerCheckError, match=message):
        check(faulty)


def test_finds_gradients_that_are_written_to() -> None:
    with pytest.raises(OptimizerCheckError, match=r"gradient of params\[0\] was writt"):
        check_optimizer(
            torch.optim.SGD,
            mlc.SGD,
            options=dict(momentum=0.9, nesterov=True, foreach=True),
            cases=["every gradient"],
        )


def test_allows_as_many_ulps_as_it_is_told() -> None:
    def check(ulps: float) -> None:
        check_optimizer(
            mlc.SGD,
            mlc.SGD,
            options=dict(lr=0.1, fused=True),
            reference_options=dict(lr=0.1 * (1 + 1e-15)),
            dtypes=[torch.float64],
            cases=["every gradient"],
            ulps=ulps,
        )

    check(64)
    with pytest.raises(OptimizerCheckError, match=r"allowed is 0 \(0 \* eps"):
        check(0)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(cases=["no gradients"]), "among .*'matrix'.*, got 'no gradients'"),
        (dict(layouts=["vector"]), "got 'vector'"),
        (dict(steps=3), "at least 4, got 3"),
    ],
)
def test_refuses_what_it_does_not_know(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_optimizer(mlc.SGD, mlc.SGD, **options)
