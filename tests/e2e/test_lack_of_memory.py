"""Lack of memory: the service answers 503, and never rejects a valid file."""

import asyncio
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import stored
from tests.support.live_server import ROOT, serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux"),
]

MIB = 2**20
SWEEP = """
import re, resource, sys
from pathlib import Path
from app.codecs.images import decode_images, probe_images

def decoded(content):
    return decode_images(probe_images([content], (3, 28, 28), 2**24), (3, 28, 28), "resize").tobytes()

def size():
    return int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
expected = [decoded(content) for content in files]
lacking = 0
for more in range(0, 6 * 2**20, 2**19):
    for content, pixels in zip(files, expected):
        resource.setrlimit(resource.RLIMIT_AS, (size() + more, resource.RLIM_INFINITY))
        try:
            assert decoded(content) == pixels
        except MemoryError:
            lacking += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(lacking)
"""


def pictures(side: int) -> dict[str, bytes]:
    """Image files of each format; the decoders allocate memory at different points."""
    small = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 4), np.uint8)
    image = Image.fromarray(small).resize((side, side))
    colour = image.convert("RGB")
    deep = Image.fromarray(np.arange(side * side, dtype=np.uint16).reshape(side, side))
    return {
        "a.bmp": stored(colour, "BMP"),
        "b.gif": stored(colour, "GIF"),
        "c.jpg": stored(colour, "JPEG", progressive=True),
        "d.png": stored(image, compress_level=1),
        "e.png": stored(deep, compress_level=1),
        "f.png": stored(colour.quantize(16), compress_level=1, transparency=bytes(5)),
        "g.webp": stored(colour, "WEBP", method=0),
        "h.webp": stored(image, "WEBP", lossless=True, method=0),
    }


def test_a_valid_file_is_decoded_or_raises_memory_error_at_any_amount_of_free_memory(tmp_path):
    for name, content in pictures(400).items():
        (tmp_path / name).write_bytes(content)
    swept = subprocess.run(
        [sys.executable, "-c", SWEEP, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert swept.returncode == 0, swept.stderr
    assert int(swept.stdout) > 2  # memory was lacking for some


async def test_a_request_for_which_memory_is_lacking_gets_503_and_no_error_is_logged(digits_model):
    size = (2500, 2500)
    files = [
        stored(Image.new("RGBA", size, (1, 2, 3, 4)), "WEBP", lossless=True),
        stored(Image.new("RGB", size), "JPEG", progressive=True),
        stored(Image.new("I;16", size)),
    ]
    async with serving(digits_model) as service:
        restrict(service.process.pid, 2 * MIB)  # less than a new thread takes
        answers = await asyncio.gather(*(service.client.post("/encode", content=content) for content in files))
        refused = [answer.json()["detail"] for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} <= {200, 503}  # some memory is free within the process
        assert set(refused) == {"the service has no memory left for this request"}
        resource.prlimit(service.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        for content in files:
            answer = await service.client.post("/encode", content=content)
            assert answer.status_code == 200, answer.text
        service.process.terminate()
        await service.wait()
        log = [json.loads(line) for line in (await service.log).splitlines()]
    assert {line["level"] for line in log} == {"INFO", "WARNING"}


def restrict(pid: int, more: int) -> None:
    """Limit the address space of a process to its current size and some more bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    size = int(re.search(r"VmSize:\s+(\d+)", status)[1]) * 1024
    resource.prlimit(pid, resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
