"""Ownership of the parameters in Pyro's store.

Pyro keeps parameters by name, and a module that runs takes the tensors in the store under its
names. Two guides or two models of one program have the same names, so that training one would
change the other. Blocks and guides therefore *claim* their names before they run. Their own tensors
replace tensors that another block or guide has left in the store. Tensors that the user has put
there, as by ``ParamStore.load``, are taken over, as everywhere in Pyro.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pyro.distributions import constraints
from pyro.nn import PyroModule
from pyro.nn import module as pyro_modules
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import _PYRO_PARAM_STORE
from torch import Tensor, nn

LOCK = threading.RLock()
"""Held by code that may run in several threads, while it uses the store or Pyro's handler stack."""

_HOLDERS: dict[int, _Holder] = {}
"""The holders of all parameters of modules that have claimed names, by the tensor's identity."""


class _Holder(NamedTuple):
    """The module that holds a parameter; both references are weak, so that neither is kept alive.

    Attributes:
        tensor: the unconstrained parameter.
        module: the module.
    """

    tensor: weakref.ref[Tensor]
    module: weakref.ref[nn.Module]


class _Place(NamedTuple):
    """The place where a parameter is kept.

    Attributes:
        name: its name in Pyro's store.
        module: the module that holds it.
        key: its name in the module.
        constraint: the constraint of its values.
    """

    name: str
    module: nn.Module
    key: str
    constraint: Any

    @property
    def tensor(self) -> nn.Parameter:
        """The unconstrained parameter."""
        tensor: Any = self.module._parameters[self.key]
        return tensor


def claim(root: nn.Module) -> None:
    """Replaces stored tensors under a root module's names by the module's own parameters.

    Raises:
        ValueError: if the user has put a tensor of another shape into the store.
    """
    if pyro_modules._MODULE_LOCAL_PARAMS:
        # Modules then read nothing from the store.
        return
    with LOCK:
        own = set()
        for place in _places(root):
            own.add(place.name)
            _claim_place(place)
        if isinstance(root, PyroModule) and root._pyro_name:
            _release_others(root._pyro_name, own)


@contextmanager
def without_stored(root: PyroModule) -> Iterator[None]:
    """Hides stored tensors under a root's name while the root makes its parameters.

    The parameters then have the shapes of the root, whatever the store holds.
    """
    store = _PYRO_PARAM_STORE
    hidden = {
        name: (tensor, store._constraints[name])
        for name, tensor in store._params.items()
        if name.startswith(f"{root._pyro_name}.") and _holder(tensor) is None
    }
    for name in hidden:
        del store._params[name], store._constraints[name]
    known = set(map(id, store._param_to_name))
    try:
        yield
    finally:
        # Pyro makes a parameter of a tensor, and keeps the tensor as well.
        for tensor, name in list(store._param_to_name.items()):
            if id(tensor) not in known and store._params.get(name) is not tensor:
                del store._param_to_name[tensor]
        for name, (tensor, constraint) in hidden.items():
            _put(name, tensor, constraint)


def claim_before_forward(root: nn.Module, args: Any) -> None:
    """:func:`claim` as a hook before the call of a module."""
    del args
    claim(root)


def claim_after_forward(root: nn.Module, args: Any, output: Any) -> None:
    """:func:`claim` as a hook after the call, for parameters made in a module's first run."""
    del args, output
    claim(root)


def claim_when_called(root: nn.Module) -> None:
    """Makes a module of the user claim its names whenever it is called."""
    if claim_before_forward not in root._forward_pre_hooks.values():
        root.register_forward_pre_hook(claim_before_forward)
        root.register_forward_hook(claim_after_forward)


def _claim_place(place: _Place) -> None:
    own, held = place.tensor, _PYRO_PARAM_STORE._params.get(place.name)
    if held is not None and held is not own:
        if _holder(held) is not None:
            _put(place.name, own, place.constraint)
            _forget_dead()
        else:
            own = _take_over(place, held)
    if _holder(own) is None:
        _HOLDERS[id(own)] = _Holder(weakref.ref(own), weakref.ref(place.module))
        weakref.finalize(own, _HOLDERS.pop, id(own), None).atexit = False


def _holder(tensor: Tensor) -> _Holder | None:
    """The holder of a tensor, or None if no module of this package ever held it."""
    holder = _HOLDERS.get(id(tensor))
    return holder if holder is not None and holder.tensor() is tensor else None


def _take_over(place: _Place, held: Tensor) -> nn.Parameter:
    """Takes over a tensor that the user has put into the store."""
    if held.shape != place.tensor.shape:
        raise ValueError(
            f"parameter {place.name!r} must have shape {tuple(place.tensor.shape)}, got "
            f"{tuple(held.shape)} from Pyro's parameter store, where this model and guide did not "
            "put it: load the parameters of this model, or call pyro.clear_param_store() first"
        )
    if not isinstance(held, nn.Parameter):
        _PYRO_PARAM_STORE._param_to_name.pop(held, None)
        held = nn.Parameter(held.detach())
        _put(place.name, held, place.constraint)
    place.module._parameters[place.key] = held
    return held


def _put(name: str, tensor: Tensor, constraint: Any) -> None:
    # The name of the replaced tensor stays known: an optimiser may ask for it.
    _PYRO_PARAM_STORE._params[name] = tensor
    _PYRO_PARAM_STORE._constraints[name] = constraint
    _PYRO_PARAM_STORE._param_to_name[tensor] = name


def _release_others(prefix: str, own: set[str]) -> None:
    """Removes tensors of other modules under a root's name, before the root makes its own."""
    store = _PYRO_PARAM_STORE
    for name in [x for x in store._params if x not in own and x.startswith(f"{prefix}.")]:
        if _holder(store._params[name]) is not None:
            del store._params[name], store._constraints[name]
            _forget_dead()


def _forget_dead() -> None:
    """Forgets the names of tensors that have left the store, if their modules are gone."""
    store = _PYRO_PARAM_STORE
    for tensor, name in list(store._param_to_name.items()):
        holder = _holder(tensor)
        gone = holder is not None and holder.module() is None
        if gone and store._params.get(name) is not tensor:
            del store._param_to_name[tensor]


def _places(root: nn.Module) -> list[_Place]:
    """The places of the parameters of a root and its parts."""
    found: list[_Place] = []
    if isinstance(root, PyroModule):
        _add_pyro_module(root, root._pyro_name, found)
    return found


def _add_pyro_module(module: PyroModule, prefix: str, found: list[_Place]) -> None:
    for key, tensor in module._parameters.items():
        if tensor is None:
            continue
        constrained = key.removesuffix("_unconstrained")
        if constrained in module._pyro_params:
            constraint = module._pyro_params[constrained][0]
            found.append(_Place(_join(prefix, constrained), module, key, constraint))
        else:
            found.append(_Place(_join(prefix, key), module, key, constraints.real))
    for key, child in module._modules.items():
        name = _join(prefix, key)
        if isinstance(child, PyroModule):
            _add_pyro_module(child, child._pyro_name or name, found)
        elif child is not None:
            _add_plain_module(child, name, "", found)


def _add_plain_module(module: nn.Module, name: str, path: str, found: list[_Place]) -> None:
    """Adds a module other than a PyroModule, which Pyro registers under one name as a whole."""
    for key, tensor in module._parameters.items():
        if tensor is not None:
            full = param_with_module_name(name, _join(path, key))
            found.append(_Place(full, module, key, constraints.real))
    for key, child in module._modules.items():
        if child is not None:
            _add_plain_module(child, name, _join(path, key), found)
        if isinstance(child, PyroModule):
            # The child is a root of its own as well.
            _add_pyro_module(child, child._pyro_name, found)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
