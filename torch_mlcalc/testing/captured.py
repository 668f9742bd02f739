"""The tensors that a function reaches without being passed them."""

import dis
import functools
import itertools
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

# What every module has: hooks and flags of torch's own, none of them the user's state.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
# Code run by exec() without a module name says that it is from "builtins".
_FOREIGN = (sys.stdlib_module_names | {"torch"}) - {"builtins"}

# What a function holds in these it holds itself; anything else has attributes.
_HOLDERS = (
    types.FunctionType,
    types.MethodType,
    functools.partial,
    staticmethod,
    classmethod,
    type,
    list,
    tuple,
    set,
    frozenset,
    dict,
)


@dataclass
class Captured:
    """What :func:`find_captured` found, each thing once.

    Args:
        tensors: Leaves and constants by the name under which the function holds them.
        computed: Results of earlier computations that the function itself holds. Those
            behind an object's attribute are left out: they are often remembered values.
        modules: Modules, outer before inner.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    computed: dict[str, Tensor] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)


def find_captured(roots: Mapping[str, object]) -> Captured:
    """Find the tensors and modules that callables and other objects reach.

    Followed are closure variables, globals, defaults, partials, the object of a method,
    containers, modules and the attributes of objects and classes. Not followed are
    Python modules and what torch and the standard library define.

    Args:
        roots: Where to begin, by name.

    Returns:
        The tensors and modules.
    """
    found = Captured()
    seen: set[int] = set()
    pending = [(name, value, True) for name, value in [*roots.items()][::-1]]
    while pending:
        name, value, direct = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.is_leaf:
                found.tensors[name] = value
            elif direct:
                found.computed[name] = value
            continue
        if isinstance(value, nn.Module):
            found.modules.append(value)
        direct = direct and (isinstance(value, _HOLDERS) or _is_distribution(value))
        members = [(_join(name, key), held, direct) for key, held in _members(value)]
        # Filled backwards, a stack visits the members in the order they are written.
        pending.extend(reversed(members))
    return found


def _join(owner: str, key: str) -> str:
    return f"{owner}.{key}" if owner and key and key[0] != "[" else owner + key


def _members(value: object) -> Iterator[tuple[str, object]]:
    """Yield what one object holds, with the name by which it holds it."""
    match value:
        case nn.Module():
            yield from _module_members(value)
        case types.FunctionType():
            yield from _function_members(value)
        case types.MethodType():
            yield from [("self", value.__self__), ("", value.__func__)]
        case functools.partial():
            yield from [("", value.func), ("args", value.args)]
            yield from value.keywords.items()
        case list() | tuple() | set() | frozenset():
            yield from ((f"[{i}]", held) for i, held in enumerate(value))
        case dict():
            yield from ((f"[{key!r}]", held) for key, held in value.items())
        case staticmethod() | classmethod():
            yield "", value.__func__
        case _:
            yield from _object_members(value)


def _module_members(module: nn.Module) -> Iterator[tuple[str, object]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)
    yield from module.named_children()
    for name, value in vars(module).items():
        if name not in _MODULE_ATTRIBUTES:
            yield name, value
    yield "", type(module)


def _function_members(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    # torch.func.grad(f) is torch's function, but its closure holds the user's.
    if _is_foreign(function):
        return
    for name in _global_names(code):
        value = function.__globals__.get(name)
        # A helper from another file is that file's business, and so are its globals.
        elsewhere = getattr(value, "__module__", None) != function.__module__
        if not (elsewhere and isinstance(value, (types.FunctionType, type))):
            yield name, value
    defaults = function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    yield from zip(names[len(names) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


@functools.lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that a function loads, those of its inner functions too."""
    own = (
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL"
    )
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return (*own, *itertools.chain.from_iterable(map(_global_names, inner)))


def _object_members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, types.ModuleType):
        return
    if isinstance(value, type):
        for base in value.__mro__:
            if not _is_foreign(base):
                yield from vars(base).items()
        return
    followed = _is_distribution(value) or not _is_foreign(type(value))
    if hasattr(value, "__dict__") and followed:
        yield from vars(value).items()
        yield "", type(value)


def _is_distribution(value: object) -> bool:
    """Return whether torch defines the class, though its parameters are the user's."""
    return type(value).__module__.startswith("torch.distributions")


def _is_foreign(definition: object) -> bool:
    """Return whether torch or the standard library defines a function or class."""
    package = str(getattr(definition, "__module__", "")).partition(".")[0]
    return package in _FOREIGN
