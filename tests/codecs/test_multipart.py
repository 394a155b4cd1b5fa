"""Multipart bodies of independent writers are parsed, and other bytes are refused, in linear time."""

import io
import time
from contextlib import suppress
from email.generator import BytesGenerator
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.policy import HTTP

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codecs.multipart import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_PADDING, Part, boundary_of, read_parts
from app.codecs.windows import WINDOW
from app.errors import BadRequest, ContentTooLarge, ServiceError, UnsupportedMediaType

FILE = b'Content-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='"\\%\r\n', exclude_categories=["Cc", "Cs"]), min_size=1
)
BOUNDARIES = st.text("0123456789ABCXYZabcxyz'()+_,-./:=?", min_size=1, max_size=70)


def body_of(*contents: bytes, boundary: bytes = b"cut", head: bytes = FILE) -> bytes:
    return b"".join(b"--%b\r\n%b%b\r\n" % (boundary, head, content) for content in contents) + b"--%b--\r\n" % boundary


def contents(body: bytes, boundary: bytes = b"cut", max_parts: int = 9) -> list[bytes]:
    return [part.content for part in read_parts(body, boundary, max_parts)]


@settings(max_examples=100)
@given(st.lists(st.tuples(NAMES, st.none() | NAMES, st.binary()), min_size=1, max_size=5), BOUNDARIES)
def test_multipart_of_httpx_is_parsed(parts, boundary):
    files = [(name, (filename, content)) for name, filename, content in parts]
    kind = f'multipart/form-data; boundary="{boundary}"'
    request = httpx.Request("POST", "http://vae", files=files, headers={"content-type": kind})
    body = request.read()
    if any(f"\r\n--{boundary}".encode() in b"\r\n" + content for _, _, content in parts):
        return  # httpx writes a body that says something else
    expected = [Part(name, filename is not None, content) for name, filename, content in parts]
    assert read_parts(body, boundary_of(kind), 5) == expected


@settings(max_examples=50)
@given(st.lists(st.binary(), min_size=1, max_size=4), NAMES, st.integers(30, 200))
def test_multipart_of_the_email_package_with_folded_headers_is_parsed(files, name, width):
    lines = [content.replace(b"\r", b"").replace(b"\n", b"\r\n") for content in files]  # all that it keeps as they are
    form = MIMEMultipart("form-data", boundary="=_cut_=", policy=HTTP)
    for content in lines:
        part = MIMEBase("image", "png", policy=HTTP)
        part.set_payload(content.decode("ascii", "surrogateescape"))
        part.add_header("Content-Disposition", "form-data", name="images", filename=name)
        part["Content-Transfer-Encoding"] = "8bit"
        form.attach(part)
    stream = io.BytesIO()
    policy = HTTP.clone(cte_type="8bit", max_line_length=width)
    BytesGenerator(stream, mangle_from_=False, policy=policy).flatten(form)
    head, _, body = stream.getvalue().partition(b"\r\n\r\n")
    parts = read_parts(body, boundary_of(form["Content-Type"]), 4)
    assert b"form-data" in head
    assert parts == [Part("images", True, content) for content in lines]


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=cut", b"cut"),
        ("Multipart/Form-Data;BOUNDARY=cut;charset=utf-8", b"cut"),
        ('multipart/form-data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data ; boundary = a=b ", b"a=b"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
    ],
)
def test_the_boundary_is_read_from_the_content_type(kind, boundary):
    assert boundary_of(kind) == boundary


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("multipart/form-data", "has no boundary"),
        ('multipart/form-data; boundary=""', "has no boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, "1 to 70 characters of RFC 2046, got 'xxx"),
        ('multipart/form-data; boundary="ends blank "', "got 'ends blank '"),
        ("multipart/form-data; boundary=b\xf6se", "got 'böse'"),
        ("multipart/form-data; boundary=a\0b", r"got 'a\\x00b'"),
    ],
)
def test_a_boundary_that_rfc_2046_does_not_allow_is_refused(kind, sentence):
    with pytest.raises(BadRequest, match=sentence):
        boundary_of(kind)


@pytest.mark.parametrize(
    "body",
    [
        body_of(b"one", b"two"),
        b"\r\n" + body_of(b"one", b"two"),
        b"a preamble,\r\n\r\nof -- and --cut lines\r\n" + body_of(b"one", b"two"),
        body_of(b"one", b"two") + b"an epilogue\r\n--cut\r\nof anything\r\n--cut--",
        body_of(b"one", b"two")[:-2],
        body_of(b"one", b"two").replace(b"--cut\r\n", b"--cut \t \r\n").replace(b"--cut--", b"--cut--  "),
        body_of(b"one", b"two").replace(b"--cut\r\n", b"--cut" + b" " * MAX_PADDING + b"\r\n"),
        body_of(b"one", b"two", head=b"content-disposition:form-data;filename*=utf-8''a%22.png;name=images\r\n\r\n"),
        body_of(b"one", b"two", head=b'Content-Disposition: form-data;\r\n\tname="images";\r\n filename="a;b"\r\n\r\n'),
        body_of(b"one", b"two", head=b"Content-Transfer-Encoding: BINARY \r\nContent-Length: 3\r\n" + FILE),
    ],
)
def test_text_and_padding_that_rfc_2046_allows_are_accepted(body):
    assert read_parts(body, b"cut", 2) == [Part("images", True, b"one"), Part("images", True, b"two")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\r\n\r\n",
        b"-",
        b"\n--cut",
        b"\r\n--cu",
        b"\r\n--c\r\n--",
        b"\n--cut\n",
        b"\r--cut",
        b"x" * WINDOW,
    ],
)
def test_a_part_keeps_its_bytes(content):
    assert contents(body_of(content, content)) == [content, content]


@pytest.mark.parametrize("shift", range(-12, 3))
def test_a_boundary_across_two_search_windows_is_found(shift):
    content = b"x" * (WINDOW + shift)
    assert contents(body_of(content, b"", content)) == [content, b"", content]


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"", BadRequest, "no line of it begins with the boundary"),
        (b"--cut", BadRequest, "closing boundary is missing"),
        (b"--cut\r\n", BadRequest, "closing boundary is missing"),
        (b"--cut\r\n" + FILE + b"one\r\n--cut", BadRequest, "closing boundary is missing"),
        (b"--cut\r\n" + FILE + b"one\r\n--cut-", BadRequest, "closing boundary is missing"),
        (b"--cut\n" + FILE + b"one\r\n--cut--", BadRequest, "expected a line break after a boundary"),
        (b"--cutter\r\n" + FILE + b"one\r\n--cut--", BadRequest, "expected a line break after a boundary"),
        (
            b"--cut" + b" " * (MAX_PADDING + 1) + b"\r\n" + FILE + b"one\r\n--cut--",
            BadRequest,
            "line break after a boundary",
        ),
        (b"--cut\r\n--cut--\r\n", BadRequest, "part 1: expected at most 8192 bytes of header fields"),
        (b"--cut\r\nno: end\r\n--cut--\r\n", BadRequest, "part 1: expected at most 8192 bytes of header fields"),
        (b"--cut\r\nno colon\r\n\r\n\r\n--cut--\r\n", BadRequest, "part 1: expected a Content-Disposition"),
        (
            body_of(b"1", head=b"Content-Disposition: form-data\r\n\r\n"),
            BadRequest,
            "part 1: expected a Content-Dispos",
        ),
        (body_of(b"1", head=b"a: " + b"b" * MAX_HEADER_BYTES + b"\r\n" + FILE), BadRequest, "at most 8192 bytes"),
        (body_of(b"1", head=b"a:b\r\n" * MAX_HEADER_FIELDS + FILE), BadRequest, "at most 16 header fields, got more"),
        (body_of(*[b""] * 10), ContentTooLarge, "more parts than the 9 items"),
        (
            body_of(b"1", head=b"Content-Transfer-Encoding: base64\r\n" + FILE),
            UnsupportedMediaType,
            "part 1: expected its bytes as they are, got the Content-Transfer-Encoding 'base64'",
        ),
    ],
)
def test_malformed_multipart_is_refused_with_a_sentence(body, kind, sentence):
    with pytest.raises(kind, match=sentence):
        read_parts(body, b"cut", 9)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"--", b"cut", b"\r\n", b"\r", b" ", b"a: b", b";", b'"', b"\\", FILE, b"\0"])).map(
        b"".join
    )
)
def test_any_bytes_are_parsed_or_refused(body):
    with suppress(ServiceError):
        assert sum(map(len, contents(b"--cut\r\n" + body))) <= len(body)


ATTACKS = {
    "blanks after a boundary": lambda size: b"--BB\r\n" + FILE + b"\r\n--BB" + b" " * size + b"\r\n--BB--",
    "boundaries that are none": lambda size: b"--BB\r\n" + FILE + b"\r\n--BBx" * (size // 7) + b"\r\n--BB--",
    "half a boundary": lambda size: b"--BB\r\n" + FILE + b"\r\n--B" * (size // 5) + b"\r\n--BB--",
    "line breaks": lambda size: b"--BB\r\n" + FILE + b"\r\n" * (size // 2) + b"\r\n--BB--",
    "a preamble of half boundaries": lambda size: b"\r\n--B" * (size // 5),
    "empty parts": lambda size: b"--BB\r\n" + (FILE + b"\r\n--BB\r\n") * (size // len(FILE)),
    "parts without a head": lambda size: b"--BB\r\n" * (size // 6),
    "folded lines": lambda size: b"--BB\r\n" + b"a:" + b"\r\n " * (size // 3) + b"\r\n" + FILE + b"\r\n--BB--",
    "quotes": lambda size: b"--BB\r\nContent-Disposition: form-data" + b';a="\\' * (size // 5) + b"\r\n\r\n\r\n--BB--",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_time_to_read_or_refuse_is_linear_at_most(name):
    def seconds(size: int) -> float:
        body, best = ATTACKS[name](size), float("inf")
        for _ in range(3):
            start = time.process_time()
            with suppress(ServiceError):
                read_parts(body, b"BB", 4096)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(2**22) < 40 * seconds(2**19) + 0.05  # 64 times as long were it quadratic
