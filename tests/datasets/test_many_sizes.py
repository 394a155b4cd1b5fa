"""Data sets of images of many sizes, by autoencoders of diffusers: each at its own size, or at the nearest bucket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from app.datasets.decode import decode_dataset
from app.datasets.decoding import Sizes
from app.datasets.encode import encode_dataset
from app.datasets.latent_encoder import seed_of
from app.datasets.options import EncodeOptions, Hardware
from model.data import latents
from model.errors import UserError
from model.interface import MultipleOfFactor
from tests.support import diffusers_models
from tests.support.image_folders import image
from tests.support.in_thread_server import listening

CPU = Hardware("cpu", threads=1)
SIZES = [(64, 64), (80, 64), (64, 96), (70, 71), (64, 64), (100, 64)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, (width, height) in enumerate(SIZES):
        image(number, width, height).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusers_models.write(tmp_path_factory.mktemp("models") / "kl", "kl")


@pytest.fixture(scope="module")
def service(model: Path) -> Iterator[httpx.Client]:
    settings = {"model": model, "device": "cpu", "threads": 1, "warm_sizes": "64x64", "max_batch_size": 1}
    with listening(**settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        while client.get("/readyz").status_code != 200:
            pass
        yield client


def answers_of(service: httpx.Client, images: Path, queries: list[dict[str, object]]) -> list[np.ndarray]:
    """The answers of the service for each image: mean, logvar and draws."""
    found = []
    for number, query in enumerate(queries):
        answer = service.post("/encode", params=query, content=(images / f"{number}.png").read_bytes())
        found.append(answer.json()["latents"][0])
    return found


def test_latents_are_those_of_the_service_in_batches_of_one_size(images: Path, model: Path, service, tmp_path: Path):
    encode_dataset(images, model, tmp_path / "out", EncodeOptions(scaled=True), CPU)
    answers = answers_of(service, images, [{"scaled": "true"}] * len(SIZES))
    data = latents.open(tmp_path / "out")
    assert data.sizes == [(64, 64), (64, 80), (96, 64), (64, 64), (64, 64), (64, 96)]
    for item, answer in zip(data, answers, strict=True):
        np.testing.assert_allclose(item["mean"], np.float32(answer["mean"]), atol=1e-5)
        np.testing.assert_allclose(item["logvar"], np.float32(answer["logvar"]), atol=1e-5)


def test_draws_are_those_of_the_service_bit_for_bit(images: Path, model: Path, service, tmp_path: Path):
    encode_dataset(images, model, tmp_path / "out", EncodeOptions(samples=1, seed=5), CPU)
    queries = [{"samples": 1, "seed": seed_of(5, f"{number}.png")} for number in range(len(SIZES))]
    answers = answers_of(service, images, queries)
    for item, answer in zip(latents.open(tmp_path / "out"), answers, strict=True):
        for name in ("mean", "logvar", "z"):
            np.testing.assert_array_equal(item[name], np.float32(answer[name]))


def test_images_are_fitted_to_the_nearest_bucket(images: Path, model: Path, tmp_path: Path):
    buckets = ((64, 64), (64, 96), (96, 64))
    encode_dataset(images, model, tmp_path / "out", EncodeOptions(buckets=buckets, fit="crop"), CPU)
    data = latents.open(tmp_path / "out")
    assert data.sizes == [(64, 64), (64, 96), (96, 64), (64, 64), (64, 64), (64, 96)]
    assert data[1]["mean"].shape == (4, 8, 12)
    summary = decode_dataset(tmp_path / "out", model, tmp_path / "decoded", hardware=CPU)
    assert summary.written == len(SIZES)


def test_one_bucket_gives_shards_with_one_tensor(images: Path, model: Path, tmp_path: Path):
    encode_dataset(images, model, tmp_path / "out", EncodeOptions(buckets=((64, 64),)), CPU)
    assert torch.stack([item["mean"] for item in latents.open(tmp_path / "out")]).shape == (len(SIZES), 4, 8, 8)


def test_a_deterministic_encoder_has_means_alone(images: Path, tmp_path: Path):
    tiny = diffusers_models.write(tmp_path / "tiny", "tiny")
    encode_dataset(images, tiny, tmp_path / "out", EncodeOptions(buckets=((64, 64),)), CPU)
    assert set(latents.open(tmp_path / "out")[0]) == {"id", "mean"}
    with pytest.raises(UserError, match=r"samples: .* has a deterministic encoder"):
        encode_dataset(images, tiny, tmp_path / "drawn", EncodeOptions(samples=1), CPU)


def test_a_bucket_that_the_model_does_not_take_is_refused():
    rule = MultipleOfFactor(8, 16, 512, 4)
    with pytest.raises(UserError, match=r"bucket 65x64: width: expected a multiple of 8 from 16 to 512, got 65"):
        Sizes(rule, ((64, 65),))
    assert Sizes(rule, ((64, 64), (128, 128))).of((120, 130)) == (128, 128)
