"""The part that all losses share: checks, promotion, weights, reductions."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss, prepare, prepare_all, reduce

INF = float("inf")


@pytest.fixture
def loss() -> Tensor:
    return torch.tensor([[1.0, 4.0, 2.0], [8.0, 0.5, 0.0]], requires_grad=True)


@pytest.fixture
def weight() -> Tensor:
    return torch.tensor([[2.0, 0.0, 1.0], [0.5, 4.0, 0.5]])


def test_none_keeps_the_elements(loss: Tensor, weight: Tensor) -> None:
    assert reduce(loss, None, "none") is loss
    torch.testing.assert_close(
        reduce(loss, weight, "none"), torch.tensor([[2.0, 0, 2], [4, 2, 0]])
    )


def test_sum_adds_weighted_elements(loss: Tensor, weight: Tensor) -> None:
    assert reduce(loss, None, "sum").item() == 15.5
    assert reduce(loss, weight, "sum").item() == 10.0


def test_mean_divides_by_the_sum_of_weights(loss: Tensor, weight: Tensor) -> None:
    assert reduce(loss, None, "mean").item() == pytest.approx(15.5 / 6)
    assert reduce(loss, weight, "mean").item() == pytest.approx(10 / 8)


def test_equal_weights_are_no_weights(loss: Tensor) -> None:
    weight = torch.full_like(loss, 3.0)
    assert torch.equal(reduce(loss, weight, "mean"), reduce(loss, None, "mean"))


def test_integer_weights_are_counts(loss: Tensor) -> None:
    counts = torch.tensor([[3, 0, 1], [1, 2, 0]])
    repeated = loss.flatten().repeat_interleave(counts.flatten())
    for reduction in ("mean", "sum"):
        torch.testing.assert_close(
            reduce(loss, counts, reduction), reduce(repeated, None, reduction)
        )


def test_boolean_weights_are_a_mask(loss: Tensor) -> None:
    mask = torch.tensor([[True, False, True], [True, False, False]])
    torch.testing.assert_close(reduce(loss, mask, "mean"), loss[mask].mean())


def test_weights_may_be_negative(loss: Tensor) -> None:
    weight = torch.tensor([[-1.0, 0, 0], [0, 2, 0]])
    assert reduce(loss, weight, "sum").item() == 0.0
    assert reduce(loss, weight, "mean").item() == 0.0


@pytest.mark.parametrize(
    ("weights", "value"), [((0.0, 0.0), "nan"), ((1.0, -1.0), "-inf")]
)
def test_weights_that_sum_to_zero_have_no_finite_mean(
    weights: tuple[float, float], value: str
) -> None:
    mean = reduce(torch.tensor([1.0, 2.0]), torch.tensor(weights), "mean")
    assert str(mean.item()) == value


def test_zero_weight_does_not_hide_an_infinite_loss() -> None:
    loss = torch.tensor([INF, 1.0])
    assert reduce(loss, torch.tensor([0.0, 1.0]), "sum").isnan()


def test_empty_loss_has_sum_zero_and_mean_nan() -> None:
    for weight in (None, torch.empty(0)):
        assert reduce(torch.empty(0), weight, "sum").item() == 0.0
        assert reduce(torch.empty(0), weight, "mean").isnan()
        assert reduce(torch.empty(0), weight, "none").shape == (0,)


def test_derivatives_reach_the_loss_and_the_weights() -> None:
    loss = torch.rand(4, dtype=torch.float64, requires_grad=True)
    weight = (torch.rand(4, dtype=torch.float64) + 0.5).requires_grad_()
    for reduction in ("none", "mean", "sum"):
        inputs = (loss, weight, reduction)
        assert torch.autograd.gradcheck(reduce, inputs)
        assert torch.autograd.gradgradcheck(reduce, inputs)


def test_gradient_of_the_mean_stays_one_number(loss: Tensor) -> None:
    strides = []
    elements = loss.repeat(1000, 1)
    elements.register_hook(lambda gradient: strides.append(gradient.stride()))
    reduce(elements, None, "mean").backward()
    assert strides == [(0, 0)]


def test_weight_of_another_dtype_promotes() -> None:
    loss = torch.ones(2)
    assert reduce(loss, torch.ones(2, dtype=torch.float64), "mean").dtype == (
        torch.float64
    )
    assert reduce(loss, torch.ones(2, dtype=torch.float16), "mean").dtype == (
        torch.float32
    )


PROMOTIONS = {
    # input, target, weight: dtype to compute in, dtype of the result
    ("float32", "float32", None): ("float32", "float32"),
    ("float32", "float64", None): ("float64", "float64"),
    ("float64", "float32", None): ("float64", "float64"),
    ("float32", "int64", None): ("float32", "float32"),
    ("bool", "float64", None): ("float64", "float64"),
    ("float16", "float16", None): ("float32", "float16"),
    ("bfloat16", "int64", None): ("float32", "bfloat16"),
    ("float16", "bfloat16", None): ("float32", "float32"),
    ("float16", "float32", None): ("float32", "float32"),
    ("float32", "float32", "float64"): ("float32", "float64"),
    ("float32", "float32", "bool"): ("float32", "float32"),
    ("float16", "float16", "int64"): ("float32", "float16"),
    ("float16", "float16", "float32"): ("float32", "float32"),
}


@pytest.mark.parametrize("given", PROMOTIONS, ids=str)
def test_dtypes_promote_as_in_arithmetic(given: tuple[str, str, str | None]) -> None:
    input, target, weight = (
        None if name is None else torch.ones(3, dtype=getattr(torch, name))
        for name in given
    )
    assert isinstance(input, Tensor) and isinstance(target, Tensor)
    x, y, dtype = prepare(input, target, weight, "mean")
    computed, result = PROMOTIONS[given]
    assert x.dtype == y.dtype == getattr(torch, computed)
    assert dtype == getattr(torch, result)


def test_nothing_is_copied_where_nothing_is_promoted() -> None:
    input, target = torch.ones(3), torch.ones(3)
    x, y, _ = prepare(input, target, None, "mean")
    assert x is input
    assert y is target


def test_autocast_keeps_the_loss_of_half_inputs_in_float32() -> None:
    half = torch.ones(3, dtype=torch.bfloat16)
    assert prepare(half, half, None, "mean")[2] == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prepare(half, half, None, "mean")[2] == torch.float32


def test_device_without_autocast_is_accepted() -> None:
    meta = torch.ones(3, dtype=torch.bfloat16, device="meta")
    assert prepare(meta, meta, None, "mean")[2] == torch.bfloat16


def test_complex_is_computed_where_it_is_allowed() -> None:
    numbers = torch.ones(3, dtype=torch.complex64)
    x, _, dtype = prepare(numbers, numbers.real, None, "mean", allow_complex=True)
    assert x.dtype == torch.complex64
    assert dtype == torch.float32


ones = torch.ones
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "input is a number": (
        lambda: prepare(1.0, ones(3), None, "mean"),
        TypeError,
        r"input must be a torch\.Tensor, got float; convert with torch\.as_tensor",
    ),
    "target is a list": (
        lambda: prepare(ones(3), [1, 1, 1], None, "mean"),
        TypeError,
        r"target must be a torch\.Tensor, got list",
    ),
    "weight is a number": (
        lambda: prepare(ones(3), ones(3), 2.0, "mean"),
        TypeError,
        r"weight must be a torch\.Tensor, got float",
    ),
    "two integers": (
        lambda: prepare(ones(3).long(), ones(3).bool(), None, "mean"),
        TypeError,
        r"input or target must be floating-point, got torch\.int64 and torch\.bool; "
        r"convert with \.to\(torch\.float32\)",
    ),
    "complex": (
        lambda: prepare(ones(3), ones(3).cfloat(), None, "mean"),
        TypeError,
        r"must be real, got torch\.float32 and torch\.complex64; torch\.view_as_real",
    ),
    "complex weight": (
        lambda: prepare(ones(3), ones(3), ones(3).cfloat(), "mean"),
        TypeError,
        r"weight must be real, got torch\.complex64",
    ),
    "unknown reduction": (
        lambda: prepare(ones(3), ones(3), None, "avg"),
        ValueError,
        r"reduction must be 'none', 'mean' or 'sum', got 'avg'",
    ),
    "size_average": (
        lambda: prepare(ones(3), ones(3), None, True),
        ValueError,
        r"reduction must be 'none', 'mean' or 'sum', got True",
    ),
    "unknown reduction of a module": (
        lambda: Loss(reduction="avg"),
        ValueError,
        r"reduction must be 'none', 'mean' or 'sum', got 'avg'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["target", "weight"])
@pytest.mark.parametrize(
    ("wanted", "got"), [((8, 1), (8,)), ((8,), (8, 1)), ((), (1,)), ((4, 3), (1, 3))]
)
def test_unequal_shapes_are_refused(
    name: str, wanted: tuple[int, ...], got: tuple[int, ...]
) -> None:
    tensors = {"input": ones(wanted), "target": ones(wanted), "weight": ones(wanted)}
    tensors[name] = ones(got)
    message = (
        f"{name} must have the shape of input, {wanted}, got {got}; losses do not "
        "broadcast: say what is meant with unsqueeze, squeeze or expand_as"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(*tensors.values(), "mean")


def test_several_tensors_are_promoted_together() -> None:
    half, single = torch.ones(2, dtype=torch.float16), torch.ones(2)
    tensors, dtype = prepare_all({"input": half, "scale": half}, None, "mean")
    assert [t.dtype for t in tensors] == [torch.float32] * 2
    assert dtype == torch.float16
    tensors, dtype = prepare_all({"input": half, "scale": single}, single, "mean")
    assert [t.dtype for t in tensors] == [torch.float32] * 2
    assert dtype == torch.float32


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (1.0, TypeError, "scale must be a torch.Tensor, got float"),
        (torch.ones(3), ValueError, "scale must have the shape of input, (2,), got"),
        (torch.ones(2) * 1j, TypeError, "input, scale must be real, got input"),
    ],
)
def test_several_tensors_are_checked(
    scale: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        prepare_all({"input": torch.ones(2), "scale": scale}, None, "mean")


def test_one_of_several_tensors_is_floating_point() -> None:
    counts = torch.ones(2, dtype=torch.long)
    with pytest.raises(TypeError, match="must be floating-point, one of them at least"):
        prepare_all({"rate": counts, "target": counts}, None, "mean")
