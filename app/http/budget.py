"""Accounting of the memory that requests in flight use: bytes of their bodies, and of what is computed from them."""

from app.context import RequestContext
from app.errors import ContentTooLarge, Unavailable
from app.settings import Limits

MAX_BODIES_IN_FLIGHT = 16
"""Bodies of the largest size that may be in memory at once; otherwise every connection could hold one."""

MAX_REQUESTS_IN_MEMORY = 2
"""Requests of the largest memory per request that may hold it at once."""

SMALL_REQUEST_SHARE = 1 / 64
"""Share of the memory per request up to which a request counts as small, and share of the largest body up to which a
body does. A reserve is kept for small ones: room for one body of the largest size."""

SCARCE_SHARE = 1 / 2
"""Share of the bytes of all bodies above which room for more is scarce."""


class MemoryBudget:
    """Counts the bytes of bodies and the other bytes of all requests in flight, and refuses requests over a limit."""

    def __init__(self, limits: Limits) -> None:
        self.body_bytes = 0
        self.reserved_bytes = 0
        self._limits = limits

    def count_body(self, size: int, received: int) -> None:
        """Count `size` more bytes of a body of which `received` bytes have arrived.

        Raises `ContentTooLarge` for a body over its limit, `Unavailable` if all bodies together are over theirs.
        """
        self.body_bytes += size
        per_body = self._limits.max_body_bytes
        if received > per_body:
            raise body_too_large(per_body)
        limit = MAX_BODIES_IN_FLIGHT * per_body
        if received <= per_body * SMALL_REQUEST_SHARE:
            limit += per_body
        if self.body_bytes > limit:
            raise Unavailable(f"the bodies of all requests in flight exceed {limit} bytes")

    def count_decompressed(self, context: RequestContext, size: int) -> None:
        """Count `size` bytes of a decompressed body beside those that arrived, in place of what was counted before.

        Raises what `count_body` raises. The bytes are counted until `release`.
        """
        increase, context.decompressed = size - context.decompressed, size
        self.count_body(increase, size)

    def is_scarce(self) -> bool:
        """Whether the bodies of all requests in flight take most of their room."""
        return self.body_bytes > SCARCE_SHARE * MAX_BODIES_IN_FLIGHT * self._limits.max_body_bytes

    def reserve(self, context: RequestContext, size: int) -> None:
        """Reserve `size` bytes for a request in place of its previous reservation.

        Raises `Unavailable` if all requests together exceed their limit. The bytes stay reserved until `release`.
        """
        increase, context.memory = size - context.memory, size
        self.reserved_bytes += increase
        if increase > 0:
            per_request = self._limits.max_memory_bytes
            limit = MAX_REQUESTS_IN_MEMORY * per_request
            if size <= per_request * SMALL_REQUEST_SHARE:
                limit += per_request // 4
            if self.reserved_bytes > limit:
                raise Unavailable(f"the requests in flight use more than {limit} bytes of memory together")

    def release(self, context: RequestContext, received: int) -> None:
        """Release what a finished request has used: its reservation, and `received` bytes of its body."""
        self.body_bytes -= received + context.decompressed
        self.reserved_bytes -= context.memory
        context.memory = context.decompressed = 0


def body_too_large(limit: int) -> ContentTooLarge:
    """The error of a body over its limit."""
    return ContentTooLarge(f"the body is larger than the {limit} bytes allowed")
