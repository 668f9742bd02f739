"""Every body of SGD against the reference loop, over the table of inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.optim import partition
from torch_mlcalc.optim.flat import FlatGroup
from torch_mlcalc.testing import check_optimizer

Options = dict[str, Any]
Body = tuple[Options, tuple[str, ...] | None, float]

#: What may be flat: no gaps in memory.
DENSE = ("matrix", "transposed", "channels last", "scalar", "empty", "long")
FORMULAS: dict[str, Options] = {
    "plain": dict(lr=0.1),
    "momentum": dict(lr=0.1, momentum=0.9),
    "dampening, decay": dict(momentum=0.8, dampening=0.3, weight_decay=0.05),
    "nesterov": dict(lr=0.1, momentum=0.9, nesterov=True),
    "nesterov, decay, maximize": dict(
        momentum=0.9, nesterov=True, weight_decay=0.05, maximize=True
    ),
    "decoupled": dict(
        lr=0.1, momentum=0.9, weight_decay=0.05, decoupled_weight_decay=True
    ),
    "tensors": dict(
        lr=torch.tensor(0.1), momentum=torch.tensor(0.9), weight_decay=torch.tensor(0.1)
    ),
}
#: Options, layouts, and units in the last place allowed. The kernel of the fused body
#: rounds the momentum of the last elements once less than the loop, 6 steps long.
BODIES: dict[str, Body] = {
    "foreach": (dict(foreach=True), None, 0),
    "not fused": (dict(fused=False), None, 0),
    "default": ({}, None, 4),
    "fused": (dict(fused=True), None, 4),
    "flat": (dict(flat=True), DENSE, 4),
    "flat foreach": (dict(flat=True, foreach=True), DENSE, 4),
    "flat loop": (dict(flat=True, foreach=False), DENSE, 4),
}


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> int:
    torch.set_num_threads(request.param)
    return request.param


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_equals_the_loop_in_every_case(body: Body, formula: Options) -> None:
    options, layouts, ulps = body
    more: Options = {} if layouts is None else dict(layouts=layouts)
    if options.get("fused"):
        more["cases"] = [c for c in ALL_CASES if c != "sparse gradients"]
    check_optimizer(
        mlc.SGD,
        mlc.SGD,
        options={**formula, **options},
        reference_options=dict(foreach=False, fused=None, flat=False),
        dtypes=(torch.float64, torch.bfloat16),
        ulps=ulps,
        **more,
    )


ALL_CASES = (
    "every gradient",
    "missing gradients",
    "late gradients",
    "frozen parameter",
    "other strides",
    "zeroed in place",
    "closure",
    "added group",
    "changed options",
    "saved and loaded",
    "copied",
    "sparse gradients",
)


@pytest.mark.parametrize("name", ["plain", "nesterov, decay, maximize"])
def test_loop_equals_that_of_torch_in_every_case(name: str) -> None:
    check_optimizer(
        mlc.SGD, torch.optim.SGD, options={**FORMULAS[name], "foreach": False}
    )


def test_complex_parameters_in_every_body(threads: int) -> None:
    for options in ({}, dict(foreach=True), dict(flat=True)):
        check_optimizer(
            mlc.SGD,
            mlc.SGD,
            options={**FORMULAS["nesterov"], **options},
            reference_options=dict(foreach=False, flat=False),
            dtypes=[torch.complex64],
            layouts=DENSE,
            cases=["every gradient", "missing gradients", "late gradients"],
            ulps=4,
        )


# Which body is chosen


def bodies_of(optimizer: mlc.SGD) -> set[str]:
    """Name the bodies of the last step."""
    found = set()
    for each in optimizer._bodies.partitions.values():
        bodies = [part._body for part in each._parts]
        found |= {getattr(body, "__name__", type(body).__name__) for body in bodies}
        found |= {"alone"} if each._alone else set()
    return found


def after_three_steps(params: list[Tensor], **options: object) -> mlc.SGD:
    optimizer = mlc.SGD(params, **{"momentum": 0.9, **options})
    for _ in range(3):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    return optimizer


def sized(*sizes: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(n, dtype=dtype, requires_grad=True) for n in sizes]


class Subclass(Tensor):
    """Stands for DTensor and the like."""


def of_a_subclass() -> list[Tensor]:
    return [tensor.detach().as_subclass(Subclass) for tensor in sized(5, 20000)]


CHOICES: dict[str, tuple[list[Tensor], Options, set[str], set[str]]] = {
    "small": (sized(5, 7), {}, {"fused_"}, {"Gathered"}),
    "small, float16": (
        sized(5, 7, dtype=torch.float16),
        {},
        {"foreach_"},
        {"foreach_"},
    ),
    "small, not fused": (
        sized(5, 7),
        dict(fused=False),
        {"foreach_"},
        {"Gathered"},
    ),
    "small, foreach": (sized(5, 7), dict(foreach=True), {"foreach_"}, {"foreach_"}),
    "small matrices": (
        [torch.zeros(2, 3, requires_grad=True) for _ in range(2)],
        {},
        {"fused_"},
        {"foreach_"},
    ),
    "large": (sized(20000), {}, {"fused_"}, {"fused_"}),
    "mixed": (sized(5, 20000), {}, {"fused_"}, {"fused_", "foreach_"}),
    "small, plain": (sized(5, 7), dict(momentum=0), {"fused_"}, {"foreach_"}),
    "large, plain": (sized(70000), dict(momentum=0), {"foreach_"}, {"foreach_"}),
    "large, decay": (
        sized(70000),
        dict(momentum=0, weight_decay=0.1),
        {"fused_"},
        {"fused_"},
    ),
    "small, fused": (sized(5), dict(fused=True), {"fused_"}, {"fused_"}),
    "not fused": (sized(20000), dict(fused=False), {"foreach_"}, {"foreach_"}),
    "foreach": (sized(20000), dict(foreach=True), {"foreach_"}, {"foreach_"}),
    "loop": (sized(20000), dict(foreach=False), {"alone"}, {"alone"}),
    "float16": (sized(9, dtype=torch.float16), {}, {"foreach_"}, {"foreach_"}),
    "bfloat16, fused": (
        sized(9, dtype=torch.bfloat16),
        dict(fused=True),
        {"foreach_"},
        {"foreach_"},
    ),
    "complex": (sized(9, dtype=torch.complex64), {}, {"foreach_"}, {"foreach_"}),
    "subclass": (of_a_subclass(), {}, {"alone"}, {"alone"}),
    "subclass, foreach": (
        of_a_subclass(),
        dict(foreach=True),
        {"foreach_"},
        {"foreach_"},
    ),
    "lr that requires grad": (
        sized(9),
        dict(lr=torch.tensor(0.1, requires_grad=True)),
        {"alone"},
        {"alone"},
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_chooses_the_body(name: str, threads: int) -> None:
    params, options, *expected = CHOICES[name]
    assert bodies_of(after_three_steps(params, **options)) == expected[threads - 1]


def test_keeps_its_choice_while_nothing_changes() -> None:
    params = sized(5, 7)
    optimizer = after_three_steps(params)
    found = optimizer._bodies.partitions[0]
    optimizer.step()
    optimizer.zero_grad()
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert optimizer._bodies.partitions[0] is found


def test_momentum_that_begins_again_is_soon_updated_with_the_rest() -> None:
    params = sized(5, 7)
    optimizer = after_three_steps(params)
    before = bodies_of(optimizer)
    optimizer.state[params[0]].clear()
    optimizer.step()
    assert bodies_of(optimizer) != before
    optimizer.step()
    assert bodies_of(optimizer) == before


def test_a_parameter_in_the_place_of_one_without_gradient() -> None:
    params, new = sized(5, 7), torch.zeros(7)
    params[0].grad = torch.ones(5)
    optimizer = mlc.SGD(params, 0.5)
    optimizer.step()
    optimizer.param_groups[0]["params"][1] = new
    new.grad = torch.ones(7)
    optimizer.step()
    assert new.tolist() == [-0.5] * 7


def replace_parameter(optimizer: mlc.SGD) -> None:
    params = optimizer.param_groups[0]["params"]
    new = torch.full((5,), 3.0, requires_grad=True)
    new.grad = params[1].grad
    params[1] = new


def swap_data(optimizer: mlc.SGD) -> None:
    param = optimizer.param_groups[0]["params"][0]
    param.data = torch.arange(12.0).reshape(4, 3).t()
    param.grad = torch.ones(3, 4)
    optimizer.state[param]["momentum_buffer"].data = torch.zeros(3, 4)


def to_double(optimizer: mlc.SGD) -> None:
    for param in optimizer.param_groups[0]["params"]:
        grad = param.grad
        param.grad = None
        param.data = param.data.double()
        param.grad = grad.double()


CHANGES: dict[str, Any] = {
    "data": swap_data,
    "dtype": to_double,
    "gradient missing": lambda o: setattr(o.param_groups[0]["params"][0], "grad", None),
    "buffer replaced": lambda o: o.state[o.param_groups[0]["params"][1]].update(
        momentum_buffer=torch.full((5,), 7.0)
    ),
    "buffer gone": lambda o: o.state[o.param_groups[0]["params"][1]].clear(),
    "state replaced": lambda o: o.state.update(
        {o.param_groups[0]["params"][1]: {"momentum_buffer": torch.full((5,), 3.0)}}
    ),
    "state gone": lambda o: o.state.clear(),
    "parameter replaced": replace_parameter,
    "parameter removed": lambda o: o.param_groups[0]["params"].pop(),
    "order": lambda o: o.param_groups[0]["params"].reverse(),
    "momentum off": lambda o: o.param_groups[0].update(momentum=0),
    "loop": lambda o: o.param_groups[0].update(foreach=False),
    "buffers moved": lambda o: [
        setattr(s["momentum_buffer"], "data", s["momentum_buffer"].data.clone() * 2)
        for s in o.state.values()
    ],
}


@pytest.mark.parametrize("kind", ["separate", "flat", "flat with gradients"])
@pytest.mark.parametrize("name", CHANGES)
def test_notices_what_changes_between_steps(name: str, kind: str, threads: int) -> None:
    def run(**options: object) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        shapes = [(3, 4), (5,), (20,)]
        params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
        optimizer = after_three_steps(params, **options)
        if kind == "flat with gradients":
            optimizer.zero_grad(set_to_none=False)
            for _ in range(2):
                optimizer.step()
            for param in params:
                param.grad.fill_(1)
        CHANGES[name](optimizer)
        for _ in range(3):
            optimizer.step()
        return params + optimizer.param_groups[0]["params"]

    found, expected = run(flat=kind != "separate"), run(foreach=False)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_looks_itself_where_torch_has_no_guards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")
    check = partition.unchanged([torch.ones(2), torch.ones(3)])
    assert check([torch.zeros(2), torch.zeros(3)])
    for other in (
        torch.ones(4),
        torch.ones(3, dtype=torch.float64),
        torch.ones(6)[::2],
        torch.ones(3).to_sparse(),
        torch.ones(1, 3).to_sparse_csr(),
        nn.Parameter(torch.ones(3)),
        torch.ones(3, device="meta"),
        None,
    ):
        assert not check([torch.zeros(2), other])
    check_optimizer(
        mlc.SGD,
        torch.optim.SGD,
        options=dict(momentum=0.9),
        reference_options=dict(foreach=False),
        ulps=4,
    )


def test_versions_count_so_that_backward_passes_notice() -> None:
    for options in ({}, dict(foreach=True), dict(fused=True), dict(flat=True)):
        param = torch.ones(3, requires_grad=True)
        other = torch.ones(4, requires_grad=True)
        optimizer = mlc.SGD([param, other], **options)
        loss = (param**2).sum()
        param.grad, other.grad = torch.ones(3), torch.ones(4)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# Vectors whose momentum is in one block


def trained_vectors(sizes: list[int], **options: object) -> mlc.SGD:
    """Take four steps; at the last but one the gradient of every fifth is missing."""
    generator = torch.Generator().manual_seed(5)
    params = [torch.randn(n, generator=generator).requires_grad_() for n in sizes]
    optimizer = mlc.SGD(params, **options)
    for step in range(4):
        for i, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator)
            param.grad = None if step == 2 and i % 5 == 0 else grad
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_vectors_in_blocks_equal_the_loop(formula: Options) -> None:
    torch.set_num_threads(2)
    sizes = [0, 1, 1000, 40, 0] * 40 + [16383, 16383, 5]
    found, expected = (
        trained_vectors(sizes, **formula, foreach=foreach) for foreach in (None, False)
    )
    if formula.get("momentum"):
        assert bodies_of(found) == {"Gathered"}
        assert len(found._bodies.partitions[0]._parts) > 2
    pairs = zip(*(o.param_groups[0]["params"] for o in (found, expected)), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            found.state[a], expected.state[b], rtol=1e-6, atol=1e-6
        )


def test_momentum_in_blocks_seems_to_be_where_it_was() -> None:
    torch.set_num_threads(2)
    params = sized(5, 7)
    optimizer = mlc.SGD(params, momentum=0.9)
    buffers = []
    for _ in range(3):
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        buffers.append([optimizer.state[p]["momentum_buffer"] for p in params])
    assert bodies_of(optimizer) == {"Gathered"}
    for buffer, *later in zip(*buffers, strict=True):
        assert all(each is buffer for each in later)
        assert buffer.untyped_storage().nbytes() == 4 * buffer.numel()
        torch.testing.assert_close(buffer, torch.full_like(buffer, 2.71))
    assert buffers[0][1].data_ptr() - buffers[0][0].data_ptr() == 20


# Parts that are looked at and updated one after another


def sparse_grad(param: Tensor, state: Options) -> None:
    param.grad = param.grad.to_sparse()


def other_strides(param: Tensor, state: Options) -> None:
    param.grad = torch.stack([param.grad, -param.grad], -1)[..., 0]


def no_grad(param: Tensor, state: Options) -> None:
    param.grad = None


def other_memory(param: Tensor, state: Options) -> None:
    param.data = torch.stack([param.data, param.data], -1)[..., 1]


def other_momentum(param: Tensor, state: Options) -> None:
    buffer = state["momentum_buffer"]
    buffer.data = torch.stack([buffer.data + 1, buffer.data], -1)[..., 0]


def replaced_momentum(param: Tensor, state: Options) -> None:
    state["momentum_buffer"] = state["momentum_buffer"] + 1


def no_momentum(param: Tensor, state: Options) -> None:
    state.clear()


def moved(param: Tensor, state: Options) -> None:
    param.data = param.data + 1


def moved_grad(param: Tensor, state: Options) -> None:
    param.grad.data = param.grad.data + 1


PART_CHANGES = [
    sparse_grad,
    other_strides,
    no_grad,
    other_memory,
    other_momentum,
    replaced_momentum,
    no_momentum,
]


@pytest.mark.parametrize("body", [{}, dict(foreach=True)], ids=["fused", "foreach"])
@pytest.mark.parametrize("where", [300, 519])
@pytest.mark.parametrize("change", PART_CHANGES, ids=lambda c: c.__name__)
def test_what_changes_in_one_part_is_found_after_others_were_updated(
    change: Callable[[Tensor, Options], None], where: int, body: Options
) -> None:
    def run(options: Options) -> Tensor:
        # The last but one is updated alone, before the others.
        params = [torch.ones(4, requires_grad=True) for _ in range(520)]
        params[518] = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
        params[518].grad_dtype = None
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, weight_decay=0.1, **options)
        for step in range(5):
            for i, param in enumerate(params):
                param.grad = torch.full((4,), float(step + i % 7))
            if step == 3:
                change(params[where], optimizer.state[params[where]])
            optimizer.step()
        buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
        return torch.cat([each.detach().float() for each in (*params, *buffers)])

    torch.testing.assert_close(
        run(body), run(dict(foreach=False)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("where", [300, 518, 519])
@pytest.mark.parametrize(
    "change",
    [sparse_grad, no_grad, replaced_momentum, no_momentum, moved, moved_grad],
    ids=lambda c: c.__name__,
)
def test_what_changes_in_one_part_of_a_block_is_found(
    change: Callable[[Tensor, Options], None], where: int
) -> None:
    def run(**options: bool) -> Tensor:
        params = [torch.ones(4, requires_grad=True) for _ in range(520)]
        params[518] = torch.ones(4, dtype=torch.float64, requires_grad=True)
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, weight_decay=0.1, **options)
        for param in params:
            param.grad = torch.zeros_like(param)
        for step in range(5):
            if step != 4:
                optimizer.zero_grad(set_to_none=False)
                for i, param in enumerate(params):
                    param.grad.fill_(step + i % 7)
            if step == 3:
                change(params[where], optimizer.state[params[where]])
            optimizer.step()
        buffers = [optimizer.state[param]["momentum_buffer"] for param in params]
        return torch.cat([each.detach() for each in (*params, *buffers)])

    torch.testing.assert_close(run(flat=True), run(foreach=False), rtol=1e-6, atol=1e-6)


def test_momentum_may_begin_after_flat_steps_without_and_begin_again() -> None:
    def run(**options: bool) -> Tensor:
        param = torch.ones(4, requires_grad=True)
        param.grad = torch.ones(4)
        optimizer = mlc.SGD([param], 0.1, **options)
        for step in range(8):
            optimizer.zero_grad(set_to_none=False)
            param.grad.fill_(1)
            optimizer.param_groups[0]["momentum"] = 0.9 if step > 2 else 0
            if step == 5:
                optimizer.state[param].clear()
            if step == 6:
                optimizer.state[param]["momentum_buffer"] = torch.full((4,), 3.0)
            optimizer.step()
        return param

    torch.testing.assert_close(run(flat=True), run(foreach=False), rtol=1e-6, atol=0)


def test_a_flat_step_that_repeats_one_looks_at_everything_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = [
        sized(4, dtype=torch.float32 if i % 3 else torch.float64)[0] for i in range(900)
    ]
    optimizer = mlc.SGD(params, 0.1, momentum=0.9, flat=True)
    optimizer.zero_grad(set_to_none=False)
    for param in params:
        param.grad = torch.zeros_like(param)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
    monkeypatch.delattr(FlatGroup, "step")
    versions = [param._version for param in params]
    optimizer.step()
    assert [param._version for param in params] == [v + 1 for v in versions]


def test_a_step_finds_its_parts_again_only_if_something_has_changed() -> None:
    params = sized(*[4] * 520)
    optimizer = after_three_steps(params)
    known = optimizer._bodies.partitions[0]
    assert [len(part.positions) for part in known._parts] == [256, 256, 8]
    optimizer.step()
    assert optimizer._bodies.partitions[0] is known
    params[300].grad = torch.stack([params[300].grad] * 2, -1)[..., 0]
    for _ in range(3):
        optimizer.step()
    again = optimizer._bodies.partitions[0]
    assert again is not known
    optimizer.step()
    assert optimizer._bodies.partitions[0] is again


# Sequences drawn by hypothesis

STEP = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(
            ["step"] * 5
            + ["zero", "none", "add group", "save and load", "copy", "lr", "momentum"]
            + ["zero", "move parameters", "move gradients", "move momentum"]
        ),
        "missing": st.sets(st.integers(0, 5)),
        "value": st.sampled_from([0.0, 0.01, 0.5]),
    }
)


class Walk:
    """An optimizer that a drawn sequence of events happens to."""

    def __init__(self, **options: object) -> None:
        generator = torch.Generator().manual_seed(3)
        shapes = [(4, 3), (17,), (), (2, 2, 3), (9,)]
        self.params = [
            torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_()
            for s in shapes
        ]
        self.options = options
        self.optimizer = mlc.SGD(self.params, 0.1, **options)

    def set_grads(self, number: int, missing: set[int]) -> None:
        generator = torch.Generator().manual_seed(number)
        for i, p in enumerate(self.params):
            grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if i in missing:
                continue
            if p.grad is None:
                p.grad = grad
            else:
                p.grad.copy_(grad)

    def move(self, what: str, by: float) -> None:
        """Give tensors other memory, and other values."""
        tensors = {
            "parameters": self.params,
            "gradients": [p.grad for p in self.params if p.grad is not None],
            "momentum": [b for s in self.optimizer.state.values() for b in s.values()],
        }
        for tensor in tensors[what]:
            tensor.data = tensor.data + by

    def event(self, number: int, kind: str, missing: set[int], value: float) -> None:
        optimizer = self.optimizer
        if kind == "step":
            self.set_grads(number, missing)
            optimizer.step()
        elif kind in ("zero", "none"):
            optimizer.zero_grad(set_to_none=kind == "none")
        elif kind == "add group":
            new = torch.full((3, 2), value, dtype=torch.float64, requires_grad=True)
            optimizer.add_param_group({"params": [new], "lr": value})
            self.params.append(new)
        elif kind == "save and load":
            state = copy.deepcopy(optimizer.state_dict())
            groups = [{"params": g["params"]} for g in optimizer.param_groups]
            self.optimizer = mlc.SGD(groups, 0.1, **self.options)
            self.optimizer.load_state_dict(state)
        elif kind == "copy":
            self.optimizer = copy.deepcopy(optimizer)
            groups = self.optimizer.param_groups
            self.params = [p for group in groups for p in group["params"]]
        elif kind.startswith("move"):
            self.move(kind.removeprefix("move "), value)
        else:
            optimizer.param_groups[0][kind] = value


WALKS = {name: (1, options) for name, (options, *_) in BODIES.items()}
WALKS["default on 2 threads"] = (2, {})


@pytest.mark.parametrize("threads, options", WALKS.values(), ids=WALKS)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    events=st.lists(STEP, min_size=3, max_size=14),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
)
@example(
    events=[
        dict(kind=kind, missing=set(), value=0.5)
        for what in ("parameters", "gradients", "momentum")
        for kind in ("step", "zero", "step", f"move {what}", "step")
    ],
    momentum=0.9,
    decay=0.1,
)
def test_any_sequence_of_events_ends_where_the_loop_ends(
    threads: int,
    options: Options,
    events: list[Options],
    momentum: float,
    decay: float,
) -> None:
    torch.set_num_threads(threads)
    more = dict(momentum=momentum, weight_decay=decay)
    walk, reference = Walk(**options, **more), Walk(foreach=False, **more)
    for number, event in enumerate(events):
        for each in (walk, reference):
            each.event(number, **event)
    exact = options.get("fused") is False or options.get("foreach") is not None
    # What is left of a difference has the rounding of the numbers it is between.
    largest = max(param.abs().max().item() for param in reference.params)
    for a, b in zip(walk.params, reference.params, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if exact else 4e-15 * largest)
        state, expected = walk.optimizer.state.get(a), reference.optimizer.state.get(b)
        assert (state or {}).keys() == (expected or {}).keys()
