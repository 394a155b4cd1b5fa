"""Flow control of a connection's reading, and requests that expect 100 (Continue): uvicorn's, made strict."""

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class ReadingFlow(FlowControl):
    """uvicorn's flow control: the application that takes a body lets reading go on, unless it is `held`."""

    held = False

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        if not self.held:
            super().resume_reading()


class ExpectingCycle(RequestResponseCycle):
    """A request whose client waits for 100 (Continue) before it sends the body (RFC 9110, 10.1.1).

    Where it gets a response instead, it may send the body or not: what follows on the connection is ambiguous, so it is
    closed.
    """

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response."""
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)
