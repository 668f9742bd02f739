"""Grids between numbers, which are placed once: the same as placed for each call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature import known

F64 = torch.float64
RULES = {
    "product": mlc.Product(mlc.GaussLegendre(4)),
    "two rules": mlc.Product(mlc.GaussLegendre(4), mlc.Simpson(5)),
    "sparse": mlc.SparseGrid(3),
}
PLAN = mlc.adapt(
    lambda x: torch.exp(-x[..., 0]) * torch.cos(40 * x[..., 1]),
    mlc.Box(0.0, 1.0, dimension=2),
)
BOXES = {
    "numbers": mlc.Box([0, -1.5], [1, 2]),
    "one number": mlc.Box(-1, 0.5, dimension=2),
    "reversed": mlc.Box([1.0, 0.0], [0.0, 2.0]),
    "tensors": mlc.Box(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0])),
    "double": mlc.Box(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)),
}
#: Which has the nodes placed for this call.
ANEW = 1 << 30


def f(x: Tensor, rate: Tensor | float = 0.7) -> Tensor:
    return torch.exp(-rate * x[..., 0]) * torch.cos(x[..., 1])


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    placed = known._placed
    monkeypatch.setattr(known, "_placed", lambda *a: calls.append(a) or placed(*a))


calls: list[tuple[object, ...]] = []


def count() -> int:
    return len(calls)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("box", BOXES)
def test_they_are_those_of_a_call_that_places_them(rule: str, box: str) -> None:
    args = RULES[rule], BOXES[box]
    rate = torch.tensor([0.5, 1.0, 3.0], requires_grad=True)
    for function, own in ((f, {}), (f, {"args": (rate,)})):
        before = count()
        found = mlc.integrate(function, *args[::-1], **own)
        assert count() > before
        before = count()
        wanted = mlc.integrate(function, *args[::-1], memory=ANEW, **own)
        assert count() == before
        torch.testing.assert_close(found, wanted)
        assert found.dtype == wanted.dtype
    (found,) = torch.autograd.grad(found.sum(), rate)
    (wanted,) = torch.autograd.grad(wanted.sum(), rate)
    torch.testing.assert_close(found, wanted)


def test_logs_and_events() -> None:
    rule, box = RULES["product"], BOXES["numbers"]
    rate = torch.tensor([0.5, 1.0, 3.0])
    log_f = lambda x, r: -r * x.square().sum(-1)  # noqa: E731
    pair = lambda x, r: torch.stack([x[..., 0] * r, x[..., 1].exp()], -1)  # noqa: E731
    for solve, function in ((mlc.log_integrate, log_f), (mlc.integrate, pair)):
        found = solve(function, box, rule, args=(rate,))
        wanted = solve(function, box, rule, args=(rate,), memory=ANEW)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("box", ["numbers", "reversed", "tensors", "double"])
def test_so_are_those_of_a_plan(box: str) -> None:
    rate = torch.tensor(0.5, requires_grad=True)
    for function, own in ((f, {}), (f, {"args": (rate,)})):
        before = count()
        found = mlc.integrate(function, BOXES[box], PLAN, **own)
        assert count() > before
        before = count()
        wanted = mlc.integrate(function, BOXES[box], PLAN, memory=ANEW, **own)
        assert count() == before
        torch.testing.assert_close(found, wanted)
        assert found.dtype == wanted.dtype
    (found,) = torch.autograd.grad(found, rate)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, rate)[0])


def test_more_than_a_sum_is_for_the_plan_itself() -> None:
    rate = torch.tensor([0.5, 1.0])
    unit = mlc.Box(0.0, 1.0, dimension=2)
    log_f = lambda x, r: -r * x.square().sum(-1)  # noqa: E731
    batch = mlc.adapt(f, unit, args=(rate,))
    assert mlc.integrate(f, unit, batch, args=(rate,)).shape == (2,)
    with pytest.raises(ValueError, match="made for integrals of shape"):
        mlc.integrate(f, unit, PLAN, args=(rate,))
    with pytest.raises(ValueError, match="in 2 dimensions, the domain has 3"):
        mlc.integrate(lambda x: x.sum(-1), mlc.Box(0.0, 1.0, dimension=3), PLAN)
    split = mlc.adapt(f, unit, breakpoints=[[0.5], None])
    with pytest.raises(ValueError, match="made with"):
        mlc.integrate(f, unit, split)
    assert not count()
    found = mlc.log_integrate(log_f, unit, PLAN, args=(rate[0],))
    wanted = mlc.log_integrate(
        log_f, unit, mlc.Product(mlc.GaussLegendre(8)), args=(rate[0],)
    )
    torch.testing.assert_close(found, wanted)


def test_an_integrand_may_write_to_its_points() -> None:
    rule, box = RULES["product"], BOXES["numbers"]

    def writing(x: Tensor, *_: Tensor) -> Tensor:
        return x.mul_(2).sum(-1)

    for args in ((), (torch.tensor(1.0),)):
        first = mlc.integrate(writing, box, rule, args=args)
        assert torch.equal(mlc.integrate(writing, box, rule, args=args), first)


@pytest.mark.parametrize("box", ["infinite", "equal", "moving", "batch", "half", "big"])
def test_what_is_more_than_that_is_placed_anew(box: str) -> None:
    end = torch.tensor([1.0, 2.0])
    domain = {
        "infinite": mlc.Box([0.0, 0.0], [1.0, torch.inf]),
        "equal": mlc.Box([0.0, 0.0], [1.0, 0.0]),
        "moving": mlc.Box(torch.zeros(2), end.clone().requires_grad_()),
        "batch": mlc.Box(torch.zeros(2), torch.ones(3, 2)),
        "half": mlc.Box(torch.zeros(2).half(), end.half()),
        "big": mlc.Box(0.0, 1.0, dimension=2),
    }[box]
    rule = mlc.Product(mlc.GaussLegendre(200 if box == "big" else 4))
    before = count()
    value = mlc.integrate(lambda x: torch.exp(-x.sum(-1)), domain, rule)
    assert count() == before
    if box == "moving":
        (slope,) = torch.autograd.grad(value, domain.upper)
        exact = torch.exp(-end) * (1 - torch.exp(-end)).flip(0)
        torch.testing.assert_close(slope, exact, rtol=1e-3, atol=0)


def test_each_dtype_has_its_own() -> None:
    rule, box = RULES["product"], BOXES["numbers"]
    values = [
        mlc.integrate(f, box, rule, args=(torch.tensor(0.5, dtype=dtype),))
        for dtype in (torch.float32, F64)
    ]
    assert [value.dtype for value in values] == [torch.float32, F64]


@pytest.mark.parametrize("first", ["inference", "fake", "vmap", "compile"])
def test_whoever_comes_first_leaves_ordinary_ones(first: str) -> None:
    end = {"inference": 1.1, "fake": 1.2, "vmap": 1.3, "compile": 1.4}[first]
    rule, box = RULES["sparse"], mlc.Box(-1.0, end, dimension=2)  # placed by nobody
    solve = lambda r: mlc.integrate(f, box, rule, args=(r,))  # noqa: E731
    rate = torch.tensor([0.5, 1.0])
    if first == "inference":
        with torch.inference_mode():
            solve(rate)
    elif first == "fake":
        with FakeTensorMode():
            solve(torch.ones(2))
    elif first == "vmap":
        torch.func.vmap(solve)(rate)
    else:
        torch.compile(solve, backend="eager", fullgraph=True)(rate)
    rate.requires_grad_()
    solve(rate).sum().backward()
    wanted = mlc.integrate(f, box, rule, args=(rate,), memory=ANEW)
    torch.testing.assert_close(rate.grad, torch.autograd.grad(wanted.sum(), rate)[0])


def test_a_large_batch_still_goes_block_by_block() -> None:
    sizes = []

    def watched(x: Tensor, rate: Tensor) -> Tensor:
        sizes.append(len(x))
        return f(x, rate)

    rate = torch.linspace(0, 1, 20_000)
    mlc.integrate(watched, BOXES["numbers"], RULES["product"], args=(rate,))
    assert sum(sizes) == 16
    assert max(sizes) < 16
