"""Ray Serve: two replicas, dynamic batching."""

import signal

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port


@serve.deployment(num_replicas=2, max_ongoing_requests=128, ray_actor_options={"num_cpus": 0.5})
class Peer:
    """Every operation, batched."""

    def __init__(self) -> None:
        self.works = {operation: Work(operation) for operation in OPERATIONS}
        self.verbs = {"encode": self.encode, "decode": self.decode, "reconstruct": self.reconstruct}

    async def __call__(self, request: Request) -> Response:
        operation = request.url.path.strip("/")
        return Response(await self.verbs[operation](await request.body()), media_type=MEDIA[operation])

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def encode(self, bodies: list[bytes]) -> list[bytes]:
        """Images to latents."""
        return list(self.works["encode"](bodies))

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
    async def decode(self, bodies: list[bytes]) -> list[bytes]:
        """Latents to images."""
        return list(self.works["decode"](bodies))

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.001)
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
