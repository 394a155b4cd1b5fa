"""Memory over hundreds of thousands of requests: `make soak`, some minutes.

`make soak ARGS=--requests=20000` is shorter. Resident memory is printed, and the memory in use is compared: freed
memory stays with the allocator, which needs more of it the more large requests happen to arrive at once.
"""

import asyncio
import base64
import gzip
import io
import json
import random
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from PIL import Image

from app.codecs.compression import zstd  # type: ignore[attr-defined]  # its module depends on the version of Python
from tests.support.image_files import stored
from tests.support.live_server import SERVE, Service, serving
from tests.support.load import JSON, NPY, PNG, Connection, format_counts, get, post

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

CLIENTS = 16
MULTIPART = "multipart/form-data; boundary=cut"
QUIET = {"threads": 0, "log_level": "warning", "warm_sizes": "28x28"}
MIB = 2**20
MAX_GROWTH = 4 * MIB
"""Bytes in use that may be added after the first tenth of the requests."""

MAX_OBJECTS = 20_000
"""Blocks of Python objects that may be added after the first tenth of the requests."""

MEASURING = SERVE.replace(
    "serve(settings)",
    """
import ctypes, gc, logging, signal
class Mallinfo(ctypes.Structure):  # mallinfo(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Mallinfo
def measure(number, frame):
    gc.collect()
    found = library.mallinfo2()
    logging.getLogger("memory").warning("%d %d", found.uordblks + found.hblkhd, sys.getallocatedblocks())
signal.signal(signal.SIGUSR1, measure)
serve(settings)
""",
)
"""The service, which logs the bytes in use by C and the blocks in use by Python at SIGUSR1."""


def noise(form: str, size: int = 28, mode: str = "L") -> bytes:
    """An image file of noise."""
    shape = (size, size, len(mode)) if len(mode) > 1 else (size, size)
    return stored(Image.fromarray(np.random.default_rng(size).integers(0, 256, shape, np.uint8), mode), form)


def npy_file(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def multipart(*files: bytes) -> bytes:
    head = b'--cut\r\nContent-Disposition: form-data; name="images"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    return b"".join(head + file + b"\r\n" for file in files) + b"--cut--\r\n"


IMAGE = noise("PNG")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
TENSOR = np.random.default_rng(0).standard_normal((2, 16, 2, 2), np.float32).tobytes()
LATENTS = np.random.default_rng(0).standard_normal((2, 32)).round(4)
IMAGE_BODIES: list[tuple[str, bytes]] = [
    (PNG, IMAGE),
    (PNG, noise("PNG", 90, "RGBA")),
    ("image/jpeg", noise("JPEG", 40, "RGB")),
    (MULTIPART, multipart(IMAGE, noise("JPEG", 33))),
    (NPY, npy_file(PIXELS)),
    (JSON, json.dumps({"images": [base64.b64encode(IMAGE).decode()] * 2}).encode()),
]
LATENT_BODIES: list[tuple[str, bytes]] = [
    (JSON, json.dumps({"latents": LATENTS.tolist()}).encode()),
    (NPY, npy_file(LATENTS.astype(np.float32))),
]
REQUESTS = [
    *(post(path, kind, body) for path in ("/encode", "/reconstruct", "/score") for kind, body in IMAGE_BODIES),
    *(post("/decode", kind, body) for kind, body in LATENT_BODIES),
    *(get(path) for path in ("/sample?n=4", "/model", "/encode", "/nowhere")),
]


def mutate(body: bytes, chance: random.Random) -> bytes:
    """A body that is cut short, or in which bytes are changed, removed, repeated or inserted."""
    mutated = bytearray(body)
    if chance.random() < 0.3:
        return bytes(mutated[: chance.randrange(len(mutated))])
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        index = chance.randrange(len(mutated)) if mutated else 0
        length = chance.choice([1, 1, 1, 2, 8, 64])
        match chance.randrange(5):
            case 0:
                mutated[index : index + 1] = bytes([chance.randrange(256)])
            case 1:
                del mutated[index : index + length]
            case 2:
                mutated[index:index] = mutated[index : index + length]
            case 3:
                mutated[index:index] = chance.randbytes(length)
            case _ if mutated:
                mutated[index] ^= 1 << chance.randrange(8)
    return bytes(mutated)


MORE_IMAGE_BODIES: list[tuple[str, bytes]] = [
    *((f"image/{form.lower()}", noise(form, 40, "RGB")) for form in ("TIFF", "AVIF", "WEBP", "GIF", "BMP")),
    ("image/tiff", stored(Image.fromarray(PIXELS[0]), "TIFF", compression="tiff_lzw")),
    (NPY, npy_file((PIXELS / 255).astype(np.float16))),
    (NPY, npy_file(PIXELS[0])),
]
ENDS: list[tuple[str, bytes]] = [
    IMAGE_BODIES[3],
    IMAGE_BODIES[5],
    (NPY, npy_file(PIXELS[:2])),
    *LATENT_BODIES,
]
CALLS: list[tuple[str, dict[str, Any], list[tuple[str, bytes]]]] = [
    ("/encode", {"samples": 2, "seed": 7, "fit": "crop", "encoding": "base64"}, IMAGE_BODIES),
    ("/encode", {"scaled": "true"}, MORE_IMAGE_BODIES),
    ("/reconstruct", {"seed": 3, "columns": 2, "quality": 50}, IMAGE_BODIES),
    ("/reconstruct", {}, MORE_IMAGE_BODIES),
    ("/score", {"samples": 3, "seed": 3}, IMAGE_BODIES),
    ("/decode", {"scaled": "false", "columns": 1}, LATENT_BODIES),
    ("/interpolate", {"steps": 5, "mode": "slerp", "columns": 3}, ENDS),
    ("/sample", {}, [(JSON, json.dumps({"n": 4, "seed": 1, "temperature": 0.5}).encode())]),
    ("/sample", {"n": 4, "seed": 1, "temperature": 0.5, "force": "true"}, []),
]
HEADERS: list[tuple[str, str]] = [
    ("Accept", "image/png, application/json;q=0.9"),
    ("Accept", "application/x-npy"),
    ("Accept", "image/webp;q=0.5, image/jpeg"),
    ("Accept-Encoding", "zstd, gzip;q=0.5"),
    ("X-Request-Timeout", "9.5"),
    ("X-Request-ID", "a-request"),
    ("Content-Type", MULTIPART),
]
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}


def mutated_requests() -> Iterator[bytes]:
    """Requests with a mutated query, body or header, or several of them, the same ones each time."""
    number = 0
    while True:
        chance = random.Random(number)
        path, parameters, bodies = chance.choice(CALLS)
        query, headers = urlencode(parameters).encode(), dict(chance.sample(HEADERS, 2))
        if query and chance.random() < 0.3:
            query = mutate(query, chance)
        if chance.random() < 0.3:
            name = chance.choice(sorted(headers))
            headers[name] = "".join(filter(str.isprintable, mutate(headers[name].encode(), chance).decode("latin-1")))
        path = f"{path}?{quote(query, safe='=&')}" if query else path
        number += 1
        if not bodies:
            yield get(path, **headers)
            continue
        kind, body = chance.choice(bodies)
        if is_packed := chance.random() < 0.2:
            headers["Content-Encoding"] = coding = chance.choice(sorted(CODINGS))
            body = CODINGS[coding](mutate(body, chance) if chance.random() < 0.5 else body)
        yield post(path, kind, mutate(body, chance) if not is_packed or chance.random() < 0.5 else body, **headers)


TENSORS: list[tuple[str, dict[str, Any], bytes]] = [
    ("decode", {"shape": [2, 16, 2, 2], "dtype": "float32", "scaling_factor": 0.3611}, TENSOR),
    ("decode", {"shape": [2, 1, 64], "dtype": "float32", "height": 16, "width": 16, "output_type": "pt"}, TENSOR),
    ("decode", {"shape": [4, 16, 2, 2], "dtype": "bfloat16", "output_type": "pt", "do_scaling": True}, TENSOR),
    ("decode", {"shape": [1, 16, 2, 2], "dtype": "float16", "partial_postprocess": True}, TENSOR[:128]),
    ("encode", {"shape": [1, 3, 16, 16], "dtype": "uint8", "shift_factor": 0.1159}, bytes(range(256)) * 3),
    ("encode", {"shape": [1, 3, 16, 16], "dtype": "float16"}, np.linspace(-1, 1, 768).astype(np.float16).tobytes()),
    ("encode", {}, IMAGE),
]


def mutated_tensors() -> Iterator[bytes]:
    """Requests of the diffusers dialect with a mutated query, a mutated body, or both, the same ones each time."""
    number = 0
    while True:
        chance = random.Random(number)
        endpoint, query, body = chance.choice(TENSORS)
        text = urlencode(query, doseq=True).encode()
        if text and chance.random() < 0.5:
            text = mutate(text, chance)
        if chance.random() < 0.4:
            body = mutate(body, chance)
        accept = chance.choice(["tensor/binary", "image/png", "image/jpeg", "text/plain", "*/*"])
        yield post(f"/diffusers/{endpoint}?{quote(text, safe='=&')}", "tensor/binary", body, Accept=accept)
        number += 1


def tensor(name: str, datatype: str, shape: list[int], elements: bytes | list[Any]) -> tuple[dict[str, Any], bytes]:
    """An input of the Open Inference Protocol, and its binary elements."""
    about = {"name": name, "datatype": datatype, "shape": shape}
    if isinstance(elements, list):
        return {**about, "data": elements}, b""
    return {**about, "parameters": {"binary_data_size": len(elements)}}, elements


FILES = b"".join(len(file).to_bytes(4, "little") + file for file in (IMAGE, noise("JPEG", 33)))
TEXTS = [base64.b64encode(IMAGE).decode()] * 2
CODES = LATENTS.astype(np.float32)
IMAGE_TENSORS = [
    tensor("images", "UINT8", [3, 28, 28, 1], PIXELS.tobytes()),
    tensor("images", "UINT8", [1, 28, 28], PIXELS[0].ravel().tolist()),
    tensor("images", "UINT8", [1, 28, 28], [PIXELS[0].tolist()]),
    tensor("images", "FP16", [3, 28, 28], (PIXELS / 255).astype(np.float16).tobytes()),
    tensor("images", "BYTES", [2], FILES),
    tensor("images", "BYTES", [2, 1], [*TEXTS]),
]
INFERENCES: list[tuple[str, tuple[dict[str, Any], bytes], dict[str, Any]]] = [
    *((name, sent, {}) for name in ("encode", "reconstruct", "score") for sent in IMAGE_TENSORS),
    ("encode", IMAGE_TENSORS[0], {"samples": 2, "seed": 7, "datatype": "BF16", "binary_data_output": True}),
    ("reconstruct", IMAGE_TENSORS[0], {"format": "png", "binary_data_output": True}),
    ("decode", tensor("latents", "FP32", [2, 32], CODES.tobytes()), {"binary_data_output": True}),
    ("decode", tensor("latents", "BF16", [4, 32], CODES.tobytes()), {"scaled": True}),
    ("decode", tensor("latents", "FP64", [2, 32], LATENTS.tolist()), {"format": "jpeg", "quality": 50}),
    ("sample", tensor("n", "INT64", [1], [4]), {"temperature": 0.5, "timeout": 10_000_000}),
]


def mutated_inferences() -> Iterator[bytes]:
    """Requests of the Open Inference Protocol with mutated JSON, elements or length, the same ones each time."""
    number = 0
    while True:
        chance = random.Random(number)
        name, (sent, elements), parameters = chance.choice(INFERENCES)
        text = json.dumps({"id": "a", "inputs": [sent], "parameters": parameters}).encode()
        part = chance.random()
        if part < 0.5:
            text = mutate(text, chance)
        elif part < 0.8 and elements:
            elements = mutate(elements, chance)
        length = (
            len(text) if chance.random() < 0.8 else chance.choice([0, len(text) - 1, 2**31, chance.randrange(9999)])
        )
        headers = {"Inference-Header-Content-Length": str(length)} if elements or length != len(text) else {}
        yield post(f"/v2/models/{name}/infer", "application/octet-stream", text + elements, **headers)
        number += 1


def valid_requests() -> Iterator[bytes]:
    """Every request in turn."""
    while True:
        yield from REQUESTS


async def send_all(service: Service, requests: Iterator[bytes], counts: Counter[str]) -> None:
    """Send all requests, over a few connections at once."""

    async def client() -> None:
        with Connection(service.port) as connection:
            for request in requests:
                await connection.send_counted(request, counts)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


@pytest.fixture
def model(kind: Callable[[], Iterator[bytes]], tmp_path: Path) -> Path | None:
    """The model that the requests are for; None for the shipped one."""
    if kind is not mutated_tensors:
        return None
    models = pytest.importorskip("tests.support.diffusers_models")
    folder: Path = models.write(tmp_path / "kl16", "kl16")
    return folder


KINDS = [valid_requests, mutated_requests, mutated_tensors, mutated_inferences]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_memory_in_use_does_not_grow_with_the_number_of_requests(kind, model, request, figures):
    count: int = request.config.getoption("--requests")
    requests, counts, resident = kind(), Counter[str](), list[float]()
    async with serving(model, MEASURING, **QUIET) as service:
        files = await service.count("process_open_fds")
        for number in (count // 10, count - count // 10):
            await send_all(service, islice(requests, number), counts)
            service.process.send_signal(signal.SIGUSR1)
            resident.append(await service.count("process_resident_memory_bytes"))
        assert await service.count("vae_queue_items") == 0
        assert await service.count("process_open_fds") <= files + CLIENTS
        assert await service.stop() == 0
        records = await service.records()
    (used, blocks), (used_at_end, blocks_at_end) = measurements(records)
    figures["MiB resident after a tenth and at the end"] = [round(size / MIB, 1) for size in resident]
    figures["MiB in use by C"] = [round(size / MIB, 1) for size in (used, used_at_end)]
    figures["blocks in use by Python"] = [blocks, blocks_at_end]
    figures["responses"] = format_counts(counts)
    loggers = Counter(record["logger"] for record in records if record["logger"] != "memory")
    figures["warnings and errors in the log"] = format_counts(loggers)
    assert not counts["lost"]
    assert not [name for name in counts if name.startswith("answered 5")]
    assert used_at_end - used < MAX_GROWTH
    assert blocks_at_end - blocks < MAX_OBJECTS


def measurements(records: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The bytes and blocks that `MEASURING` has logged."""
    messages = [record["message"].split() for record in records if record["logger"] == "memory"]
    return [(int(used), int(blocks)) for used, blocks in messages]
