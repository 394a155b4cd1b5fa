"""Routes of the web page: its files are read, compressed and hashed once, when the application is built.

All files but the page itself are below a path with a digest of their contents, so that browsers keep them for a year:

/                        the page, revalidated by its ETag at each visit
/web/<digest>/<name>     styles, scripts and the icon, immutable

The addresses in the page are relative, so that it works below any path prefix of a proxy; with a root path, which is
that prefix, they begin with it, so that the address of the page needs no slash at its end.
"""

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

PAGE = "index.html"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the page: its own files and the API of the same origin, nothing else."""

_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_NO_WEIGHT = re.compile(r"q=0(\.0*)?")

_IMMUTABLE = {"Cache-Control": "public, max-age=31536000, immutable"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory, with its compressed form and the headers of its responses."""

    body: bytes
    compressed: bytes
    media_type: str
    headers: Mapping[str, str]

    def response(self, request: Request) -> Response:
        """Return the file in an encoding that the client accepts; 304 without a body if the client has it."""
        known = request.headers.get("if-none-match", "")
        if (
            known.strip() == "*" or self.headers["ETag"].removeprefix("W/") in known
        ):  # RFC 9110, 8.8.3.2: weak comparison
            return Response(status_code=304, headers=self.headers)
        if not _accepts_gzip(request.headers.get("accept-encoding", "")):
            return Response(self.body, media_type=self.media_type, headers=self.headers)
        headers = {**self.headers, "Content-Encoding": "gzip"}
        return Response(self.compressed, media_type=self.media_type, headers=headers)


def routes(root_path: str = "") -> list[BaseRoute]:
    """Return the routes of the page and its files."""
    version, page, static = _load(root_path)

    async def index(request: Request) -> Response:
        return page.response(request)

    async def static_file(request: Request) -> Response:
        file = static.get(request.path_params["name"])
        if file is None:
            raise HTTPException(404)
        return file.response(request)

    return [Route("/", index), Route(f"/web/{version}/{{name:path}}", static_file)]


def _accepts_gzip(accept_encoding: str) -> bool:
    """Whether a header names gzip, or else *, with a weight above 0 (RFC 9110, section 12.5.3)."""
    accepted: dict[str, bool] = {}
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.partition(";")
        accepted[name.strip()] = not _NO_WEIGHT.fullmatch(weight.strip())
    return accepted.get("gzip", accepted.get("*", False))


@cache
def _load(root_path: str) -> tuple[str, StaticFile, Mapping[str, StaticFile]]:
    """Read the files; returns their digest, the page, and the others by name."""
    contents = _read(files(__package__) / "static")
    digest = sha256(b"\0".join(part for name in sorted(contents) for part in (name.encode(), contents[name])))
    version = digest.hexdigest()[:16]
    page = _page(contents.pop(PAGE).decode(), root_path and f"{root_path}/", version, sorted(contents))
    static = {name: _static_file(name, content, _IMMUTABLE) for name, content in contents.items()}
    return version, page, static


def _page(template: str, base: str, version: str, names: Iterable[str]) -> StaticFile:
    """Return the page, which has the browser fetch all modules at once instead of one import after another."""
    modules = (f'<link rel="modulepreload" href="{{files}}/{name}">' for name in names if name.endswith(".js"))
    text = (
        template.replace("{preload}", "\n".join(modules))
        .replace("{files}", f"{base}web/{version}")
        .replace("{base}", base)
    )
    return _static_file(PAGE, text.encode(), _PAGE_HEADERS)


def _read(folder: Traversable, prefix: str = "") -> dict[str, bytes]:
    """Read all files of a folder and its subfolders, by their names relative to it."""
    contents: dict[str, bytes] = {}
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            contents |= _read(entry, f"{name}/")
        elif PurePosixPath(name).suffix in _MEDIA_TYPES:
            contents[name] = entry.read_bytes()
    return contents


def _static_file(name: str, body: bytes, headers: Mapping[str, str]) -> StaticFile:
    etag = f'"{sha256(body).hexdigest()[:16]}"'
    return StaticFile(
        body,
        gzip.compress(body, 9, mtime=0),
        _MEDIA_TYPES[PurePosixPath(name).suffix],
        {**headers, "ETag": f"W/{etag}", "Vary": "Accept-Encoding"},
    )
