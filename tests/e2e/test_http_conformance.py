"""HTTP/1.1 as RFC 9110 and RFC 9112 define it: bytes sent, the statuses of the responses, and whether it closes."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest

from tests.support.raw_http import PROBE, Response, ServerProcess, read_response, server_process

LATENT = json.dumps({"latents": [[0, 0, 0, 0]]}).encode()
JSON = b"Content-Type: application/json\r\nAccept: application/json\r\n"
HOST = b"Host: vae\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: vae\r\n\r\n"
MIB = 2**20


class Case(NamedTuple):
    name: str
    sent: bytes
    statuses: tuple[int, ...]
    closes: bool = False


def get(line: bytes = b"GET /livez HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


def post(fields: bytes = b"", body: bytes = LATENT, version: bytes = b"1.1") -> bytes:
    return b"POST /decode HTTP/" + version + b"\r\n" + HOST + JSON + fields + b"\r\n" + body


def sized(length: bytes | int, body: bytes = LATENT, fields: bytes = b"") -> bytes:
    length = b"%d" % length if isinstance(length, int) else length
    return post(fields + b"Content-Length: " + length + b"\r\n", body)


def coded(coding: bytes, body: bytes, fields: bytes = b"") -> bytes:
    return post(b"Transfer-Encoding: " + coding + b"\r\n" + fields, body)


def chunked(body: bytes) -> bytes:
    return coded(b"chunked", body)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


WHOLE = chunk(LATENT) + b"0\r\n\r\n"
BYTEWISE = b"".join(chunk(LATENT[n : n + 1]) for n in range(len(LATENT))) + b"0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: vae\r\n\r\n"

REQUEST_LINES = [
    Case("origin form", get(), (200,)),
    Case("origin form with a query", get(b"GET /livez?x=1 HTTP/1.1"), (200,)),
    Case("a fragment is left out", get(b"GET /livez#x HTTP/1.1"), (200,)),
    Case("a percent-encoded path", get(b"GET /%6Civez HTTP/1.1"), (200,)),
    Case("bad percent-encodings", get(b"GET /%zz%ff%00% HTTP/1.1"), (404,)),
    Case("a path that leads out", get(b"GET /docs/static/../../../etc/passwd HTTP/1.1"), (404,)),
    Case("NUL in the path of a file", get(b"GET /docs/static/%00 HTTP/1.1"), (404,)),
    Case("a path that begins with two slashes", get(b"GET //livez HTTP/1.1"), (404,)),
    Case("absolute form", get(b"GET http://vae/livez HTTP/1.1"), (200,)),
    Case("absolute form with a port and a query", get(b"GET http://vae:80/livez?a HTTP/1.1"), (200,)),
    Case("absolute form of another scheme's case", get(b"GET HTTPS://vae/livez HTTP/1.1"), (200,)),
    Case("absolute form of an IPv6 address", get(b"GET http://[::1]:80/livez HTTP/1.1"), (200,)),
    Case("absolute form without a path is the root", get(b"GET http://vae HTTP/1.1"), (200,)),
    Case("absolute form without a path and a query", get(b"GET http://vae?x HTTP/1.1"), (200,)),
    Case("absolute form without a host", get(b"GET http:///livez HTTP/1.1"), (400,), True),
    Case("absolute form without a host and a port", get(b"GET http://:80/livez HTTP/1.1"), (400,), True),
    Case("absolute form with a user", get(b"GET http://me@vae/livez HTTP/1.1"), (400,), True),
    Case("absolute form of another scheme", get(b"GET ftp://vae/livez HTTP/1.1"), (400,), True),
    Case("absolute form still needs Host", get(b"GET http://vae/livez HTTP/1.1", b""), (400,), True),
    Case("authority form of CONNECT", get(b"CONNECT vae:80 HTTP/1.1"), (405,), True),
    Case("CONNECT of a path", get(b"CONNECT / HTTP/1.1"), (405,), True),
    Case("CONNECT with what would be a tunnel", get(b"CONNECT vae:80 HTTP/1.1") + b"\x16\x03\x01", (405,), True),
    Case("authority form of GET", get(b"GET vae:80 HTTP/1.1"), (400,), True),
    Case("asterisk form of OPTIONS", get(b"OPTIONS * HTTP/1.1"), (405,)),
    Case("asterisk form of GET", get(b"GET * HTTP/1.1"), (400,), True),
    Case("a relative path", get(b"GET livez HTTP/1.1"), (400,), True),
    Case("no target", get(b"GET HTTP/1.1"), (400,), True),
    Case("no version", get(b"GET /livez"), (400,), True),
    Case("nothing but a method", get(b"GET"), (400,), True),
    Case("two spaces", get(b"GET  /livez HTTP/1.1"), (200,)),
    Case("a tab", get(b"GET\t/livez HTTP/1.1"), (400,), True),
    Case("a space behind the version", get(b"GET /livez HTTP/1.1 "), (400,), True),
    Case("a space in the target", get(b"GET /li vez HTTP/1.1"), (400,), True),
    Case("a space before the method", get(b" GET /livez HTTP/1.1"), (400,), True),
    Case("NUL in the target", get(b"GET /\x00 HTTP/1.1"), (400,), True),
    Case("a byte above ASCII in the target", get(b"GET /\xe9 HTTP/1.1"), (400,), True),
    Case("an empty line before", b"\r\n" + GET, (200,)),
    Case("two empty lines between", GET + b"\r\n\r\n" + GET, (200, 200)),
    Case("many empty lines before", b"\r\n" * 20 + GET, (400,), True),
    Case("empty lines without end", b"\r\n" * 50_000, (400,), True),
    Case("a request line of 8 KiB", get(b"GET /livez?" + b"x" * 8172 + b" HTTP/1.1"), (200,)),
    Case("a longer request line", get(b"GET /livez?" + b"x" * 8173 + b" HTTP/1.1"), (414,), True),
    Case("a request line without end", b"GET /" + b"x" * 2**16, (414,), True),
    Case("not HTTP but TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), (400,), True),
    Case("not HTTP but SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", (400,), True),
]

VERSIONS = [
    Case("HTTP/1.0", get(b"GET /livez HTTP/1.0", b""), (200,), True),
    Case("HTTP/1.0 with Host", get(b"GET /livez HTTP/1.0"), (200,), True),
    Case(
        "HTTP/1.0 that would keep the connection",
        get(b"GET /livez HTTP/1.0", b"Connection: keep-alive\r\n"),
        (200,),
        True,
    ),
    Case("HTTP/1.0 with a body", post(b"Content-Length: %d\r\n" % len(LATENT), version=b"1.0"), (200,), True),
    Case("HTTP/1.0 with chunks", post(b"Transfer-Encoding: chunked\r\n", WHOLE, b"1.0"), (400,), True),
    Case(
        "HTTP/1.0 with Expect",
        post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(LATENT), version=b"1.0"),
        (200,),
        True,
    ),
    Case("HTTP/0.9", get(b"GET /livez HTTP/0.9"), (505,), True),
    Case("HTTP/1.2", get(b"GET /livez HTTP/1.2"), (505,), True),
    Case("HTTP/2.0", get(b"GET /livez HTTP/2.0"), (505,), True),
    Case("HTTP/3.0", get(b"GET /livez HTTP/3.0"), (505,), True),
    Case("HTTP/9.9", get(b"GET /livez HTTP/9.9"), (505,), True),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,), True),
    Case("the preface of HTTP/2 as 1.1", b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", (501,), True),
    Case("two digits", get(b"GET /livez HTTP/11.1"), (400,), True),
    Case("no dot", get(b"GET /livez HTTP/11"), (400,), True),
    Case("lower case", get(b"GET /livez http/1.1"), (400,), True),
    Case("another name", get(b"GET /livez HTP/1.1"), (400,), True),
    Case("RTSP", get(b"OPTIONS /livez RTSP/1.0"), (400,), True),
    Case("more than a version", get(b"GET /livez HTTP/1.1x"), (400,), True),
]

METHODS = [
    Case("HEAD", get(b"HEAD /livez HTTP/1.1"), (200,)),
    Case("HEAD of what is not there", get(b"HEAD /nowhere HTTP/1.1"), (404,)),
    Case("OPTIONS", get(b"OPTIONS /livez HTTP/1.1"), (405,)),
    Case("PUT", get(b"PUT /livez HTTP/1.1"), (405,)),
    Case("DELETE", get(b"DELETE /livez HTTP/1.1"), (405,)),
    Case("PATCH", get(b"PATCH /livez HTTP/1.1"), (405,)),
    Case("TRACE", get(b"TRACE /livez HTTP/1.1"), (405,)),
    Case("a method of WebDAV", get(b"PROPFIND /livez HTTP/1.1"), (405,)),
    Case("a method of RTSP", get(b"DESCRIBE /livez HTTP/1.1"), (501,), True),
    Case("an unknown method", get(b"BREW /livez HTTP/1.1"), (501,), True),
    Case("a method in lower case", get(b"get /livez HTTP/1.1"), (501,), True),
    Case("a method that begins a known one", get(b"GE /livez HTTP/1.1"), (501,), True),
    Case("a method that goes on", get(b"GETS /livez HTTP/1.1"), (501,), True),
    Case("a method of 4 KiB", get(b"A" * 4096 + b" /livez HTTP/1.1"), (501,), True),
    Case("no token as method", get(b"G(T /livez HTTP/1.1"), (400,), True),
]

HOSTS = [
    Case("no Host", get(fields=b""), (400,), True),
    Case("an empty Host", get(fields=b"Host:\r\n"), (200,)),
    Case("two Hosts", get(fields=HOST + HOST), (400,), True),
    Case("two Hosts that differ", get(fields=HOST + b"host: other\r\n"), (400,), True),
    Case("two Hosts of HTTP/1.0", get(b"GET /livez HTTP/1.0", HOST + HOST), (400,), True),
    Case("a bad Host of HTTP/1.0", get(b"GET /livez HTTP/1.0", b"Host: a/b\r\n"), (400,), True),
    *(
        Case(f"a good Host: {value.decode()}", get(fields=b"Host: " + value + b"\r\n"), (200,))
        for value in (
            b"vae",
            b"vae:8000",
            b"vae:",
            b"127.0.0.1:80",
            b"[::1]",
            b"[::1]:80",
            b"a_b.example",
            b"A-1.x",
            b"  vae \t ",
        )
    ),
    *(
        Case(f"a bad Host: {value!r}", get(fields=b"Host: " + value + b"\r\n"), (400,), True)
        for value in (
            b"a b",
            b"a,b",
            b"a/b",
            b"me@vae",
            b"vae:x",
            b"vae:123456",
            b"[::1",
            b"::1",
            b"a?b",
            b"a#b",
            b"\xe9",
            b'"vae"',
            b"http://vae",
            b"x" * 300,
            b"vae:80:80",
        )
        if value != b"a,b"  # a comma is a sub-delimiter, which a name may have (RFC 3986, 3.2.2)
    ),
]

FIELDS = [
    Case("white space around a value", get(fields=HOST + b"X-Request-ID: \t an-id \t \r\n"), (200,)),
    Case("no white space before a value", get(fields=b"Host:vae\r\n"), (200,)),
    Case("an empty value", get(fields=HOST + b"A:\r\nB: \r\n"), (200,)),
    Case("bytes above ASCII in a value", get(fields=HOST + b"A: \xe9\xff\r\n"), (200,)),
    Case("a tab in a value", get(fields=HOST + b"A: a\tb\r\n"), (200,)),
    Case("a folded line", get(fields=HOST + b"A: b\r\n c\r\n"), (400,), True),
    Case("a folded line of a tab", get(fields=HOST + b"A: b\r\n\tc\r\n"), (400,), True),
    Case("a folded Content-Length", sized(b"1\r\n 7"), (400,), True),
    Case("white space before the first field", get(fields=b" A: b\r\n" + HOST), (400,), True),
    Case("white space before a colon", get(fields=b"Host : vae\r\n"), (400,), True),
    Case("a field without a colon", get(fields=HOST + b"A\r\n"), (400,), True),
    Case("a field without a name", get(fields=HOST + b": a\r\n"), (400,), True),
    Case("a name that is no token", get(fields=HOST + b"A(b): a\r\n"), (400,), True),
    Case("a name with a byte above ASCII", get(fields=HOST + b"\xe9: a\r\n"), (400,), True),
    Case("NUL in a name", get(fields=HOST + b"A\x00: a\r\n"), (400,), True),
    Case("NUL in a value", get(fields=HOST + b"A: a\x00b\r\n"), (400,), True),
    Case("DEL in a value", get(fields=HOST + b"A: a\x7fb\r\n"), (400,), True),
    Case("another control in a value", get(fields=HOST + b"A: a\x0bb\r\n"), (400,), True),
    Case("a bare carriage return in a value", get(fields=HOST + b"A: a\rb: c\r\n"), (400,), True),
    Case("a bare line feed behind a value", get(fields=b"Host: vae\nA: b\r\n"), (400,), True),
    Case("line feeds alone", b"GET /livez HTTP/1.1\nHost: vae\n\n", (400,), True),
    Case("a line feed behind the request line", b"GET /livez HTTP/1.1\nHost: vae\r\n\r\n", (400,), True),
    Case("a line feed as the empty line", b"GET /livez HTTP/1.1\r\nHost: vae\r\n\n\r\n", (400,), True),
    Case("a carriage return alone ends no line", b"GET /livez HTTP/1.1\rHost: vae\r\r\n\r\n", (400,), True),
    Case("two carriage returns", b"GET /livez HTTP/1.1\r\r\nHost: vae\r\n\r\n", (400,), True),
    Case("a hundred fields", get(fields=HOST + b"A: b\r\n" * 99), (200,)),
    Case("more than a hundred fields", get(fields=HOST + b"A: b\r\n" * 100), (431,), True),
    Case("10,000 fields", get(fields=HOST + b"A:b\r\n" * 10_000), (431,), True),
    Case("a field of 60 KB", get(fields=HOST + b"A: " + b"b" * 60_000 + b"\r\n"), (200,)),
    Case("a field of 64 KiB", get(fields=HOST + b"A: " + b"b" * 2**16 + b"\r\n"), (431,), True),
    Case("a field without end", b"GET /livez HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 2**17, (431,), True),
    Case("a name of 60 KB", get(fields=HOST + b"A" * 60_000 + b": b\r\n"), (200,)),
    Case("one Authorization", get(fields=HOST + b"Authorization: Bearer a\r\n"), (200,)),
    Case("two Authorizations", get(fields=HOST + b"Authorization: Bearer a\r\n" * 2), (400,), True),
    Case(
        "two Authorizations in two cases",
        get(fields=HOST + b"Authorization: Bearer a\r\nAUTHORIZATION: x\r\n"),
        (400,),
        True,
    ),
]

LENGTHS = [
    Case("a length", sized(len(LATENT)), (200,)),
    Case("a length of zeros first", sized(b"00%d" % len(LATENT)), (200,)),
    Case("a length with white space", sized(b" %d \t" % len(LATENT)), (200,)),
    Case("a length of 5,000 digits", sized(b"0" * 5000 + b"%d" % len(LATENT)), (400,), True),
    Case("a length of 0", sized(0, b""), (400,)),
    Case("no length", post(body=b""), (400,)),
    Case("no length, but a body", post(), (400, 400), True),
    Case("a body of GET", get(fields=HOST + b"Content-Length: 5\r\n") + b"hello", (200,)),
    Case(
        "a body of a method that is not allowed",
        get(b"POST /livez HTTP/1.1", HOST + b"Content-Length: 5\r\n") + b"hello",
        (405,),
    ),
    Case("a body of nowhere", get(b"POST /nowhere HTTP/1.1", HOST + b"Content-Length: 5\r\n") + b"hello", (404,)),
    Case("more than the length is another request", sized(len(LATENT), LATENT + GET), (200, 200)),
    Case("more than the length is no request", sized(len(LATENT), LATENT + b"garbage\r\n\r\n"), (200, 400), True),
    Case("the same length twice", sized(b"%d\r\nContent-Length: %d" % ((len(LATENT),) * 2)), (400,), True),
    Case("two lengths", sized(b"5\r\nContent-Length: %d" % len(LATENT)), (400,), True),
    *(
        Case(f"a bad length: {value!r}", sized(value), (400,), True)
        for value in (
            b"",
            b"+5",
            b"-5",
            b"5, 5",
            b"5,6",
            b"5 5",
            b"0x5",
            b"5.0",
            b"5e1",
            b"1_0",
            b"five",
            b"5;",
            b"\x0b5",
            b"\xb2",
            b"18446744073709551616",
            b"9" * 100,
        )
    ),
]

CODINGS = [
    Case("one chunk", chunked(WHOLE), (200,)),
    Case("chunks of one byte", chunked(BYTEWISE), (200,)),
    Case("no chunk", chunked(b"0\r\n\r\n"), (400,)),
    Case("a size in upper case", chunked(b"%X\r\n%s\r\n0\r\n\r\n" % (len(LATENT), LATENT)), (200,)),
    Case("a size of zeros first", chunked(b"000%x\r\n%s\r\n000\r\n\r\n" % (len(LATENT), LATENT)), (200,)),
    Case("an extension", chunked(chunk(LATENT, b";a") + b"0;b=c\r\n\r\n"), (200,)),
    Case("an extension in quotes", chunked(chunk(LATENT, b';a="b c"') + b"0\r\n\r\n"), (200,)),
    Case("an extension of 10 KB", chunked(chunk(LATENT, b";" + b"a" * 10_000) + b"0\r\n\r\n"), (200,)),
    Case("an extension without end", chunked(b"5;" + b"a" * 2**17), (431,), True),
    Case("an extension with a line feed", chunked(b"5;a\nhello\r\n0\r\n\r\n"), (400,), True),
    Case("an extension with a carriage return", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n"), (400,), True),
    Case("a trailer field", chunked(chunk(LATENT) + b"0\r\nA: b\r\n\r\n"), (200,)),
    Case("a trailer field and another request", chunked(chunk(LATENT) + b"0\r\nA: b\r\n\r\n") + GET, (200, 200)),
    Case("a trailer that closes nothing", chunked(chunk(LATENT) + b"0\r\nConnection: close\r\n\r\n") + GET, (200, 200)),
    Case(
        "a trailer that upgrades nothing",
        chunked(chunk(LATENT) + b"0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n") + GET,
        (200, 200),
    ),
    Case("a trailer with Host", chunked(chunk(LATENT) + b"0\r\nHost: a/b\r\nHost: c\r\n\r\n") + GET, (200, 200)),
    Case("a trailer with a length", chunked(chunk(LATENT) + b"0\r\nContent-Length: 5\r\n\r\n") + GET, (400,), True),
    Case(
        "a trailer with a coding",
        chunked(chunk(LATENT) + b"0\r\nTransfer-Encoding: chunked\r\n\r\n") + GET,
        (400,),
        True,
    ),
    Case("a folded trailer", chunked(chunk(LATENT) + b"0\r\nA: b\r\n c\r\n\r\n"), (400,), True),
    Case("trailers without end", chunked(chunk(LATENT) + b"0\r\n" + b"A: b\r\n" * 30_000), (431,), True),
    Case(
        "an empty line in the data",
        chunked(chunk(b"\r\n\r\n" + LATENT + b"\r\n\r\n\r\n\r\n") + b"0\r\n\r\n") + GET,
        (200, 200),
    ),
    Case("a request in the data", chunked(chunk(SMUGGLED) + b"0\r\n\r\n") + GET, (400, 200)),
    *(
        Case(f"a bad size: {size!r}", chunked(size + b"\r\nhello\r\n0\r\n\r\n"), (400,), True)
        for size in (
            b"",
            b"x",
            b"0x5",
            b"+5",
            b"-5",
            b" 5",
            b"5 ",
            b"5\t",
            b"5\x00",
            b"5,5",
            b"5_0",
            b"f" * 17,
            b"1" * 100,
            b"5;\x00",
            b"5\r",
        )
    ),
    Case("a chunk size before a bare line feed", chunked(b"5\nhello\r\n0\r\n\r\n"), (400,), True),
    Case("a chunk size before a bare carriage return", chunked(b"5\rhello\r\n0\r\n\r\n"), (400,), True),
    Case("data longer than the size", chunked(b"4\r\nhello\r\n0\r\n\r\n"), (400,), True),
    Case("data without a line end", chunked(b"5\r\nhello0\r\n\r\n"), (400,), True),
    Case("data with a line feed behind", chunked(b"5\r\nhello\n0\r\n\r\n"), (400,), True),
    Case("a last chunk with a line feed behind", chunked(chunk(LATENT) + b"0\r\n\n"), (400,), True),
    Case("chunked in another case", coded(b"CHUNKED", WHOLE), (200,)),
    Case("chunked with white space", coded(b"  chunked  ", WHOLE), (200,)),
    Case("chunked with a tab before and behind it", coded(b"\tchunked\t", WHOLE), (200,)),
    Case("chunked with tabs and spaces", coded(b"\t chunked \t ", WHOLE, b"A: b\t\r\n"), (200,)),
    Case("a length with a tab behind it", sized(b"%d\t" % len(LATENT)), (200,)),
    Case("a line of tabs is no end of a head", post(b"A: b\r\n\t\r\nContent-Length: 0\r\n", b""), (400,), True),
    Case("chunked beside an empty element", coded(b",chunked", WHOLE), (200,)),
    Case("gzip before chunked", coded(b"gzip, chunked", WHOLE), (501,), True),
    Case("gzip before chunked in two fields", coded(b"gzip\r\nTransfer-Encoding: chunked", WHOLE), (501,), True),
    Case("identity before chunked", coded(b"identity, chunked", WHOLE), (501,), True),
    *(
        Case(f"a bad coding: {coding!r}", coded(coding, WHOLE), (400,), True)
        for coding in (
            b"",
            b"gzip",
            b"identity",
            b"chunked, gzip",
            b"chunked, chunked",
            b"xchunked",
            b"chunkedx",
            b"chunked;q=1",
            b"chunked\r\nTransfer-Encoding: chunked",
            b"chunked\r\nTransfer-Encoding: x",
            b"\x0bchunked",
            b"\x00chunked",
            b"chunk ed",
            b'"chunked"',
            b"chunked,",
            b"\xa0chunked",
        )
        if coding != b"chunked,"
    ),
]

SMUGGLING = [
    Case(
        "CL.TE",
        coded(b"chunked", b"0\r\n\r\n" + SMUGGLED, b"Content-Length: %d\r\n" % (5 + len(SMUGGLED))),
        (400,),
        True,
    ),
    Case("TE.CL", sized(4, chunk(SMUGGLED) + b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), (400,), True),
    Case("CL.0", sized(len(SMUGGLED), SMUGGLED), (400,)),
    Case("CL.CL", sized(b"0\r\nContent-Length: %d" % len(SMUGGLED), SMUGGLED), (400,), True),
    Case(
        "TE.TE of an unknown coding", coded(b"chunked\r\nTransfer-Encoding: x", b"0\r\n\r\n" + SMUGGLED), (400,), True
    ),
    Case("TE.TE of a folded line", coded(b"\r\n chunked", b"0\r\n\r\n" + SMUGGLED), (400,), True),
    Case("a coding with a space in its name", post(b"Transfer-Encoding : chunked\r\n", WHOLE), (400,), True),
    Case(
        "a coding with a space before its name", post(b"A: b\r\n Transfer-Encoding: chunked\r\n", WHOLE), (400,), True
    ),
    Case("a coding behind a bare line feed", post(b"A: b\nTransfer-Encoding: chunked\r\n", WHOLE), (400,), True),
    Case("a coding behind a bare carriage return", post(b"A: b\rTransfer-Encoding: chunked\r\n", WHOLE), (400,), True),
    Case(
        "an underscore is no hyphen",
        post(b"Transfer_Encoding: chunked\r\nContent-Length: %d\r\n" % len(LATENT)),
        (200,),
    ),
    Case(
        "a length with a coding of HTTP/1.0",
        post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", WHOLE, b"1.0"),
        (400,),
        True,
    ),
    Case(
        "a request behind an upgrade",
        get(fields=HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n") + SMUGGLED,
        (200, 404),
    ),
    Case(
        "a body behind an upgrade", sized(len(SMUGGLED), SMUGGLED, b"Connection: upgrade\r\nUpgrade: h2c\r\n"), (400,)
    ),
    Case(
        "chunks behind an upgrade", coded(b"chunked", WHOLE, b"Connection: upgrade\r\nUpgrade: websocket\r\n"), (200,)
    ),
    Case(
        "a bad Host behind an upgrade",
        get(fields=b"Host: a b\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"),
        (400,),
        True,
    ),
    Case(
        "another protocol behind an upgrade",
        get(fields=HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n") + b"\x00\x01",
        (200, 400),
        True,
    ),
]

CONNECTIONS = [
    Case("three requests at once", GET * 3, (200, 200, 200)),
    Case(
        "responses are in order",
        GET + get(b"GET /nowhere HTTP/1.1") + sized(len(LATENT)) + get(b"HEAD /model HTTP/1.1") + GET,
        (200, 404, 200, 200, 200),
    ),
    Case("400 requests at once", GET * 400, (200,) * 400),
    Case("400 upgrades at once", get(fields=HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\n") * 400, (200,) * 400),
    Case("Connection: close", get(fields=HOST + b"Connection: close\r\n"), (200,), True),
    Case("Connection: Close among others", get(fields=HOST + b"Connection: x, Close\r\n"), (200,), True),
    Case(
        "nothing is read behind Connection: close", get(fields=HOST + b"Connection: close\r\n") + GET * 3, (200,), True
    ),
    Case("a body with Connection: close", sized(len(LATENT), LATENT, b"Connection: close\r\n"), (200,), True),
    Case("a good request before a bad one", GET + b"garbage\r\n\r\n", (200, 400), True),
    Case("a slow request before a bad one", get(b"GET /sample?n=64 HTTP/1.1") + get(fields=b""), (200, 400), True),
    Case("a bad request before a good one", get(fields=b"") + GET * 10, (400,), True),
    Case(
        "requests go on behind errors",
        get(b"GET /nowhere HTTP/1.1") + get(b"PUT /model HTTP/1.1") + sized(5, b"hello") + GET,
        (404, 405, 400, 200),
    ),
    Case("Expect with the body at once", sized(len(LATENT), LATENT, b"Expect: 100-continue\r\n"), (100, 200)),
    Case("Expect in another case", sized(len(LATENT), LATENT, b"expect: 100-Continue\r\n"), (100, 200)),
    Case("Expect of something else", sized(len(LATENT), LATENT, b"Expect: something\r\n"), (200,)),
    Case("Expect without a body", get(fields=HOST + b"Expect: 100-continue\r\n"), (200,)),
    Case("Expect, and a refusal", sized(64 * MIB, b"", b"Expect: 100-continue\r\n"), (413,), True),
    Case("a body that is too large", sized(2 * MIB, bytes(2 * MIB)), (413,)),
]
TABLE = {
    "request line": REQUEST_LINES,
    "version": VERSIONS,
    "method": METHODS,
    "Host": HOSTS,
    "fields": FIELDS,
    "length": LENGTHS,
    "coding": CODINGS,
    "smuggling": SMUGGLING,
    "connection": CONNECTIONS,
}
CASES = [pytest.param(case, id=f"{topic}: {case.name}") for topic, cases in TABLE.items() for case in cases]


@pytest.fixture(scope="module")
def server(digits_model) -> Iterator[ServerProcess]:
    """One process for all cases; at its end nothing may have been logged as an error or a warning."""
    with server_process(digits_model, max_body_bytes=2**20) as process:
        yield process
    assert process.log.complaints() == []


def pieces(sent: bytes, count: int) -> Iterator[bytes]:
    size = max(1, -(-len(sent) // count))
    return (sent[start : start + size] for start in range(0, len(sent), size))


def methods(sent: bytes) -> Iterator[bytes]:
    """The methods of the requests, which decide whether a response has a body."""
    return (found[1] for found in re.finditer(rb"(?:^|(?<=\r\n\r\n)|(?<=}))(GET|HEAD|POST|PUT) ", sent))


def exchange(server: ServerProcess, sent: bytes, count: int, responses: int) -> tuple[list[Response], bool]:
    """The responses to what is sent in so many pieces, and whether the connection closes behind them."""
    with server.connect() as client, client.makefile("rb") as stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(ConnectionError):  # it may be closed already
            for piece in pieces(sent, count):
                client.sendall(piece)
        sent_methods = methods(sent)
        found = [read_response(stream, bodiless=next(sent_methods, b"") == b"HEAD") for _ in range(responses)]
        with suppress(ConnectionError):
            client.sendall(PROBE)
        last = read_response(stream)
        assert last is None or last.headers["x-request-id"] == "the-probe", last
        return [response for response in found if response], last is None


@pytest.mark.parametrize("count", [1, 11], ids=["at once", "in pieces"])
@pytest.mark.parametrize("case", CASES)
def test_requests_get_the_responses_that_the_standard_requires(server, case, count):
    responses, closes = exchange(server, case.sent, count, len(case.statuses))
    assert tuple(response.status for response in responses) == case.statuses
    assert closes == case.closes
    for response in responses:
        if response.status >= 400:
            assert response.headers["content-type"] == "application/problem+json"
        if response.status != 100:
            assert response.headers["x-request-id"]
            assert response.headers["date"]  # RFC 9110, 6.6.1
    if case.closes:
        assert responses[-1].closes
