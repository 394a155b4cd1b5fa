"""Shared flags of the workers that compute: a worker may use all CPU cores while the others are idle."""

from collections.abc import MutableSequence
from multiprocessing import get_context
from types import TracebackType


def shared_slots(workers: int) -> MutableSequence[int]:
    """Create a slot for each worker, in memory that processes inherit; a slot is 1 while its worker computes."""
    slots: MutableSequence[int] = get_context("spawn").RawArray("b", workers)
    return slots


class CoreUsage:
    """The slots as one worker sees them; a process without other workers has only its own.

    As a context manager it marks the worker as busy.
    """

    def __init__(self, slots: MutableSequence[int] | None = None, own: int = 0) -> None:
        self._slots = [0] if slots is None else slots
        self._own = own
        self._slots[own] = 0  # a worker that was killed during a batch has left it at 1

    @property
    def others_idle(self) -> bool:
        """Whether no other worker computes."""
        return not any(busy for slot, busy in enumerate(self._slots) if slot != self._own)

    def __enter__(self) -> None:
        self._slots[self._own] = 1

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots[self._own] = 0
