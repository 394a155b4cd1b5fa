"""Ray Serve: its HAProxy in front, user code in the replica's own event loop, dynamic batching."""

import signal
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port, setting


def batched(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Many calls as one."""
    limits = {"max_batch_size": setting("BATCH"), "batch_wait_timeout_s": setting("WAIT_MS") / 1000}
    decorated: Callable[..., Any] = serve.batch(verb, **limits)
    return decorated


@serve.deployment(
    num_replicas=setting("PROCESSES"),
    max_ongoing_requests=128,
    ray_actor_options={"num_cpus": 0.5},
    logging_config={"enable_access_log": False, "log_level": "ERROR"},
)
class Peer:
    """Every operation, batched."""

    def __init__(self) -> None:
        self.works = {operation: Work(operation, setting("THREADS")) for operation in OPERATIONS}
        self.verbs = {"encode": self.encode, "decode": self.decode, "reconstruct": self.reconstruct}

    async def __call__(self, request: Request) -> Response:
        operation = request.url.path.strip("/")
        return Response(await self.verbs[operation](await request.body()), media_type=MEDIA[operation])

    @batched
    async def encode(self, bodies: list[bytes]) -> list[bytes]:
        """Images to latents."""
        return list(self.works["encode"](bodies))

    @batched
    async def decode(self, bodies: list[bytes]) -> list[bytes]:
        """Latents to images."""
        return list(self.works["decode"](bodies))

    @batched
    async def reconstruct(self, bodies: list[bytes]) -> list[bytes]:
        """Images to images."""
        return list(self.works["reconstruct"](bodies))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port(), "access_log": False})
    serve.run(Peer.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
