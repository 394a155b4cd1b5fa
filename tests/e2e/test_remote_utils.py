"""`diffusers.utils.remote_utils`, unmodified, against a running service, beside diffusers with the same weights."""

import asyncio
import io
from functools import cache
from importlib import import_module
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from app.api.remote_vae.images import QUALITY
from tests.support.diffusers_models import build, diffusers, write
from tests.support.live_server import SEVERE, serving

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*do_scaling.*:FutureWarning")]

remote_utils = import_module("diffusers.utils.remote_utils")

MODEL, CHANNELS, SIDE = "kl16", 16, 2
KEY = "a/secret+key"
LEVEL = 2 / 255
"""A grey level of floats in [-1, 1]."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FACTORS = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
SCALINGS = {
    "none": {"do_scaling": False},
    "of the model": {"do_scaling": True},
    "a factor": {"scaling_factor": 0.5},
    "a factor and a shift": {"scaling_factor": 2.0, "shift_factor": -0.25},
}


class Form(NamedTuple):
    """The arguments of `remote_decode` that decide on the form of the answer."""

    output_type: str
    return_type: str
    partial_postprocess: bool = False
    image_format: str = "png"
    processor: Any = None

    def __str__(self) -> str:
        return "-".join(map(str, self[:4])) + ("-processor" if self.processor else "")


PROCESSORS = (diffusers.image_processor.VaeImageProcessor(), diffusers.video_processor.VideoProcessor())
FORMS = [
    *(Form("pil", "pil", partial, kind) for partial, kind in product((False, True), ("png", "jpg"))),
    *(Form("pil", kind, partial, "jpg", PROCESSORS[1]) for kind, partial in product(("pil", "pt"), (False, True))),
    Form("pt", "pil", False, "png", PROCESSORS[0]),
    *(Form("pt", kind, True, "png", processor) for kind, processor in product(("pil", "pt"), (None, PROCESSORS[0]))),
    *(Form("pt", "pt", False, "png", processor) for processor in (None, PROCESSORS[0])),
]


@pytest.fixture(scope="module")
async def service(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("models") / MODEL, MODEL)
    async with serving(folder, api_key=KEY, warm_sizes="64x64", max_batch_size=4) as running:
        yield running
        running.process.terminate()
        assert await running.wait() == 0
        assert await running.messages(*SEVERE) == []  # a client causes no warning
        assert KEY not in (await running.log).decode()


@pytest.fixture(scope="module")
def vae():
    return build(MODEL)


@pytest.fixture(scope="module")
def local(vae):
    """`local(count, dtype, scaling)` are so many latents and the images that diffusers makes of them."""

    @cache
    def pair(count: int, dtype: torch.dtype, scaling: str) -> tuple[torch.Tensor, torch.Tensor]:
        z = latents(count, dtype)
        return z, local_images(vae, z, **SCALINGS[scaling])

    return pair


def url(service, path: str, key: str = "a%2Fsecret%2Bkey") -> str:
    """The address with the key, as the client takes it."""
    return f"http://:{key}@127.0.0.1:{service.port}/diffusers/{path}"


async def decoded(service, tensor: torch.Tensor, path: str = "decode", **options):
    return await asyncio.to_thread(remote_utils.remote_decode, url(service, path), tensor, **options)


async def encoded(service, image, path: str = "encode", **options) -> torch.Tensor:
    return await asyncio.to_thread(remote_utils.remote_encode, url(service, path), image, **options)


def latents(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, CHANNELS, SIDE, SIDE + 2).to(dtype)


def packed(tensor: torch.Tensor) -> torch.Tensor:
    """Latents as the pipelines of Flux pack them: each square of 2 x 2 in a row."""
    count, channels, height, width = tensor.shape
    squares = tensor.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(count, height * width // 4, 4 * channels)


@torch.inference_mode()
def local_images(vae, tensor: torch.Tensor, do_scaling=False, scaling_factor=None, shift_factor=None) -> torch.Tensor:
    """The images that the pipelines of diffusers decode, limited to [-1, 1]."""
    if do_scaling:
        scaling_factor, shift_factor = vae.config.scaling_factor, vae.config.shift_factor
    z = tensor.float() / (scaling_factor or 1) + (shift_factor or 0)
    return vae.decode(z).sample.clamp(-1, 1)


@torch.inference_mode()
def local_latents(vae, images: torch.Tensor, scaling_factor=1.0, shift_factor=0.0) -> torch.Tensor:
    return (vae.encode(images).latent_dist.mean - shift_factor) * scaling_factor


def as_floats(answer, form: Form) -> torch.Tensor:
    """An answer of `remote_decode` as floats in [-1, 1], [N, C, H, W]."""
    if isinstance(answer, torch.Tensor):
        if form.partial_postprocess and form.output_type == "pt":
            return answer.permute(0, 3, 1, 2) / 127.5 - 1
        return answer.float() if form.output_type == "pt" else 2 * answer.float() - 1
    images = answer if isinstance(answer, list) else [answer]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])


def tolerance(form: Form, dtype: torch.dtype) -> float:
    """Images are rounded to grey levels; floats have the digits of their data type."""
    floats = form.return_type == "pt" and not (form.output_type == "pt" and form.partial_postprocess)
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    return 1e-5 + rounding if floats else LEVEL + 1e-6


def side_by_side(images: torch.Tensor) -> torch.Tensor:
    """The grid of a few images in one file."""
    return torch.cat([*images], dim=-1)[None]


LOSSLESS = [form for form in FORMS if form.image_format == "png" or form.processor]
PAIRS = [
    (form, DTYPES[(place + number) % len(DTYPES)], scaling)
    for place, form in enumerate(LOSSLESS)
    for number, scaling in enumerate(SCALINGS)
]
"""Each two of a form, a data type and a scaling together."""


@pytest.mark.parametrize(("form", "dtype", "scaling"), PAIRS, ids=str)
async def test_decoded_images_are_those_of_diffusers(service, local, form, dtype, scaling):
    for count, is_packed in product((1, 2), (False, True)):
        z, expected = local(count, dtype, scaling)
        sides = {"height": 8 * SIDE, "width": 8 * (SIDE + 2)} if is_packed else {}
        tensor = packed(z) if is_packed else z
        answer = await decoded(service, tensor, **SCALINGS[scaling], **sides, **form._asdict())
        if form.output_type == "pil" and not form.processor:
            expected = side_by_side(expected)
        if form.output_type == "pt" and form.return_type == "pil" and not form.partial_postprocess:
            expected = expected[:1]  # the client returns the first image alone
        if isinstance(answer, torch.Tensor):
            assert answer.dtype == (torch.uint8 if form.output_type == "pt" and form.partial_postprocess else dtype)
        found = as_floats(answer, form)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= tolerance(form, dtype)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_jpeg_has_the_pixels_of_the_png(service, count):
    z = latents(count)
    png, jpg = [await decoded(service, z, **FACTORS, image_format=kind) for kind in ("png", "jpg")]
    stream = io.BytesIO()
    png.save(stream, "JPEG", quality=QUALITY)
    assert (png.format, jpg.format) == ("png", "jpeg")
    assert (np.array(jpg) == np.array(Image.open(stream))).all()


GRID = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 48, 64), np.uint8))
"""Images of grey levels, which a tensor of any data type holds."""

ENCODINGS = {"none": {}, "a factor": {"scaling_factor": 0.3611}, "a factor and a shift": FACTORS}


@pytest.mark.parametrize("scaling", ENCODINGS)
@pytest.mark.parametrize("count", [1, 2])
async def test_latents_of_tensors_are_those_of_diffusers(service, vae, scaling, count):
    images = (GRID / 127.5 - 1)[:count]
    expected = local_latents(vae, images, **ENCODINGS[scaling])
    for dtype, tolerance in zip(DTYPES, (1e-5, 1e-3, 1e-2), strict=True):  # the digits of the answer
        found = await encoded(service, images.to(dtype), **ENCODINGS[scaling])
        assert (found.shape, found.dtype) == (expected.shape, dtype)
        assert torch.allclose(found.float(), expected, tolerance, tolerance)
    for levels in (GRID[:count], GRID[:count].permute(0, 2, 3, 1)):
        levels = levels.contiguous()  # noqa: PLW2901  # of others the client sends 32 bytes of freed memory
        found = await encoded(service, levels, **ENCODINGS[scaling])
        assert torch.allclose(found, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("size", [(64, 48), (70, 61)], ids=str)
@pytest.mark.parametrize("scaling", ENCODINGS)
async def test_latents_of_an_image_are_those_of_diffusers(service, vae, scaling, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    found = await encoded(service, image, **ENCODINGS[scaling])
    expected = local_latents(vae, PROCESSORS[0].preprocess(image), **ENCODINGS[scaling])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, 1e-5, 1e-5)


async def test_an_image_survives_both_calls(service, vae):
    z = await encoded(service, GRID / 127.5 - 1, **FACTORS)
    answer = await decoded(service, z, **FACTORS, output_type="pt", return_type="pt", partial_postprocess=True)
    expected = local_images(vae, local_latents(vae, GRID / 127.5 - 1))
    assert (answer.permute(0, 3, 1, 2) / 127.5 - 1 - expected).abs().max() <= LEVEL + 1e-6


async def test_the_path_may_name_the_served_model(service):
    identity = (await service.client.get("/model")).json()["model"]
    z = latents(1)
    for name in (MODEL, identity):
        assert (await decoded(service, z, f"{name}/decode", **FACTORS)).size == (32, 16)
        assert (await encoded(service, GRID[:1], f"{name}/encode")).shape == (1, CHANNELS, 6, 8)


@pytest.mark.parametrize(
    ("call", "status", "detail"),
    [
        (lambda s: decoded(s, latents(1), output_type="mp4", return_type="mp4"), 422, "expected pil or pt, got mp4"),
        (lambda s: decoded(s, latents(1), "other/decode"), 404, "no model 'other' is served; expected 'kl16'"),
        (lambda s: decoded(s, latents(1)[:, :4], **FACTORS), 422, "shape[1:]: expected [16, h, w], got [4, 2, 4]"),
        (lambda s: decoded(s, latents(1).double(), **FACTORS), 422, "dtype: expected 'float16', 'bfloat16'"),
        (lambda s: decoded(s, latents(1).log(), **FACTORS), 422, "expected a finite number, got nan"),
        (lambda s: encoded(s, 255 * torch.rand(1, 3, 48, 64)), 422, "images[0]: expected floats in [-1, 1], got 0"),
        (lambda s: encoded(s, torch.rand(1, 4, 48, 64)), 422, "shape: expected images [N, C, H, W] with C of 1 or 3"),
    ],
)
async def test_the_client_raises_the_problem_that_the_service_answers(service, call, status, detail):
    with pytest.raises(RuntimeError) as raised:
        await call(service)
    (problem,) = raised.value.args
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert problem.keys() == {"type", "title", "status", "detail", "error", "request_id"}


async def test_a_wrong_key_in_the_address_is_refused(service):
    with pytest.raises(RuntimeError) as raised:
        await asyncio.to_thread(remote_utils.remote_decode, url(service, "decode", "wrong"), latents(1), **FACTORS)
    (problem,) = raised.value.args
    assert (problem["status"], problem["title"]) == (401, "Unauthorised")


async def test_requests_are_counted_with_their_dialect(service):
    before = await service.settled_count("vae_requests_total", dialect="diffusers", endpoint="/diffusers/decode")
    await decoded(service, latents(1), **FACTORS)
    labels = {"dialect": "diffusers", "endpoint": "/diffusers/decode", "status": "200"}
    assert await service.settled_count("vae_requests_total", dialect="diffusers", endpoint="/diffusers/decode") == (
        before + 1
    )
    assert await service.count("vae_requests_total", **labels) > 0
