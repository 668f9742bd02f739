"""torch's own test inputs for its losses, given to those of this package with a twin.

They come from ``torch.testing._internal``: the inputs of modules, the samples of
functions with the errors they must raise, and the older table of criteria. Value and
gradient must be those of torch, or of the reference that torch tests itself with. What
this package refuses on purpose is listed in ``why_not``.
"""

import random
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torch_mlcalc as mlc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_methods_invocations as invocations
    from torch.testing._internal import common_modules as modules
    from torch.testing._internal import common_nn

MODULES = (
    *("L1Loss", "MSELoss", "HuberLoss", "SmoothL1Loss", "KLDivLoss", "BCELoss"),
    *("BCEWithLogitsLoss", "SoftMarginLoss", "NLLLoss", "CrossEntropyLoss"),
    *("MultiMarginLoss", "LinearCrossEntropyLoss"),
)
FUNCTIONS = (
    *("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss", "kl_div", "nll_loss"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"),
    *("soft_margin_loss", "multi_margin_loss", "linear_cross_entropy"),
)
#: Those whose weights are of elements, need their shape, and divide the mean.
WEIGHTED = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

# Of torch: that the mean of kl_div is not its divergence, that it falls back.
pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning"),
    pytest.mark.filterwarnings("ignore:linear_cross_entropy:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fixed_random() -> None:
    random.seed(0)


def why_not(
    name: str, input: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """What torch takes and this package refuses: losses do not broadcast, and more."""
    target = args[-1]
    if name == "linear_cross_entropy":
        if target.is_floating_point():
            return "probabilities for each class are as large as the logits"
        if args[0].ndim > 2:
            return "one layer, not one for each place"
        return ""
    if name == "multi_margin_loss" and input.ndim < 2 and target.ndim == input.ndim:
        return "scores without a batch have one target, of shape ()"
    if name in ("cross_entropy", "nll_loss", "multi_margin_loss"):
        return ""
    return "" if target.shape == input.shape else "shapes that differ"


def ours(
    name: str, input: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, float]:
    """Our loss, and what it has to be multiplied with to be that of torch."""
    kwargs = {key: value for key, value in kwargs.items() if key != "options"}
    if name == "linear_cross_entropy" and kwargs.get("ignore_index", 0) is None:
        del kwargs["ignore_index"]
    weight = kwargs.get("weight")
    scale = 1.0
    if name in WEIGHTED and weight is not None:
        kwargs["weight"] = weight = weight.expand_as(input)
        if kwargs.get("reduction", "mean") == "mean":
            scale = (weight.sum() / weight.numel()).item()
    return getattr(mlc, name)(input, *args, **kwargs), scale


def assert_same(
    name: str, input: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    found = []
    for library in (F, mlc):
        x = input.detach().clone().requires_grad_()
        if library is F:
            value, scale = getattr(F, name)(x, *args, **kwargs), 1.0
        else:
            value, scale = ours(name, x, args, kwargs)
        (slope,) = torch.autograd.grad(value.sum(), x)
        found.append((value.detach() * scale, slope * scale))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-7, atol=1e-9)


def samples(name: str) -> Iterator[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
    for info in invocations.op_db:
        if info.name != f"nn.functional.{name}" or info.variant_test_name:
            continue
        for sample in info.sample_inputs("cpu", torch.float64):
            yield sample.input, tuple(sample.args), dict(sample.kwargs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_samples_of_functions_have_the_numbers_of_torch(name: str) -> None:
    refused, checked = set(), 0
    for input, args, kwargs in samples(name):
        reason = why_not(name, input, args, kwargs)
        if reason:
            refused.add(reason)
            with pytest.raises((TypeError, ValueError)):
                ours(name, input, args, kwargs)
        else:
            assert_same(name, input, args, kwargs)
            checked += 1
    assert checked >= 6
    assert len(refused) <= (2 if name == "linear_cross_entropy" else 1)


def value_and_slope(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    x, *others = inputs
    x = x.detach().clone().requires_grad_()
    value = module(x, *others)
    (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), slope


def our_module(name: str, given: dict[str, Any]) -> tuple[nn.Module, Tensor | None]:
    """Our module, and the weights that it takes when called."""
    given = {key: value for key, value in given.items() if key != "options"}
    weight = None
    if name in ("BCELoss", "BCEWithLogitsLoss"):
        weight = given.pop("weight", None)
    if given.get("ignore_index", 0) is None:
        del given["ignore_index"]
    given.pop("out_features", None)
    return getattr(mlc, name)(**given), weight


@pytest.mark.parametrize("name", MODULES)
def test_inputs_of_modules_have_the_numbers_of_torch(name: str) -> None:
    (info,) = (info for info in modules.module_db if info.name == f"nn.{name}")
    checked = 0
    seen = set()
    for given in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=False
    ):
        constructor, forward = given.constructor_input, given.forward_input
        inputs = tuple(forward.args)
        if name == "LinearCrossEntropyLoss":
            wide = constructor.kwargs["out_features"] or inputs[1].is_floating_point()
            # The same for each way to chunk, which is an option of torch's alone.
            kind = (
                str(constructor.args),
                str(sorted(constructor.kwargs)),
                inputs[0].ndim,
            )
            kind += tuple(
                str(value)
                for key, value in constructor.kwargs.items()
                if key not in ("options", "weight")
            )
            if wide or kind in seen:
                continue
            seen.add(kind)
        theirs = getattr(nn, name)(*constructor.args, **constructor.kwargs)
        names = dict(
            zip(("in_features", "num_classes"), constructor.args, strict=False)
        )
        mine, weight = our_module(name, {**names, **constructor.kwargs})
        mine.load_state_dict(theirs.state_dict(), strict=weight is None)
        called = inputs if weight is None else (*inputs, weight.expand_as(inputs[0]))
        scale = 1.0
        if weight is not None and mine.reduction == "mean":
            scale = weight.expand_as(inputs[0]).mean().item()
        found = value_and_slope(mine, *called)
        wanted = value_and_slope(theirs, *inputs)
        if (
            name in ("NLLLoss", "CrossEntropyLoss")
            and not inputs[1].is_floating_point()
        ):
            # torch's mean is NaN where all are ignored.
            ignored = bool((inputs[1] == theirs.ignore_index).all())
            wanted = tuple(x.nan_to_num() if ignored else x for x in wanted)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(
                one * scale, other, equal_nan=True, rtol=1e-7, atol=1e-9
            )
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_torch_refuses_is_refused(name: str) -> None:
    for info in invocations.op_db:
        if info.name != f"nn.functional.{name}" or info.variant_test_name:
            continue
        if not info.error_inputs_func:
            return
        for error in info.error_inputs("cpu"):
            sample = error.sample_input
            with pytest.raises((TypeError, ValueError)):
                getattr(mlc, name)(sample.input, *sample.args, **sample.kwargs)


def criteria() -> dict[str, dict[str, Any]]:
    """The older tests, by name, of which the functions are ours."""
    found = {}
    for test in common_nn.get_new_module_tests():
        name = test.get("fullname") or ""
        known = name.split("_")[0].rstrip("2dN").lower() in {
            module.lower() for module in MODULES
        }
        # A number for the reduction; a target of shape (1,) for scores without a batch.
        refused = "legacy" in name or name == "MultiMarginLoss_1d_no_reduce"
        if known and not refused and test.get("reference_fn"):
            found[name] = test
    return found


CRITERIA = criteria()


@pytest.mark.parametrize("name", CRITERIA)
def test_older_inputs_have_the_numbers_of_their_reference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(function: str) -> Callable[..., Tensor]:
        def call(input: Tensor, target: Tensor, **kwargs: object) -> Tensor:
            value, scale = ours(function, input, (target,), kwargs)
            return value * scale

        return call

    # The tests call torch.nn.functional by this name.
    library = types.SimpleNamespace(**{one: bind(one) for one in FUNCTIONS})
    test = CRITERIA[name]
    module = test["constructor"]()
    if "input_fn" in test:
        input = test["input_fn"]()
    else:
        input = test["input"] if "input" in test else torch.randn(test["input_size"])
    dtype = test.get("default_dtype", torch.float64)
    input = input.to(dtype) if not input.is_complex() else input
    wanted = test["reference_fn"](input, None, module)
    monkeypatch.setattr(common_nn, "F", library)
    found = module(input)
    torch.testing.assert_close(found, wanted.to(found.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODULES[:-1])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_inputs_without_a_batch_are_accepted(name: str, reduction: str) -> None:
    for test in common_nn.criterion_tests:
        if test["fullname"] != f"{name}_no_batch_dim_{reduction}":
            continue
        input, target = (
            test[f"{kind}_fn"]()
            if f"{kind}_fn" in test
            else torch.randn(test[f"{kind}_size"])
            for kind in ("input", "target")
        )
        found = value_and_slope(getattr(mlc, name)(reduction=reduction), input, target)
        wanted = value_and_slope(getattr(nn, name)(reduction=reduction), input, target)
        torch.testing.assert_close(found, wanted)
