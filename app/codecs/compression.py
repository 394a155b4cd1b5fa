"""Compressed bodies (RFC 9110, 8.4.1): gzip, deflate and zstd, in both directions, within limits.

A body is decompressed in steps, up to a number of bytes: a bomb costs no more than the largest body. Compression is
left out where a sample of the body hardly shrinks, as numbers of latents do.
"""

import io
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

from app.codecs.metadata import MAX_PIECES
from app.errors import BadRequest, ContentTooLarge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODED = ("zstd", "gzip")
"""Codings of responses."""

DECODED = ("gzip", "x-gzip", "deflate", "zstd")
"""Content codings of requests. Deflate is zlib's format, as RFC 9110 has it."""

MIN_COMPRESSED_BYTES = 2**14
"""Bytes of a response from which it is compressed; a smaller one takes few packets either way."""

STEP = 2**16
"""Compressed bytes of one decompression step."""

PIECE = 2**18
"""Decompressed bytes of one step: what is in memory besides the decompressed body."""

_SAMPLE = 2**16
_MAX_SHARE = 0.7
"""Share of a sample of a response above which the response is sent as it is."""

_GZIP, _ZLIB = 31, 15
_WINDOW = 23
"""Logarithm of the largest window of zstd, 8 MiB (RFC 9659)."""

_LEVEL = 1


class Decompressor(Protocol):
    """One member or frame of compressed data."""

    @property
    def eof(self) -> bool:
        """Whether the member is complete."""

    @property
    def unused_data(self) -> bytes:
        """The bytes after a complete member."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most so many bytes."""


def _zstd_frame() -> Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})


_DECOMPRESSORS: dict[str, Callable[[], Decompressor]] = {
    "gzip": lambda: zlib.decompressobj(_GZIP),
    "x-gzip": lambda: zlib.decompressobj(_GZIP),
    "deflate": lambda: zlib.decompressobj(_ZLIB),
    "zstd": _zstd_frame,
}


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress a body of one of the codings `DECODED`, of any number of members or frames.

    Raises `BadRequest` for damaged data, `ContentTooLarge` for more than `limit` bytes or `MAX_PIECES` members.
    """
    new, content = _DECOMPRESSORS[coding], io.BytesIO()
    member, members = new(), 1
    for at in range(0, len(body), STEP):
        data = body[at : at + STEP]
        while data:
            if member.eof:
                member, members = new(), members + 1
            if members > MAX_PIECES:
                raise ContentTooLarge(f"the body has more than {MAX_PIECES} members of {coding}")
            for piece in _pieces(member, data, coding):
                content.write(piece)
                if content.tell() > limit:
                    raise ContentTooLarge(f"the body has more than the {limit} bytes allowed when it is decompressed")
            data = member.unused_data if member.eof else b""
    if not member.eof:
        raise _damaged(coding, "it ends before its data do")
    return content.getvalue()


def _pieces(member: Decompressor, data: bytes, coding: str) -> Iterator[bytes]:
    """Decompress bytes up to the end of a member, in pieces of a limited size."""
    piece = b""
    while data or len(piece) == PIECE:
        try:
            piece = member.decompress(data, PIECE)
        except (zlib.error, zstd.ZstdError) as error:
            raise _damaged(coding, str(error)) from None
        yield piece
        if member.eof:
            return
        data = getattr(member, "unconsumed_tail", b"")  # zlib returns what it has not read, zstd keeps it


def _damaged(coding: str, why: str) -> BadRequest:
    return BadRequest(f"the body is not {coding} that can be read: {why}")


@lru_cache(maxsize=64)  # most clients send one of a few headers
def accepted_coding(accept: bytes, offered: tuple[str, ...] = ENCODED) -> str:
    """Return the offered coding that an Accept-Encoding header prefers, the first of those alike; or ""."""
    weights = dict(map(_weighted, accept.decode("latin-1").lower().split(",")[:32]))
    best = max(offered, key=lambda name: weights.get(name, 0.0))
    return best if weights.get(best, 0.0) > 0 else ""


def _weighted(element: str) -> tuple[str, float]:
    name, _, parameter = element.partition(";")
    value = parameter.strip().removeprefix("q=")
    try:
        return name.strip(), float(value) if parameter.strip() else 1.0
    except ValueError:
        return name.strip(), 0.0


def compress(body: bytes, coding: str) -> bytes | None:
    """Compress a body by zstd or gzip; None if a sample of it hardly shrinks."""
    sample = body[len(body) // 2 :][:_SAMPLE]
    if len(_compressed(sample, coding)) > _MAX_SHARE * len(sample):
        return None
    return _compressed(body, coding)


def _compressed(body: bytes, coding: str) -> bytes:
    if coding == "zstd":
        return zstd.compress(body, _LEVEL)
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    return compressor.compress(body) + compressor.flush()
