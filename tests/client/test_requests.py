"""Arguments and results of the client, against the real service."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vae_client import AsyncClient, Client

from tests.support.in_thread_server import listening

GREY = np.zeros((8, 8), np.uint8)


@pytest.fixture(scope="module")
def vae(digits_model: Path) -> Iterator[Client]:
    with listening(model=digits_model) as address, Client(address, retries=20) as client:
        yield client


def test_arrays_paths_and_bytes_are_the_same_images(vae: Client, digits: np.ndarray, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, image in zip(paths, digits, strict=False):
        Image.fromarray(image[0]).save(path)
    by_array = vae.encode(digits[:3, 0])
    for other in (vae.encode(paths), vae.encode([path.read_bytes() for path in paths])):
        np.testing.assert_allclose(other.mean, by_array.mean, atol=1e-5)
        np.testing.assert_allclose(other.logvar, by_array.logvar, atol=1e-5)


def test_a_single_file_is_a_list_of_one(vae: Client, digits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "three.png"
    Image.fromarray(digits[3, 0]).save(path)
    expected = vae.encode(digits[3:4, 0]).mean
    for alone in (path, str(path), path.read_bytes()):
        np.testing.assert_allclose(vae.encode(alone).mean, expected, atol=1e-5)


def test_a_list_of_arrays_is_stacked(vae: Client, digits: np.ndarray) -> None:
    np.testing.assert_allclose(vae.encode(list(digits[:3, 0])).mean, vae.encode(digits[:3, 0]).mean, atol=1e-5)


def test_images_of_pillow_are_files(vae: Client, digits: np.ndarray) -> None:
    pictures = [Image.fromarray(image[0]) for image in digits[:3]]
    expected = vae.encode(digits[:3, 0]).mean
    np.testing.assert_allclose(vae.encode(pictures).mean, expected, atol=1e-5)
    np.testing.assert_allclose(vae.encode(pictures[0].convert("CMYK")).mean, expected[:1], atol=1e-2)


def test_tensors_have_their_channels_first_and_floats_are_scaled(vae: Client, digits: np.ndarray) -> None:
    expected, floats = vae.encode(digits[:3, 0]).mean, torch.from_numpy(digits[:3] / 255).requires_grad_()
    for tensor in (torch.from_numpy(digits[:3]), floats, list(floats), floats.float()):
        np.testing.assert_allclose(vae.encode(tensor).mean, expected, atol=1e-5)
    np.testing.assert_allclose(vae.encode(floats[0]).mean, expected[:1], atol=1e-5)
    np.testing.assert_allclose(vae.encode(floats[0, 0]).mean, expected[:1], atol=1e-5)
    assert vae.encode(floats.bfloat16()).mean.shape == (3, 4)


def test_arrays_of_floats_and_a_single_array_are_images(vae: Client, digits: np.ndarray) -> None:
    expected = vae.encode(digits[:3, 0]).mean
    np.testing.assert_allclose(vae.encode(digits[:3, 0] / 255).mean, expected, atol=1e-5)
    np.testing.assert_allclose(vae.encode(digits[0, 0]).mean, expected[:1], atol=1e-5)


def test_latents_may_be_tensors(vae: Client, digits: np.ndarray) -> None:
    mean = vae.encode(digits[:3, 0]).mean
    np.testing.assert_array_equal(vae.decode(torch.from_numpy(mean).requires_grad_()), vae.decode(mean))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (GREY.astype(int), "images: expected uint8, or floats in [0, 1], got int64"),
        (GREY + 1.5, "images: expected floats in [0, 1], got 1.5 to 1.5"),
        ([GREY, GREY + np.nan], "images[1]: expected floats in [0, 1], got nan to nan"),
        (torch.zeros(2), "images: expected a tensor [H, W], [C, H, W] or [N, C, H, W], got [2]"),
        ([], "images: expected at least one"),
        ([GREY, GREY[1:]], "images[1]: expected an array [8, 8] as the first, got [7, 8]"),
        ([GREY, "three.png"], "images: expected arrays alone, or files alone, got both"),
    ],
)
def test_an_invalid_list_of_images_is_not_sent(vae: Client, images: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        vae.encode(images)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (5, "images: expected an array, or the path or bytes of an image file, or a list of them, got int"),
        (None, "images: expected an array, or the path or bytes of an image file, or a list of them, got NoneType"),
        (io.BytesIO(b"a"), "images: expected an array, or the path or bytes of an image file, or a list of them, got"),
        ([GREY, 5], "images[1]: expected an array, or the path or bytes of an image file, got int"),
        ([[0, 0], [0, 0]], "images[0]: expected an array, or the path or bytes of an image file, got list"),
    ],
)
def test_a_value_that_is_no_image_is_named_by_its_type(vae: Client, images: Any, reason: str) -> None:
    for send in (vae.encode, vae.reconstruct, vae.score):
        with pytest.raises(TypeError, match=re.escape(reason)):
            send(images)


def test_a_count_or_a_seed_that_is_no_integer_is_named(vae: Client) -> None:
    text: Any = "abc"
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("n", lambda: vae.sample(text)),
        ("seed", lambda: vae.sample(1, seed=text)),
        ("samples", lambda: vae.encode(GREY, samples=text)),
        ("samples", lambda: vae.score(GREY, samples=text)),
    ]
    for name, call in calls:
        with pytest.raises(TypeError, match=f"^{name}: expected an integer, got str$"):
            call()
    two: Any = np.int64(2)
    assert len(vae.sample(two, seed=two).images) == 2


def test_any_iterable_of_files_is_a_list_of_them(vae: Client, digits: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(digits[3, 0]).save(tmp_path / "three.png")
    assert vae.encode(tmp_path.glob("*.png")).mean.shape == (1, 4)


def test_a_missing_file_is_named(vae: Client) -> None:
    for images in ("nowhere.png", ["nowhere.png"]):
        with pytest.raises(FileNotFoundError, match=re.escape("'nowhere.png'")):
            vae.encode(images)


def test_decoding_the_mean_equals_reconstruction(vae: Client, digits: np.ndarray) -> None:
    decoded = vae.decode(vae.encode(digits[:5, 0]).mean)
    assert decoded.shape == (5, 8, 8, 1)
    assert np.abs(decoded.astype(int) - vae.reconstruct(digits[:5, 0])).max() <= 1


def test_each_draw_is_decoded(vae: Client, digits: np.ndarray) -> None:
    drawn = vae.encode(digits[:2, 0], samples=3).z
    decoded = vae.decode(drawn)
    assert decoded.shape == (3, 2, 8, 8, 1)
    np.testing.assert_allclose(decoded, [vae.decode(each) for each in drawn], atol=1)


def test_spatial_latents_and_draws_differ_in_their_dimensions(colour_model: Path) -> None:
    pictures = np.random.default_rng(0).integers(256, size=(2, 13, 9, 3), dtype=np.uint8)
    with listening(model=colour_model) as address, Client(address, retries=20) as colour:
        encoded = colour.encode(pictures, samples=3)
        assert colour.decode(encoded.mean).shape == (2, 13, 9, 3)
        assert colour.decode(encoded.z).shape == (3, 2, 13, 9, 3)


def test_an_encoding_is_decoded_at_its_means(vae: Client, digits: np.ndarray) -> None:
    encoded = vae.encode(digits[:2, 0], samples=3)
    np.testing.assert_allclose(vae.decode(encoded), vae.decode(encoded.mean), atol=1)


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 1, 1, 1, 1)])
def test_arrays_of_other_dimensions_are_not_sent(vae: Client, shape: tuple[int, ...]) -> None:
    reason = re.escape(f"latents: expected an array [N, *latent] or [L, N, *latent], got {list(shape)}")
    with pytest.raises(ValueError, match=reason):
        vae.decode(np.zeros(shape))


@pytest.mark.parametrize(
    ("latents", "error", "name"),
    [("x", ValueError, "str"), ({"latents": []}, TypeError, "dict"), ([[1, 2], [3]], ValueError, "list")],
)
def test_latents_that_are_no_array_are_named_by_their_type(vae, latents, error, name) -> None:
    with pytest.raises(error, match=f"^latents: expected an array of numbers or an Encoded, got {name}: "):
        vae.decode(latents)


@pytest.mark.parametrize("url", ["localhost:9000", "127.0.0.1:8000", "ftp://localhost", ""])
def test_an_address_without_http_is_refused(url):
    with pytest.raises(ValueError, match="expected an address such as http://localhost:8000, got "):
        Client(url)


@pytest.mark.parametrize("mode", ["linear", "slerp"])
def test_images_and_latents_are_interpolated(vae: Client, digits: np.ndarray, mode: str) -> None:
    encoded = vae.encode(digits[:2, 0])
    by_images = vae.interpolate(digits[:2, 0], steps=4, mode=mode)
    assert by_images.shape == (4, 8, 8, 1)
    for ends in (encoded, encoded.mean, torch.from_numpy(encoded.mean), [Image.fromarray(d[0]) for d in digits[:2]]):
        np.testing.assert_allclose(vae.interpolate(ends, steps=4, mode=mode).astype(int), by_images, atol=1)


def test_other_than_two_ends_are_not_sent(vae: Client, digits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="ends: expected two images or two latents, got 3"):
        vae.interpolate(digits[:3, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"max_items": 0}, ValueError, "max_items: expected an integer of at least 1, got 0"),
        ({"max_items": -3}, ValueError, "max_items: expected an integer of at least 1, got -3"),
        ({"max_bytes": 0}, ValueError, "max_bytes: expected an integer of at least 1, got 0"),
        ({"max_response_bytes": 0}, ValueError, "max_response_bytes: expected an integer of at least 1, got 0"),
        ({"concurrency": 0}, ValueError, "concurrency: expected an integer of at least 1, got 0"),
        ({"concurrency": 2.5}, TypeError, "concurrency: expected an integer, got float"),
        ({"retries": -1}, ValueError, "retries: expected an integer of at least 0, got -1"),
        ({"retries": True}, TypeError, "retries: expected an integer, got bool"),
        ({"timeout": -1}, ValueError, "timeout: expected a number of seconds above 0, or None, got -1"),
        ({"timeout": np.inf}, ValueError, "timeout: expected a number of seconds above 0, or None, got inf"),
        ({"timeout": "a"}, TypeError, "timeout: expected a number of seconds above 0, or None, got str"),
        ({"url": 5}, ValueError, "url: expected an address such as http://localhost:8000, got 5"),
    ],
)
def test_a_client_that_could_not_work_is_refused(arguments: dict[str, Any], error: type, reason: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(error, match=f"^{re.escape(reason)}$"):
            kind(**{"url": "http://vae", **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"size": 3}, TypeError, "size: expected a height and a width in pixels, got 3"),
        ({"size": (3, "a")}, TypeError, "size[1]: expected an integer, got str"),
        ({"progress": "yes"}, TypeError, "progress: expected a function or None, got str"),
        ({"timeout": 0}, ValueError, "timeout: expected a number of seconds above 0, or None, got 0"),
        ({"timeout": "a"}, TypeError, "timeout: expected a number of seconds above 0, or None, got str"),
    ],
)
@pytest.mark.anyio
async def test_a_call_that_could_not_work_is_not_sent(arguments: dict[str, Any], error: type, reason: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(error, match=f"^{re.escape(reason)}$"):
        client.encode(GREY, **arguments)
    async with AsyncClient("http://127.0.0.1:1") as client:
        with pytest.raises(error, match=f"^{re.escape(reason)}$"):
            await client.encode(GREY, **arguments)
