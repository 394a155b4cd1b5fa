"""Request bodies on real sockets: large and malformed bodies, uploads, and the forms of common clients."""

import asyncio
import resource

import numpy as np
import pytest

from app.codecs.png import write_png
from tests.support.live_server import SEVERE, serving

pytestmark = pytest.mark.anyio

SIZE = 16 * 2**20
CUT = {"content-type": "multipart/form-data; boundary=BB"}
NPY, JSON = {"content-type": "application/x-npy"}, {"content-type": "application/json"}
FILE = b'--BB\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
ATTACKS = {
    "blanks after a boundary": (FILE + b"\r\n--BB" + b" " * SIZE + b"\r\n--BB--\r\n", CUT, 400),
    "lines that begin with the boundary": (FILE + b"\r\n--BBx" * (SIZE // 7) + b"\r\n--BB--\r\n", CUT, 400),
    "lines that begin with half of it": (FILE + b"\r\n--B" * (SIZE // 5) + b"\r\n--BB--\r\n", CUT, 422),
    "a part of line breaks": (FILE + b"\r\n" * (SIZE // 2) + b"\r\n--BB--\r\n", CUT, 422),
    "an array of another type": (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }".ljust(127) % (SIZE // 8)
        + b"\n"
        + bytes(SIZE),
        NPY,
        422,
    ),
    "base64 of line breaks": (b'{"images": ["' + b"A\\n" * (SIZE // 3) + b'"]}', JSON, 422),
}


@pytest.fixture(scope="module")
async def service(digits_model):
    async with serving(digits_model) as running:
        yield running
        running.process.terminate()
        assert await running.wait() == 0
        assert await running.messages(*SEVERE) == []  # a client causes no warning


@pytest.mark.parametrize("name", ATTACKS)
async def test_large_malformed_bodies_are_answered_within_seconds_and_do_not_block_other_requests(service, name):
    body, headers, status = ATTACKS[name]
    async with asyncio.timeout(10):  # one body took this long before bodies were read in linear time
        attackers = [
            asyncio.create_task(service.client.post("/encode", content=body, headers=headers)) for _ in range(4)
        ]
        assert (await service.client.get("/livez")).status_code == 200
        assert [(await attacker).status_code for attacker in attackers] == [status] * 4


async def test_large_uploads_are_not_written_to_disk(service):
    noise = np.random.default_rng(0).integers(0, 256, (3, 900, 900), np.uint8)
    files = [("images", (f"{index}.png", write_png(noise))) for index in range(3)]
    _, most = limits = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, most))  # the process can write to no file
    try:
        answers = await asyncio.gather(*[service.client.post("/encode", files=files) for _ in range(4)])
    finally:
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, limits)
    assert [answer.status_code for answer in answers] == [200] * 4


def form(boundary: str, *heads: str, end: str = "\r\n") -> tuple[str, bytes]:
    """A form with a boundary and one part for each of the heads."""
    parts = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + PNG + b"\r\n" for head in heads)
    return boundary, parts + f"--{boundary}--{end}".encode()


PNG = write_png(np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
NAMED = 'Content-Disposition: form-data; name="images"; filename'
FORMS = {
    "curl": form("-" * 24 + "KrTGFfAcsQkvWx6TzPQe1b", f'{NAMED}="a.png"\r\nContent-Type: image/png'),
    "Chrome": form("----WebKitFormBoundary7MA4YWxkTrZu0gW", f'{NAMED}="blob"\r\nContent-Type: image/png', end="\r\n"),
    "Firefox": form("----geckoformboundary5a1b", f'{NAMED}="a%22b;c.png"\r\nContent-Type: image/png'),
    "node": form("----formdata-undici-0123456789", f'{NAMED}="blob"\r\nContent-Type: application/octet-stream'),
    "aiohttp": form("0f3a", f"Content-Type: application/octet-stream\r\n{NAMED}*=utf-8''%E2%82%AC.png", end="\r\n"),
    "Java": form("Xy-1_", f'{NAMED}="a.png"\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary', end=""),
    ".NET": form("5f3e-aa", "Content-Type: image/png\r\nContent-Disposition: form-data; name=images; filename=a.png"),
    "Go": form("9" * 60, f'{NAMED}="a\\"b.png"\r\nContent-Type: application/octet-stream'),
    "a text field": form("x", 'Content-Disposition: form-data; name="images"'),
}


async def test_long_media_types_and_unknown_parameters_are_rejected(service):
    long = await service.client.post("/encode", content=b"{", headers={"content-type": "x" * 20_000})
    unknown = await service.client.get("/sample?hunter2=value")
    assert [long.status_code, unknown.status_code] == [415, 422]


@pytest.mark.parametrize("client", FORMS)
async def test_forms_of_common_clients_are_parsed(service, client):
    boundary, body = FORMS[client]
    expected = await service.client.post("/encode", content=PNG, headers={"content-type": "image/png"})
    for kind in (f"multipart/form-data; boundary={boundary}", f'multipart/form-data; boundary="{boundary}"'):
        answer = await service.client.post("/encode", content=body, headers={"content-type": kind})
        assert (answer.status_code, answer.content) == (200, expected.content)
