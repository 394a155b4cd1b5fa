"""mosec: its front in Rust, two workers for each operation, batches of what has arrived."""

import sys

from mosec import Runtime, Server, Worker

from benchmarks.peers.work import MEDIA, OPERATIONS, Work, port


class Bodies(Worker):
    """Bodies as they are, in and out."""

    operation = ""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work(self.operation)
        self.resp_mime_type = MEDIA[self.operation]

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return list(self.work(data))


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
    server.register_runtime(
        {f"/{name}": [Runtime(worker, num=2, max_batch_size=32, max_wait_time=1)] for name, worker in workers}
    )
    server.run()
