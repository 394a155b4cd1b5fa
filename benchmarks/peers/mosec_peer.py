"""mosec: its front in Rust, workers for each operation."""

import sys
from typing import Any

from mosec import Runtime, Server, Worker

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port, setting


class Bodies(Worker):
    """Bodies as they are, in and out."""

    operation = ""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work(self.operation, setting("THREADS"))
        self.resp_mime_type = MEDIA[self.operation]

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        return list(self.work(data)) if isinstance(data, list) else self.work([data])[0]


class Encode(Bodies):
    """Images to latents."""

    operation = "encode"


class Decode(Bodies):
    """Latents to images."""

    operation = "decode"


class Reconstruct(Bodies):
    """Images to images."""

    operation = "reconstruct"


if __name__ == "__main__":
    sys.argv += ["--port", str(port()), "--address", "127.0.0.1", "--log-level", "error"]
    server = Server()
    workers = zip(OPERATIONS, (Encode, Decode, Reconstruct), strict=True)
    limits = {"num": setting("PROCESSES"), "max_batch_size": setting("BATCH"), "max_wait_time": setting("WAIT_MS")}
    server.register_runtime({f"/{name}": [Runtime(worker, **limits)] for name, worker in workers})
    server.run()
