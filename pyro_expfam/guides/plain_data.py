"""Settings of a model as plain data, which JSON can hold, and back.

Numbers, texts and sequences stay what they are. A tensor is replaced by the name that it is kept
under elsewhere. A family, a link, a convolution or a solver is replaced by the name of its class
and its arguments or attributes. Nothing else has a description, so that reading a description
never runs code of a file.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import ModuleType
from typing import Any

from torch import Tensor

from pyro_expfam import deq, families, links
from pyro_expfam.deq import linear
from pyro_expfam.families.kinds import Kind

Plain = Any
"""What JSON can hold."""


class NotPlainError(TypeError):
    """A value has no description as plain data, such as a function or a class of a user."""


def _classes() -> dict[str, type]:
    modules: dict[str, ModuleType] = {
        "families": families,
        "links": links,
        "linear": linear,
        "deq": deq,
    }
    return {
        f"{prefix}.{name}": found
        for prefix, module in modules.items()
        for name in module.__all__
        if isinstance(found := getattr(module, name), type)
    }


_CLASS_OF = {**_classes(), "families.Kind": Kind}
_NAME_OF = {found: name for name, found in _CLASS_OF.items()}


def to_plain(value: Any, tensors: dict[str, Tensor], place: str) -> Plain:
    """The description of a value.

    Args:
        value: the value.
        tensors: where tensors are put, by name.
        place: what the value is, such as ``"model.family"``. Tensors in it get names from it.

    Raises:
        NotPlainError: if it holds something that has no description.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Tensor):
        tensors[place] = value.detach()
        return {"tensor": place}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Kind):
        fields_of_kind = value._asdict().items()
        found = {name: to_plain(x, tensors, f"{place}.{name}") for name, x in fields_of_kind}
        return {"class": _NAME_OF[Kind], "arguments": found}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [to_plain(x, tensors, f"{place}.{k}") for k, x in enumerate(value)]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, dict):
        items = [
            [to_plain(key, tensors, f"{place}.key"), to_plain(x, tensors, f"{place}.{key}")]
            for key, x in value.items()
        ]
        return {"items": items}
    if type(value) not in _NAME_OF:
        raise NotPlainError(f"{place} is {value!r}, a {type(value).__name__} of its own")
    names = [field.name for field in fields(value) if field.init] if is_dataclass(value) else None
    found = vars(value) if names is None else {name: getattr(value, name) for name in names}
    return {
        "class": _NAME_OF[type(value)],
        "arguments" if names is not None else "attributes": {
            name: to_plain(x, tensors, f"{place}.{name}") for name, x in found.items()
        },
    }


def from_plain(plain: Plain, tensors: dict[str, Tensor]) -> Any:
    """The value that has a description.

    Args:
        plain: the description.
        tensors: the tensors that it refers to, by name.

    Raises:
        KeyError: if there is no such class or tensor.
    """
    if not isinstance(plain, dict):
        return plain
    ((kind, content), *others) = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "slice":
        return slice(*content)
    if kind == "items":
        return {from_plain(key, tensors): from_plain(x, tensors) for key, x in content}
    if kind == "kind":
        return Kind(*(from_plain(x, tensors) for x in content))
    if kind in ("tuple", "list"):
        values = [from_plain(x, tensors) for x in content]
        return tuple(values) if kind == "tuple" else values
    ((given, named),) = others
    made: Any = _CLASS_OF[content]
    found = {name: from_plain(x, tensors) for name, x in named.items()}
    if given == "arguments":
        return made(**found)
    value = object.__new__(made)
    vars(value).update(found)
    return value
