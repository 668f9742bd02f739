"""A device that is emulated, and what the package does on it, as JSON.

Its tensors have their numbers on the host, in the attribute ``raw``, and are of another
device for all that torch and the package see of them. What a GPU refuses is refused:
to mix devices, and ``numpy()``. What makes the host wait for a GPU is taken down. It is
a program of its own, for torch can have one such device in a process, for good.

    python emulated_device.py FILE
"""

# ruff: noqa: ANN401 (operations of torch take and return anything)

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map


class Module(backend_registration._DummyBackendModule):
    """What checkpoints ask of ``torch.cuda``."""

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def device(self, index: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(
    "emulated", backend_module=Module()
)
CPU, THERE = torch.device("cpu"), torch.device("emulated:0")
aten = torch.ops.aten

#: Operations whose result, or its shape, the host has to read.
READING = {
    aten._local_scalar_dense.default,
    aten._linalg_check_errors.default,
    aten._unique2.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
INDEXING = {
    aten._index_put_impl_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}
#: Where not even a single number may be on the host.
STRICT = {aten.cat.default, aten.stack.default, aten.searchsorted.Tensor}

#: What the host had to wait for, since it was cleared.
waits: list[str] = []


class There(Tensor):
    """A tensor on the device."""

    raw: Tensor

    @staticmethod
    def __new__(cls: type[There], raw: Tensor) -> There:
        """Put it there."""
        tensor = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=THERE,
        )
        tensor.raw = raw
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, done on the host."""
    there: dict[int, There] = {}
    here: list[Tensor] = []

    def unwrapped(value: Any) -> Any:
        if isinstance(value, There):
            there[id(value.raw)] = value
            return value.raw
        if isinstance(value, Tensor):
            here.append(value)
        return CPU if value == THERE and isinstance(value, torch.device) else value

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = there.get(id(value))
        return There(value) if known is None else known

    raw, options = tree_map(unwrapped, (args, kwargs))
    asked = kwargs.get("device")
    goes = bool(there) if asked is None else torch.device(asked).type == THERE.type
    if func in (aten._to_copy.default, aten.copy_.default, aten._copy_from.default):
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        crosses = bool(here) and (goes or bool(there)) or bool(there) and not goes
        if crosses and blocking:
            waits.append(f"{func}")
        if func is aten._copy_from.default:
            raw[1].copy_(raw[0])
            return args[1]
        result = func(*raw, **options)
        into = args[0] if func is aten.copy_.default else None
        return (wrapped(result) if goes else result) if into is None else into
    if there:
        _look(func, args, here)
    result = func(*raw, **options)
    return tree_map(wrapped, result) if goes else result


def _look(func: Any, args: tuple[Any, ...], here: list[Tensor]) -> None:
    indices = args[1] if func in INDEXING else ()
    masked = any(i is not None and i.dtype == torch.bool for i in indices)
    if func in READING or masked or (indices and here):
        waits.append(f"{func}")
    for tensor in here:
        index = any(tensor is i for i in indices)
        if (tensor.ndim or func in STRICT) and not index:
            raise RuntimeError(f"{func} got a tensor on the host: {tensor}")


_library = torch.library.Library("aten", "IMPL")
#: What torch does without asking __torch_dispatch__, to make tensors.
for _name, _overload in (
    ("empty", "memory_format"),
    ("empty_strided", "default"),
    ("_copy_from", "default"),
):
    _full = _name if _overload == "default" else f"{_name}.{_overload}"
    _op = getattr(getattr(aten, _name), _overload)
    _library.impl(
        _full, lambda *args, _op=_op, **kwargs: run(_op, args, kwargs), "PrivateUse1"
    )


# ---- what is done on it --------------------------------------------------------------


def value_and_slopes(
    call: Callable[[torch.device], tuple[Tensor, list[Tensor]]], device: torch.device
) -> list[Tensor]:
    """What a call returns, and its gradients by the leaves that it says."""
    value, leaves = call(device)
    if not leaves:
        value.sum().backward()
        return [value.detach()]
    slopes = torch.autograd.grad(
        value.sum(), leaves, allow_unused=True, materialize_grads=True
    )
    return [value.detach(), *slopes]


def compared(
    call: Callable[[torch.device], tuple[Tensor, list[Tensor]]],
) -> dict[str, Any]:
    """A call there and here: how far apart, whether it stayed there."""
    try:
        found = value_and_slopes(call, THERE)
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    wanted = value_and_slopes(call, CPU)
    return {
        "there": all(isinstance(own, There) for own in found),
        "apart": max(
            float((own.cpu() - other).abs().max())
            for own, other in zip(found, wanted, strict=True)
        ),
    }


def calls() -> Iterator[tuple[str, Callable[..., Any]]]:
    """All that has a name in the tables of the other files."""
    import device_calls
    import device_losses

    def of_integral(call: Callable[[torch.device], Tensor]) -> Callable[..., Any]:
        return lambda device: (call(device), [device_calls.upper(device)])

    def of_loss(call: Callable[..., Tensor]) -> Callable[..., Any]:
        def made(device: torch.device) -> tuple[Tensor, list[Tensor]]:
            make = device_losses.Make(device)
            return call(make), make.leaves

        return made

    tables = (device_calls.FIXED, device_calls.PLANS, device_calls.SEARCHED)
    for table in tables:
        yield from ((name, of_integral(call)) for name, call in table.items())
    for table in (device_losses.LOSSES, device_losses.WAITING):
        yield from ((name, of_loss(call)) for name, call in table.items())


def waiting(call: Callable[..., Any]) -> list[str]:
    """What the host waits for in a call that is not the first: its tables are there."""
    waits.clear()
    value_and_slopes(call, THERE)
    return list(waits)


def replaying() -> Iterator[tuple[str, list[str]]]:
    """What the host waits for where a plan is applied that is there already."""
    import device_calls as made

    import torch_mlcalc as mlc

    rules = (None, mlc.GenzMalik(), mlc.Lattice(256), mlc.Sobol(256))
    for rule in (*rules, mlc.MonteCarlo(256), mlc.Vegas(256, warmup=2)):
        plan = mlc.adapt(made.bump, made.box(CPU), rule).to(THERE)
        call = partial(made.solid, plan)
        call(THERE)
        yield str(rule), waiting(lambda device, call=call: (call(device), []))
    for name in ("args", "closure"):
        plan = made.LINE_PLANS[name]().to(THERE)
        call = partial(made.line, plan)
        call(THERE)
        yield name, waiting(lambda device, call=call: (call(device), []))


def training(options: dict[str, Any]) -> Callable[..., Any]:
    """Steps of SGD."""
    import device_calls

    def call(device: torch.device) -> tuple[Tensor, list[Tensor]]:
        param = device_calls.trained(device, **options)
        return param.cosh(), [param]

    return call


def layer(device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """A layer that has made its plan on the host."""
    import torch_mlcalc as mlc

    made = mlc.Integral(
        lambda x, r: torch.exp(-r * x), mlc.Interval(0, 1), plan_every=9
    )
    made(torch.ones(2))
    rate = torch.ones(2, device=device).requires_grad_()
    return made.to(device)(rate), [rate]


def mixed(device: torch.device) -> str:
    """What the device says to tensors of both kinds."""
    try:
        torch.ones(3, device=device) + torch.ones(3)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def reading() -> list[str]:
    """What waits: a copy there, one back, a number, a mask."""
    waits.clear()
    tensor = torch.ones(3).to(THERE)
    tensor.cpu()
    float(tensor[0])
    tensor[tensor > 0]
    return list(waits)


def main(path: Path) -> None:
    """Do all of it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)
    table = dict(calls())
    import device_calls
    import device_losses

    still = (*device_calls.FIXED, *device_losses.LOSSES)
    results = {
        # In this order: the first calls are those that are compared.
        "compared": {name: compared(call) for name, call in table.items()},
        "waits": {name: waiting(table[name]) for name in still},
        "plans wait": dict(replaying()),
        "mixed": mixed(THERE),
        "reading": reading(),
        "layer": compared(layer),
        "training": [
            compared(training(options))
            for options in ({"foreach": False}, {"foreach": True}, {})
        ],
    }
    path.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
