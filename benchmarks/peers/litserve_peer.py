"""LitServe: two API processes, and workers of their own for each operation."""

import os
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port, setting


class API(litserve.LitAPI):
    """One operation."""

    def __init__(self, operation: str) -> None:
        batches = setting("BATCH") > 1
        limits = {"max_batch_size": setting("BATCH"), "batch_timeout": setting("WAIT_MS") / 1000} if batches else {}
        super().__init__(api_path=f"/{operation}", **limits)
        self.operation = operation

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe's signature
        """Load the model in the worker."""
        self.work = Work(self.operation, setting("THREADS"))

    def decode_request(self, request: Annotated[Any, Body()]) -> Any:
        return request

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, bodies: Any) -> Any:
        return list(self.work(bodies)) if isinstance(bodies, list) else self.work([bodies])[0]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Any:
        return Response(output, media_type=MEDIA[self.operation])


if __name__ == "__main__":
    operations = os.environ.get("BENCH_OPERATIONS", ",".join(OPERATIONS)).split(",")
    server = litserve.LitServer(
        [API(operation) for operation in operations],
        accelerator="cpu",
        workers_per_device=setting("PROCESSES"),
        fast_queue=True,
    )
    server.run(port=port(), num_api_servers=2, log_level="error", generate_client_file=False, access_log=False)
