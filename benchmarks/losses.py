"""Losses against their twins in torch.nn, and the linear cross-entropy.

Forward and backward, in time and memory. Value and gradient of both are compared with
those of torch in float64, at ordinary arguments, where torch is right as well; where it
is not is in ``tests/losses/test_classification_faults.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from figures import Row, Timed, as_time, figure
from timing import Timer, extra_memories, medians
from torch import Tensor, nn
from torch.nn import functional as F

import torch_mlcalc as mlc
from torch_mlcalc.losses.classification import divergence, margin, two_classes

TITLE = "Losses against torch.nn"

#: Number of classes where there are many.
CLASSES = 10
#: What the twins may be slower, and need more of memory: the page tables of a tensor of
#: 1e7 elements come and go with 1 % of it.
SLOWER, MORE = 1.10, 1.02

Draw = Callable[[int], tuple[Tensor, Tensor]]


def _residual(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size), torch.randn(size)


def _logits(size: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(size), (torch.rand(size) < 0.5).float()


def _soft_logits(size: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(size), torch.rand(size)


def _signs(size: int) -> tuple[Tensor, Tensor]:
    input, target = _logits(size)
    return input, 2 * target - 1


def _probability(size: int) -> tuple[Tensor, Tensor]:
    input, target = _logits(size)
    return input.sigmoid(), target


def _log_probability(size: int) -> tuple[Tensor, Tensor]:
    input, target = torch.randn(2, size // CLASSES, CLASSES)
    return input.log_softmax(1), target.softmax(1)


def _log_both(size: int) -> tuple[Tensor, Tensor]:
    input, target = _log_probability(size)
    return input, target.log()


def _classes(size: int) -> tuple[Tensor, Tensor]:
    rows = size // CLASSES
    return torch.randn(rows, CLASSES), torch.randint(0, CLASSES, (rows,))


def _shares(size: int) -> tuple[Tensor, Tensor]:
    input, target = torch.randn(2, size // CLASSES, CLASSES)
    return input, target.softmax(1)


#: Name of the module, settings, how to draw its arguments.
TWINS: dict[str, tuple[str, dict[str, object], Draw]] = {
    "MSELoss": ("MSELoss", {}, _residual),
    "L1Loss": ("L1Loss", {}, _residual),
    "HuberLoss": ("HuberLoss", {}, _residual),
    "SmoothL1Loss": ("SmoothL1Loss", {}, _residual),
    "BCELoss": ("BCELoss", {}, _probability),
    "BCEWithLogitsLoss": ("BCEWithLogitsLoss", {}, _logits),
    "BCEWithLogitsLoss of probabilities": ("BCEWithLogitsLoss", {}, _soft_logits),
    "SoftMarginLoss": ("SoftMarginLoss", {}, _signs),
    "KLDivLoss": ("KLDivLoss", {"reduction": "batchmean"}, _log_probability),
    "KLDivLoss, log_target": (
        "KLDivLoss",
        {"reduction": "batchmean", "log_target": True},
        _log_both,
    ),
    "CrossEntropyLoss": ("CrossEntropyLoss", {}, _classes),
    "CrossEntropyLoss of probabilities": ("CrossEntropyLoss", {}, _shares),
    "NLLLoss": ("NLLLoss", {}, _classes),
    "MultiMarginLoss": ("MultiMarginLoss", {}, _classes),
}


def cpu_timer(call: Callable[[], object]) -> Timer:
    """The processor time of a call, which does not count what others compute."""

    def clock(calls: int) -> float:
        start = time.thread_time()
        for _ in range(calls):
            call()
        return (time.thread_time() - start) / calls

    return clock


def step(library: str, twin: str, size: int) -> Callable[[], Tensor]:
    """Forward and backward of a loss of so many elements; gives value and gradient."""
    name, settings, draw = TWINS[twin]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    input, target = draw(size)
    input.requires_grad_()
    if library == "floor":
        count = len(input) if settings else input.numel()
        module: nn.Module = _Bare(FLOORS[twin], count)
    else:
        module = getattr({"torch": nn, "ours": mlc}[library], name)(**settings)

    def call() -> Tensor:
        input.grad = None
        value = module(input, target)
        value.backward()
        return value

    call.input = input  # type: ignore[attr-defined]
    call.target = target  # type: ignore[attr-defined]
    return call


def _error(call: Callable[[], Tensor], twin: str) -> float:
    """Of value and gradient, in units of float32's eps times the largest number."""
    name, settings, _ = TWINS[twin]
    input = call.input.detach().double().requires_grad_()  # type: ignore[attr-defined]
    target = call.target  # type: ignore[attr-defined]
    target = target.double() if target.is_floating_point() else target
    exact = getattr(nn, name)(**settings)(input, target)
    exact.backward()
    value = call()
    pairs = ((value, exact), (call.input.grad, input.grad))  # type: ignore[attr-defined]
    return max(
        float((found - wanted).detach().abs().max() / wanted.detach().abs().max())
        for found, wanted in pairs
    )


def _twin_rows(twin: str, sizes: tuple[int, ...], rounds: int) -> Iterator[Row]:
    for size in sizes:
        calls = {library: step(library, twin, size) for library in ("ours", "torch")}
        errors = {library: _error(call, twin) for library, call in calls.items()}
        clocks = {library: cpu_timer(call) for library, call in calls.items()}
        # Calls of a tenth of a second spread less than those of a ten-thousandth.
        seconds = medians(clocks, 4 * rounds if size <= 1000 else (rounds + 1) // 2)
        timed = Timed(seconds, errors, tolerance=1e-5)
        yield timed.ratio(f"{twin}, {size:.0e} elements", "ours", "torch", most=SLOWER)


def _memory_rows(size: int) -> Iterator[Row]:
    pairs = [(library, twin) for twin in TWINS for library in ("ours", "torch")]
    variants = [{"library": a, "twin": b, "size": size} for a, b in pairs]
    found = extra_memories("losses", "step", variants, warm_up={"size": 100})
    memory = dict(zip(pairs, found, strict=True))
    for twin in TWINS:
        ours, torchs = (memory[library, twin] for library in ("ours", "torch"))
        yield figure(
            f"{twin}, {size:.0e} elements: memory, ours / torch",
            f"at most {MORE}",
            f"{ours / torchs:.2f}",
            ours <= MORE * torchs,
            f"ours {ours:.0f} MiB, torch {torchs:.0f} MiB",
        )


#: The least that is right at small sizes, of what is known: what the package comes to
#: after its checks of the arguments, which are another 5 to 10 %.
#:
#: The kernel of BCE clamps logarithms and slopes, and that of the hinge forgets NaN, so
#: that each is used after a look at the extremes, 9 to 20 % of torch's time: a sum, a
#: norm, a product or two looks take as long or longer, and so does numpy, after which
#: the storage of the input cannot be resized. The sum of the losses that the kernel
#: returns says nothing, because a loss that is clamped adds 100 to about 700. Their
#: second derivatives cancel or are an error, which a hook puts right that is asked in
#: each backward pass whether to replace them, 6 to 12 %.
#:
#: The kernels of logits and of the soft margin cancel or overflow. Value and derivative
#: together, in a Function, are 8 operations with logits and 5 with the margin: of the
#: time of torch's logits a product of two vectors takes 0.45 forward and backward, a
#: Function instead of it 0.15 more, what it saves, scales and reads 0.15, and each
#: operation 0.03 to 0.09. Composed of operations that autograd derives logits take 1.7,
#: because each has a node; and that product, with its value replaced and a hook for the
#: second derivative, takes as long as the Function. For BCE a Function of 9 operations
#: is as fast at 1000 elements and slower below.
#:
#: The divergences have two nodes of the graph less than torch's.
FLOORS: dict[str, Callable[[Tensor, Tensor, int], Tensor | None]] = {
    "BCELoss": two_classes.entropy_in_short,
    "BCEWithLogitsLoss": two_classes.logistic_in_short,
    "BCEWithLogitsLoss of probabilities": two_classes.logistic_in_short,
    "SoftMarginLoss": two_classes.margin_in_short,
    "KLDivLoss": divergence.probability_in_short,
    "KLDivLoss, log_target": divergence.log_in_short,
    "MultiMarginLoss": lambda x, t, _: margin.mean_in_short(x, t, 1, 1.0),
}


class _Bare(nn.Module):
    def __init__(
        self, loss: Callable[[Tensor, Tensor, int], Tensor | None], count: int
    ) -> None:
        super().__init__()
        self.loss, self.count = loss, count

    def forward(self, input: Tensor, target: Tensor) -> Tensor | None:
        return self.loss(input, target, self.count)


def _floor_row(twin: str, rounds: int) -> Row:
    """What can be reached at 1000 elements, if torch's kernel is not always right."""
    calls = {"floor": step("floor", twin, 1000), "torch": step("torch", twin, 1000)}
    errors = {method: _error(call, twin) for method, call in calls.items()}
    seconds = medians({k: cpu_timer(call) for k, call in calls.items()}, rounds)
    timed = Timed(seconds, errors, tolerance=1e-5)
    return figure(
        f"{twin}, 1e+03 elements: the least that is right / torch",
        "nothing: what can be reached",
        f"{seconds['floor'] / seconds['torch']:.2f}",
        None,
        "; ".join(map(timed.described, seconds)),
    )


def products_step(rows: int, features: int, classes: int) -> Callable[[], Tensor]:
    """The three products that a linear layer's loss and gradients cannot do without.

    In blocks of classes, so that they need no more memory than the loss may.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    input, weight = torch.randn(rows, features), torch.randn(classes, features)
    block = 2000

    def call() -> Tensor:
        by_input, by_weight = torch.zeros_like(input), torch.empty_like(weight)
        logits = torch.empty(rows, block)
        parts = zip(weight.split(block), by_weight.split(block), strict=True)
        for part, gradient in parts:
            torch.mm(input, part.T, out=logits)
            by_input.addmm_(logits, part)
            torch.mm(logits.T, input, out=gradient)
        return by_input

    return call


LAYER = {"rows": 2048, "features": 256, "classes": 32_000}


def linear_step(
    method: str, rows: int, features: int, classes: int
) -> Callable[[], Tensor]:
    """Forward and backward of the cross-entropy of a linear layer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    input = torch.randn(rows, features, requires_grad=True)
    weight = (torch.randn(classes, features) / 16).requires_grad_()
    target = torch.randint(0, classes, (rows,))
    chunked = nn.LinearCrossEntropyOptions()
    methods: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: mlc.linear_cross_entropy(input, weight, target),
        "unfused": lambda: F.cross_entropy(F.linear(input, weight), target),
        "torch chunked": lambda: F.linear_cross_entropy(
            input, weight, target, options=chunked
        ),
    }

    def call() -> Tensor:
        input.grad = weight.grad = None
        methods[method]().backward()
        return torch.cat([input.grad.flatten(), weight.grad.flatten()])

    return call


def _linear_rows(quick: bool) -> Iterator[Row]:
    names = ("ours", "unfused", "torch chunked")
    calls = {name: linear_step(name, **LAYER) for name in names}
    exact = calls["unfused"]()
    errors = {
        name: float((call() - exact).abs().max() / exact.abs().max())
        for name, call in calls.items()
    }
    clocks = {name: cpu_timer(call) for name, call in calls.items()}
    clocks["products"] = cpu_timer(products_step(**LAYER))
    seconds = medians(clocks, 2 if quick else 3)
    least = seconds.pop("products")
    timed = Timed(seconds, errors, tolerance=1e-5)
    shape = " x ".join(map(str, LAYER.values()))
    name = f"Linear cross-entropy {shape}"
    yield timed.ratio(name, "unfused", "ours", least=0.6)
    yield figure(
        f"{name}: three products alone / unfused",
        "nothing: what can be reached",
        f"{least / seconds['unfused']:.2f}",
        None,
        f"products {as_time(least)}; the memory asked for takes a fourth, for logits "
        "that were not kept",
    )
    variants = [{"method": method, **LAYER} for method in names]
    found = extra_memories("losses", "linear_step", variants, warm_up={"classes": 10})
    memory = dict(zip(names, found, strict=True))
    yield figure(
        f"{name}: memory with the gradients",
        "under 130 MB",
        f"{memory['ours'] * 1.048576:.0f} MB",
        memory["ours"] * 1.048576 < 130,
        ", ".join(f"{method} {mib:.0f} MiB" for method, mib in memory.items()),
    )


def rows(quick: bool = False) -> Iterator[Row]:
    """Every figure asked for: its name, what was asked, what was reached, and how."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = (1000, 1_000_000) if quick else (1000, 10_000_000)
    try:
        for twin in TWINS:
            yield from _twin_rows(twin, sizes, 5 if quick else 9)
        for twin in FLOORS:
            yield _floor_row(twin, 9)
        yield from _memory_rows(sizes[-1])
        yield from _linear_rows(quick)
    finally:
        torch.set_num_threads(threads)
