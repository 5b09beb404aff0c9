"""The processes that hold the rows of one table together, and what they tell each other.

Every process holds rows of its own with their latents. All other numbers of a fit are functions of
sums over all processes, and have the same bits in each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

Sums = tuple[Tensor, ...]
"""Sums over rows."""


class ProcessesError(RuntimeError):
    """Another process of a fit has stopped, or does not do the same as this one.

    Attributes:
        are_in_step: whether all processes know of this, and can go on with something else.
    """

    def __init__(self, message: str, are_in_step: bool = False) -> None:
        super().__init__(message)
        self.are_in_step = are_in_step


class Processes:
    """A single process, which holds all rows. :class:`ProcessGroup` is several of them.

    Attributes:
        number: the number of this process.
        count: how many processes there are.
        argument: what names them as an argument ``processes`` of a function.
    """

    number = 0
    count = 1
    argument: Any = None

    def sum(self, own: Sums, same: Tensor | None = None) -> Sums:
        """The sums over all processes of tensors that each of them has.

        Args:
            own: tensors of this process; none if it has no rows.
            same: a tensor that must have the same bits in every process.

        Raises:
            ProcessesError: if another process has stopped, has tensors of other shapes, or has
                other bits where they must be the same.
        """
        del same
        return own

    def gather(self, own: T) -> list[T]:
        """What each process has, in the order of the processes."""
        return [own]

    def max(self, own: Tensor) -> Tensor:
        """The largest numbers over all processes of tensors that each of them has."""
        return own

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes. Clocks and functions of the user are read there alone."""
        return self.gather(make() if self.number == 0 else None)[0]  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends in all processes alike: an error in one of them is an error in all."""
        yield


ONE = Processes()
"""A single process."""


ADDING, GATHERING, ENDING = 1, 2, 3
"""What processes do together."""

TOLD = "_pyro_expfam_told"
"""What marks an error of which the other processes know."""

NOTHING = -(2**62)
"""What a process announces that has nothing to compare."""


class ProcessGroup(Processes):
    """The processes of a group of ``torch.distributed``.

    Whatever they do together begins with an all-reduce of eight whole numbers, in which each
    announces what it is about to do, or an error. No process then waits for one that has stopped,
    or takes numbers for something else. Sums are one more all-reduce per dtype.

    Args:
        group: the group, or None for all processes.
        like: a tensor on the device of this process.
    """

    def __init__(self, group: Any, like: Tensor) -> None:
        self._group, self._device = group, like.device
        self.argument = "all" if group is None else group
        self.number = distributed.get_rank(group)
        self.count = distributed.get_world_size(group)

    def sum(self, own: Sums, same: Tensor | None = None) -> Sums:
        """As for a single process."""
        shapes = tuple((x.dtype, x.shape) for x in own) or None
        with _naming_lost_processes():
            some_have_none = self._announce(
                ADDING,
                NOTHING if same is None else digest(_bytes(same)),
                NOTHING if shapes is None else digest(repr(shapes).encode()),
            )
            if some_have_none:
                shapes = next((x for x in self._all(shapes) if x is not None), ())
                own = own or tuple(torch.zeros(s, dtype=t, device=self._device) for t, s in shapes)
            return self._added(own)

    def _added(self, own: Sums) -> Sums:
        found = list(own)
        for dtype in dict.fromkeys(x.dtype for x in own):
            places = [k for k, x in enumerate(own) if x.dtype == dtype]
            flat = torch.cat([own[k].detach().flatten() for k in places])
            distributed.all_reduce(flat, group=self._group)
            parts = flat.split([own[k].numel() for k in places])
            for k, part in zip(places, parts, strict=True):
                found[k] = part.view(own[k].shape)
        return tuple(found)

    def gather(self, own: T) -> list[T]:
        """As for a single process."""
        with _naming_lost_processes():
            self._announce(GATHERING)
            return self._all(own)

    def max(self, own: Tensor) -> Tensor:
        """As for a single process."""
        own = own.contiguous()
        shape = digest(repr((own.dtype, own.shape)).encode())
        found = [torch.empty_like(own) for _ in range(self.count)]
        with _naming_lost_processes():
            self._announce(GATHERING, shapes=shape)
            distributed.all_gather(found, own, group=self._group)
        # Unlike a reduction by the backend, this keeps NaN.
        return torch.stack(found).amax(0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """As for a single process."""
        try:
            yield
        except ProcessesError:
            raise  # All processes know.
        except Exception as error:
            # What is done together may be a part of something else: its error is told once.
            if not hasattr(error, TOLD):
                setattr(error, TOLD, True)
                # A connection that is lost by now must not hide the error.
                with suppress(RuntimeError):
                    self._announce(ENDING, error=f"{type(error).__name__}: {error}")
            raise
        with _naming_lost_processes():
            self._announce(ENDING)

    def _announce(
        self, what: int, same: int = NOTHING, shapes: int = NOTHING, error: str | None = None
    ) -> bool:
        """Tells the others what this process is about to do; whether some have nothing to add.

        Raises:
            ProcessesError: if a process announces an error, or something else than the others.
        """
        bounds = [x if x == NOTHING else sign * x for x in (what, same, shapes) for sign in (1, -1)]
        own = [int(error is not None), int(shapes == NOTHING), *bounds]
        largest = torch.tensor(own, device=self._device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        has_failed, some_have_none, *found = largest.tolist()
        if has_failed:
            for number, text in enumerate(self._all(error)):
                if text is not None:
                    words = f"process {number} of {self.count} has stopped with {text}"
                    raise ProcessesError(words, are_in_step=True)
        kinds = ("what they do", "their coefficients", "what they add up")
        for kind, high, low in zip(kinds, found[::2], found[1::2], strict=True):
            if high not in (NOTHING, -low):
                raise ProcessesError(
                    "all processes must fit the same model with the same arguments, each to rows "
                    f"of its own, on machines of one kind: they have come to differ in {kind}"
                )
        return bool(some_have_none)

    def _all(self, own: T) -> list[T]:
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, own, group=self._group)
        return found


@contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """Says that a process is lost where the backend speaks of connections."""
    try:
        yield
    except ProcessesError:
        raise
    except RuntimeError as error:
        raise ProcessesError(
            "another process has ended, or has not answered within the timeout of "
            f"torch.distributed: {error}"
        ) from error


def _bytes(same: Tensor) -> bytes:
    numbers = same.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return numbers.numpy().tobytes()


def digest(data: bytes) -> int:
    """A number that differs where data differ, the same in all processes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")


def processes_of(argument: Any, like: Tensor) -> Processes:
    """The processes that an argument ``processes`` names.

    Args:
        argument: None for this process alone, ``"all"`` for all processes of ``torch.distributed``,
            or one of its groups.
        like: a tensor on the device of this process.

    Raises:
        ValueError: if ``torch.distributed`` has not been initialised, or this process does not
            belong to the group.
        TypeError: if it is something else.
    """
    if argument is None:
        return ONE
    is_ready = distributed.is_available() and distributed.is_initialized()
    if argument == "all" or (is_ready and isinstance(argument, distributed.ProcessGroup)):
        if not is_ready:
            raise ValueError(
                'processes="all" wants the processes of torch.distributed, which is not '
                "initialised: call torch.distributed.init_process_group() in a script that "
                "torchrun starts"
            )
        return ProcessGroup(None if argument == "all" else argument, like)
    if argument is getattr(distributed.GroupMember, "NON_GROUP_MEMBER", object()):
        raise ValueError("processes must be a group that this process belongs to, got another one")
    raise TypeError(
        f'processes must be None, "all" or a group of torch.distributed, got {argument!r}'
    )
