"""A function together with working copies of everything its value depends on."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils import _pytree as pytree

from torch_mlcalc.testing.captured import Captured, find_captured

Params = Tensor | Mapping[str, Tensor] | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


@dataclass
class Problem:
    """A function whose inputs and captured tensors are float64 working copies.

    Args:
        function: What is checked.
        arguments: Its inputs, flattened, every tensor among them a working copy.
        structure: How to put the arguments together again.
        variables: The tensors to differentiate by, under the names used in messages.
        captured: Tensors that the function reaches by itself; their data are copies
            for as long as the problem is lent.
        cotangents: A weight for every element of every output, by output.
    """

    function: Callable[..., object]
    arguments: list[object]
    structure: pytree.TreeSpec
    variables: dict[str, Tensor]
    captured: list[Tensor]
    cotangents: dict[str, Tensor] = field(default_factory=dict)

    def positional(
        self, arguments: Iterable[object] | None = None
    ) -> tuple[object, ...]:
        """Return flat arguments put together as the function takes them."""
        flat = self.arguments if arguments is None else list(arguments)
        nested: tuple[object, ...] = pytree.tree_unflatten(flat, self.structure)
        return nested

    def outputs(self) -> dict[str, Tensor]:
        """Return the outputs at the working copies as they are now."""
        return named_outputs(self.function(*self.positional()))

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the weighted sum of the outputs, with their graph."""
        total = weighted_sum(self.outputs(), self.cotangents)
        found = gradients(total, self.variables, create_graph=True)
        return {gradient_name(name): g for name, g in found.items()}

    def floating(self) -> list[Tensor]:
        """Return the working copies that have a precision, cotangents included."""
        tensors = [a for a in self.arguments if isinstance(a, Tensor)]
        tensors += [*self.captured, *self.cotangents.values()]
        return [t for t in tensors if is_inexact(t)]

    def cuda_devices(self) -> set[torch.device]:
        """Return the accelerators that have a random state to leave alone."""
        return {t.device for t in self.variables.values() if t.is_cuda}


def is_inexact(tensor: Tensor) -> bool:
    """Return whether the elements are floating-point or complex numbers."""
    return tensor.is_floating_point() or tensor.is_complex()


def at_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor cast to a real dtype, or to its partner if it is complex."""
    if not is_inexact(tensor):
        return tensor
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)


def named_outputs(result: object) -> dict[str, Tensor]:
    """Return the floating-point and complex tensors of a result, by name."""
    leaves, _ = pytree.tree_flatten_with_path(result)
    return {
        "output" + pytree.keystr(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and is_inexact(leaf)
    }


def weighted_sum(outputs: dict[str, Tensor], weights: dict[str, Tensor]) -> Tensor:
    """Return a weighted sum of all outputs: a real number to differentiate."""
    terms = [(weights[name] * output).sum() for name, output in outputs.items()]
    return torch.stack([t.real if t.is_complex() else t for t in terms]).sum()


def gradients(
    total: Tensor, variables: dict[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """Return the gradients of a real number, zero where no graph leads to them."""
    found: Iterable[Tensor | None] = [None] * len(variables)
    if total.requires_grad:
        found = torch.autograd.grad(
            total,
            list(variables.values()),
            create_graph=create_graph,
            allow_unused=True,
        )
    return {
        name: torch.zeros_like(variable) if g is None else g
        for (name, variable), g in zip(variables.items(), found, strict=True)
    }


def values_and_gradients(
    outputs: dict[str, Tensor],
    weights: dict[str, Tensor],
    variables: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Return outputs, and the gradients of their weighted sum, without a graph."""
    found = gradients(weighted_sum(outputs, detached(weights)), variables)
    by_variable = {gradient_name(name): g for name, g in found.items()}
    return detached(outputs | by_variable)


def gradient_name(variable: str) -> str:
    """Return the name under which messages show the gradient by a variable."""
    return f"(gradient by {variable})"


def detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same tensors without their graph."""
    return {name: tensor.detach() for name, tensor in tensors.items()}


def place(tensors: Iterable[Tensor], points: Iterable[Tensor]) -> None:
    """Point tensors at other data, of another dtype if need be."""
    for tensor, point in zip(tensors, points, strict=True):
        tensor.data = point


@contextmanager
def working_copies(
    function: Callable[..., object], inputs: object, params: Params | None
) -> Iterator[Problem]:
    """Lend a problem at float64; afterwards everything captured is as it was.

    Args:
        function: What is checked.
        inputs: A tensor, or a tuple of arguments.
        params: As in :func:`torch_mlcalc.testing.check_gradients`.

    Yields:
        The problem.
    """
    arguments = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    leaves, structure = pytree.tree_flatten_with_path(arguments)
    named = {"inputs" + pytree.keystr(path): leaf for path, leaf in leaves}
    objects = {n: v for n, v in named.items() if not isinstance(v, Tensor)}
    found = find_captured({"": function, **objects})
    chosen = _found_params(found) if params is None else _given_params(params)
    _refuse_views(chosen)
    copies = [_working_copy(value) for value in named.values()]
    variables = {
        name: copied
        for name, copied in zip(named, copies, strict=True)
        if isinstance(copied, Tensor) and copied.requires_grad
    }
    captured = {id(t): t for t in (*found.tensors.values(), *chosen.values())}
    with _borrowed(list(captured.values()), found.modules):
        yield Problem(
            function=function,
            arguments=copies,
            structure=structure,
            variables=variables | chosen,
            captured=list(captured.values()),
        )


def _found_params(found: Captured) -> dict[str, Tensor]:
    if found.computed:
        raise ValueError(
            f"function holds {', '.join(found.computed)}, computed before the check "
            "from tensors that require grad, so nothing can vary it. Compute it inside "
            "the function, make it an input, or pass params to say what to vary."
        )
    return {
        f"params[{name!r}]": tensor
        for name, tensor in found.tensors.items()
        if tensor.requires_grad
    }


def _given_params(params: Params) -> dict[str, Tensor]:
    given: Iterable[tuple[object, Tensor]]
    if isinstance(params, Tensor):
        given = [(0, params)]
    elif isinstance(params, Mapping):
        given = params.items()
    else:
        given = (
            item if isinstance(item, tuple) else (position, item)
            for position, item in enumerate(params)
        )
    named = {f"params[{name!r}]": tensor for name, tensor in given}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} must be a tensor, but is {type(tensor).__name__}. Pass "
                "tensors, pairs of name and tensor, or a dict of tensors."
            )
        if not (tensor.is_leaf and tensor.requires_grad):
            raise ValueError(
                f"{name} must be a leaf that requires grad, but has requires_grad="
                f"{tensor.requires_grad} and is_leaf={tensor.is_leaf}. Call "
                "requires_grad_() on it, or make a computed tensor an input."
            )
    return named


def _refuse_views(chosen: dict[str, Tensor]) -> None:
    for name, tensor in chosen.items():
        # Torch 2.13 fails to attach a tangent to a leaf whose base has none.
        if tensor._is_view():
            raise ValueError(
                f"{name} must own its memory, but is a view of another tensor. Call "
                "clone() on it before requires_grad_()."
            )


def _working_copy(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    return _copy(value.detach()).requires_grad_(value.requires_grad)


def _copy(data: Tensor) -> Tensor:
    return at_precision(data, torch.float64).clone()


def _copied_data(originals: list[Tensor]) -> list[Tensor]:
    """Return float64 copies; what shares memory shares it among the copies as well.

    A closure that holds ``w.detach()`` must follow when ``w`` is moved: that is how its
    lost gradient shows.
    """
    memories: dict[tuple[int, torch.dtype], Tensor] = {}
    copies = []
    for data in originals:
        if not _is_plain(data):
            copies.append(_copy(data))
            continue
        memory = data.untyped_storage()
        key = (memory.data_ptr(), data.dtype)
        if key not in memories:
            whole = (memory.nbytes() // data.itemsize,)
            memories[key] = _copy(data.as_strided(whole, (1,), 0))
        copies.append(
            memories[key].as_strided(data.shape, data.stride(), data.storage_offset())
        )
    return copies


def _is_plain(data: Tensor) -> bool:
    """Return whether each element has a place in memory, and that to itself."""
    plain = type(data) is Tensor and data.layout == torch.strided
    return plain and 0 not in data.stride() and not (data.is_conj() or data.is_neg())


@contextmanager
def _borrowed(tensors: list[Tensor], modules: list[nn.Module]) -> Iterator[None]:
    """Point tensors at float64 copies of their data, and back again.

    Nothing is written to the data themselves: what comes back is the same storage, bit
    for bit. Version counters are put back for a backward pass that is pending outside,
    and so are the attributes of modules that a forward pass may set.
    """
    originals = [tensor.data for tensor in tensors]
    # Inference tensors have no version counter.
    versioned = tuple(tensor for tensor in tensors if not tensor.is_inference())
    attributes = [(module, dict(vars(module))) for module in modules]
    containers = [
        (held, copy.copy(held))
        for _, attribute in attributes
        for held in attribute.values()
        if isinstance(held, (dict, list, set))
    ]
    try:
        with _unsafe_preserve_version_counter(versioned):
            place(tensors, _copied_data(originals))
            yield
    finally:
        place(tensors, originals)
        for module, attribute in attributes:
            vars(module).clear()
            vars(module).update(attribute)
        for held, content in containers:
            held.clear()
            held.extend(content) if isinstance(held, list) else held.update(content)
