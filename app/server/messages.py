"""Messages between the supervisor and its workers, as frozen records, and their form on the wire.

Each message states something that is still true when a later one of its type has replaced it: a channel that is full
keeps only the newest message of each type.
"""

import json
from dataclasses import astuple, dataclass

# From a worker to the supervisor


@dataclass(frozen=True, slots=True)
class Ready:
    """Report that the model is warm and the worker accepts connections."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """Report why the worker cannot start, in one line for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Report the number of open connections, and of passed connections that were opened or failed so far."""

    open_connections: int
    handled: int


@dataclass(frozen=True, slots=True)
class ModelReloaded:
    """Report that the worker has reloaded the model on request of a client, so that the others follow."""


@dataclass(frozen=True, slots=True)
class Draining:
    """Report that the worker refuses new work."""


@dataclass(frozen=True, slots=True)
class Drained:
    """Report that no request is left, or that the time to drain is over."""


# From the supervisor to a worker


@dataclass(frozen=True, slots=True)
class Drain:
    """Refuse new work and finish the accepted work."""


@dataclass(frozen=True, slots=True)
class ForceExit:
    """Exit at once, and answer the requests in flight with 503."""


@dataclass(frozen=True, slots=True)
class ReloadModel:
    """Load the model again from its folder."""


@dataclass(frozen=True, slots=True)
class ShedConnections:
    """Close this number of connections, each after its next response."""

    count: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Exit once drained: the supervisor passes no more connections."""


WorkerMessage = Ready | StartFailed | Heartbeat | ModelReloaded | Draining | Drained
SupervisorMessage = Drain | ForceExit | ReloadModel | ShedConnections | Retire
Message = WorkerMessage | SupervisorMessage

MAX_MESSAGE_BYTES = 65_536

CONNECTION_PASSED = b"\0"
"""The byte that accompanies a connection on the socket that passes connections."""

_TYPES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Ready,
        StartFailed,
        Heartbeat,
        ModelReloaded,
        Draining,
        Drained,
        Drain,
        ForceExit,
        ReloadModel,
        ShedConnections,
        Retire,
    )
}


def serialize(message: Message) -> bytes:
    """Return the wire form of a message: a JSON list of the name of its type and its fields."""
    return json.dumps([type(message).__name__, *astuple(message)]).encode()


def parse(data: bytes) -> Message:
    """Return the message in its wire form. Raises `KeyError`, `TypeError` or `ValueError` for any other data."""
    name, *fields = json.loads(data)
    return _TYPES[name](*fields)
