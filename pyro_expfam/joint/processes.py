"""The processes that hold the rows of one table together, and what they tell each other.

Every process holds rows of its own with their latents. All other numbers of a fit are functions of
sums over all processes, and have the same bits in each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

Sums = tuple[Tensor, ...]
"""Sums over rows."""


class ProcessesError(RuntimeError):
    """Another process of a fit has stopped, or does not do the same as this one."""


class Processes:
    """A single process, which holds all rows. :class:`ProcessGroup` is several of them.

    Attributes:
        number: the number of this process.
        count: how many processes there are.
    """

    number = 0
    count = 1

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

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes. Clocks and functions of the user are read there alone."""
        return self.gather(make() if self.number == 0 else None)[0]  # type: ignore[return-value]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Ends in all processes alike: an error in one of them is an error in all."""
        yield


ONE = Processes()
"""A single process."""


class _Report(NamedTuple):
    """What a process tells the others before they compute together.

    Attributes:
        error: an error that has stopped it, in words.
        value: what it has to tell.
    """

    error: str | None
    value: Any = None


class _Shapes(NamedTuple):
    """The tensors that a process adds, without their numbers.

    Attributes:
        tensors: their dtypes and shapes, or None if the process has no rows.
        digest: of the numbers that must be the same in every process.
    """

    tensors: tuple[tuple[torch.dtype, torch.Size], ...] | None
    digest: str | None


class ProcessGroup(Processes):
    """The processes of a group of ``torch.distributed``.

    Sums are one all-reduce per dtype, after a message of a few hundred bytes that says whether all
    processes are about to add the same.

    Args:
        group: the group, or None for all processes.
        like: a tensor on the device of this process.
    """

    def __init__(self, group: Any, like: Tensor) -> None:
        self._group, self._device = group, like.device
        self.number = distributed.get_rank(group)
        self.count = distributed.get_world_size(group)

    def sum(self, own: Sums, same: Tensor | None = None) -> Sums:
        """As for a single process."""
        tensors = tuple((x.dtype, x.shape) for x in own) or None
        reports = self.gather(_Shapes(tensors, None if same is None else _digest(same)))
        with_rows = {x.tensors for x in reports if x.tensors is not None}
        if len(with_rows) > 1 or len({x.digest for x in reports}) > 1:
            raise ProcessesError(
                "all processes must fit the same model with the same arguments, each to rows of "
                "its own, on machines of one kind. They differ in "
                + ("what they add up" if len(with_rows) > 1 else "their coefficients")
            )
        if not with_rows:
            return ()
        (shapes,) = with_rows
        if not own:
            own = tuple(torch.zeros(s, dtype=t, device=self._device) for t, s in shapes)
        return self._added(own)

    def _added(self, own: Sums) -> Sums:
        found = list(own)
        for dtype in dict.fromkeys(x.dtype for x in own):
            places = [k for k, x in enumerate(own) if x.dtype == dtype]
            flat = torch.cat([own[k].detach().flatten() for k in places])
            with _naming_lost_processes():
                distributed.all_reduce(flat, group=self._group)
            parts = flat.split([own[k].numel() for k in places])
            for k, part in zip(places, parts, strict=True):
                found[k] = part.view(own[k].shape)
        return tuple(found)

    def gather(self, own: T) -> list[T]:
        """As for a single process."""
        return self._exchange(_Report(None, own))

    @contextmanager
    def together(self) -> Iterator[None]:
        """As for a single process."""
        try:
            yield
        except ProcessesError:
            raise  # All processes have been told.
        except Exception as error:
            with _naming_lost_processes():
                self._tell(_Report(f"{type(error).__name__}: {error}"))
            raise
        self._exchange(_Report(None))

    def _exchange(self, own: _Report) -> list[Any]:
        """The values of all processes, or an error if one of them has stopped."""
        with _naming_lost_processes():
            reports = self._tell(own)
        for number, report in enumerate(reports):
            if report.error is not None:
                raise ProcessesError(
                    f"process {number} of {self.count} has stopped with {report.error}"
                )
        return [report.value for report in reports]

    def _tell(self, own: _Report) -> list[_Report]:
        reports: list[Any] = [None] * self.count
        distributed.all_gather_object(reports, own, group=self._group)
        return reports


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


def _digest(same: Tensor) -> str:
    numbers = same.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(numbers.tobytes(), digest_size=16).hexdigest()


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
