"""LitServe: two API processes, two workers, batches of what arrives within a millisecond."""

from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port


class API(litserve.LitAPI):
    """One operation."""

    def __init__(self, operation: str) -> None:
        super().__init__(api_path=f"/{operation}", max_batch_size=32, batch_timeout=0.001)
        self.operation = operation

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe's signature
        """Load the model in the worker."""
        self.work = Work(self.operation)

    def decode_request(self, request: Annotated[Any, Body()]) -> Any:
        return request

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, bodies: list[Any]) -> list[bytes]:
        return list(self.work(bodies))

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Any:
        return Response(output, media_type=MEDIA[self.operation])


if __name__ == "__main__":
    server = litserve.LitServer(
        [API(operation) for operation in OPERATIONS], accelerator="cpu", workers_per_device=2, fast_queue=True
    )
    server.run(port=port(), num_api_servers=1, log_level="error", generate_client_file=False, access_log=False)
