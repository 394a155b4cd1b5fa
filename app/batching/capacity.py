"""Admission to the queue of the device: requests that it has no room for are refused, with the time to come back."""

import math

from app.batching.executor import BatchExecutor
from app.batching.queue import FairQueue
from app.errors import QueueFull
from app.observability.metrics import Metrics

RESERVED = 1 / 8
"""Of the queue, what is at most kept free for a large request that was refused."""


class QueueCapacity:
    """Decides whether the queue takes more images, of which at most `max_queue_items` wait at once."""

    def __init__(self, queue: FairQueue, runner: BatchExecutor, metrics: Metrics, max_queue_items: int) -> None:
        self._queue = queue
        self._runner = runner
        self._metrics = metrics
        self._most = max_queue_items
        self._wanted = 0

    def require_room(self, images: int = 1) -> None:
        """Raise `QueueFull` where the queue has no room for so many images.

        A request for fewer images than one that was refused does not go before it: up to `RESERVED` of the queue are
        kept free first. Else small requests would fill each gap, and no large one would ever find room.
        """
        depth = self._queue.depth
        if depth + max(images, self._wanted) > self._most:
            self._wanted = max(self._wanted, min(images, int(self._most * RESERVED)))
            self._metrics.rejected.inc()
            wait = math.ceil(depth / self._runner.rate) if self._runner.rate else 1
            detail = f"the queue holds {depth} of {self._most} images, no room for {max(images, self._wanted)} more"
            raise QueueFull(detail, retry_after=max(1, wait))
        self._wanted = 0
