"""Detection of media types, and parameters of headers."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codecs.media_types import IMAGE, JSON, MULTIPART, NPY, is_image, kind_of, parameters


@pytest.mark.parametrize(
    ("declared", "body", "kind"),
    [
        ("", b"\x89PNG", IMAGE),
        ("text/plain", b"RIFF\x10\0\0\0WEBP", IMAGE),
        ("audio/wav", b"RIFF\x10\0\0\0WAVE", "audio/wav"),
        ("", b"BM" + bytes(12) + b"\x28\0\0\0", IMAGE),
        ("", b"BM is how this text begins", ""),
        ("application/json", b"\x93NUMPY\x01\x00", NPY),
        ("application/json", b"null", JSON),
        ("application/x-npy", b" \n{", JSON),
        ("", b" " * 1024 + b"[", JSON),
        ("", b" " * 1025 + b"[", ""),
        ("multipart/form-data; boundary=[", b"[a preamble]\r\n--[", MULTIPART),
        ("Multipart/Form-Data", b"\xff\xd8\xff\xe0", IMAGE),
        ("IMAGE/avif", b"anything", IMAGE),
        (" Text/CSV ;a=b", b"1,2", "text/csv"),
    ],
)
def test_the_media_type_is_detected_by_the_first_bytes_and_the_content_type_as_a_hint(declared, body, kind):
    assert kind_of(declared, body) == kind


@given(st.binary(max_size=64), st.text(max_size=64))
def test_any_body_has_a_media_type(body, declared):
    assert isinstance(kind_of(declared, body), str)
    assert is_image(body) in (True, False)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("form-data", {}),
        ('form-data; name="images"; filename="a.png"', {"name": "images", "filename": "a.png"}),
        ("form-data;name=images;FileName=a.png ", {"name": "images", "filename": "a.png"}),
        (r'form-data; name="a\"b;c"; filename="C:\x"', {"name": r"a\"b;c", "filename": r"C:\x"}),
        ('form-data; name="a;b=c"', {"name": "a;b=c"}),
        ('form-data; name=""', {"name": ""}),
        ('form-data; name="images', {"name": "images"}),
        ("form-data; name=a; name=b", {"name": "a"}),
        ("form-data; filename*=UTF-8''%e2%82%ac.png; name=x", {"filename*": "UTF-8''%e2%82%ac.png", "name": "x"}),
        ("form-data; ; novalue; name = images", {"name": "images"}),
    ],
)
def test_parameters_are_read_as_clients_write_them(header, expected):
    assert parameters(header) == expected


@pytest.mark.parametrize("unit", [";", "; ", ';a="', ';a="\\', ";a", "; \t", ';a=" ;', "=", '"'])
def test_the_time_to_read_parameters_is_linear(unit):
    def seconds(size: int) -> float:
        header, best = "x/y" + unit * (size // len(unit)), float("inf")
        for _ in range(3):
            start = time.process_time()
            parameters(header)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(2**17) < 40 * seconds(2**14) + 0.05  # 64 times as long were it quadratic
