"""State of the service that the server changes and each request reads: drain, requests in flight, open connections."""

from collections.abc import Sized
from typing import Protocol


class InFlightRequest(Protocol):
    """A request that has not been answered completely."""

    def cancel(self) -> None:
        """Answer 503 at once, because the service shuts down."""

    def check_progress(self, now: float) -> None:
        """Check deadline and connection of the request, at `now` on the clock of `time.monotonic`."""


class ServiceState:
    """Mutable state that the server, admission control, the request lifecycle and the probes share.

    `connections` are the open connections; it stays empty where something else limits their number.
    """

    def __init__(self, connections: Sized = ()) -> None:
        self.connections = connections
        self.in_flight: set[InFlightRequest] = set()
        self.draining = False
        self.connections_to_shed = 0

    def drain(self) -> None:
        """Refuse new work from now on."""
        self.draining = True

    def shed_connections(self, count: int) -> None:
        """Let the next `count` responses close their connections, so that clients reconnect to another worker."""
        self.connections_to_shed = count

    def take_shed(self) -> bool:
        """Whether a response should close its connection as one of those to shed."""
        shed = self.connections_to_shed > 0
        self.connections_to_shed -= shed
        return shed

    def cancel_all(self) -> int:
        """Cancel the requests in flight; returns their number."""
        requests = [*self.in_flight]
        for request in requests:
            request.cancel()
        return len(requests)
