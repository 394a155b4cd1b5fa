"""Errors of the service, and responses that are not those of the service, in the client."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from vae_client import AsyncClient, Client, Problem

from tests.support.in_thread_server import listening


@pytest.fixture(scope="module")
def url(digits_model: Path) -> Iterator[str]:
    with listening(model=digits_model) as address:
        yield address


@pytest.mark.anyio
async def test_an_error_of_a_part_names_the_image_of_the_call_and_its_path(
    url: str, png: bytes, tmp_path: Path
) -> None:
    broken, digit = tmp_path / "broken.png", tmp_path / "digit.png"
    broken.write_bytes(b"no image")
    digit.write_bytes(png)
    reason = re.escape(f"images[9] ({broken}): expected PNG")
    with Client(url, retries=20, max_items=4) as client:
        for call in (client.encode, client.reconstruct):
            with pytest.raises(Problem, match=reason):
                call([digit] * 9 + [broken])
        with pytest.raises(Problem, match=reason):
            client.score([digit] * 9 + [broken], samples=1)
        with pytest.raises(Problem, match=re.escape("images[9]: expected PNG")):
            client.encode([png] * 9 + [b"no image"])
        with pytest.raises(Problem, match=re.escape(f"images[1] ({broken}): expected PNG")):
            client.interpolate([digit, broken])
    async with AsyncClient(url, retries=20, max_items=4) as client:
        with pytest.raises(Problem, match=reason):
            await client.encode([digit] * 9 + [broken])


def test_an_error_of_a_part_names_the_latent_of_the_call(url: str) -> None:
    latents = np.zeros((12, 4))
    latents[9, 2] = np.nan
    with Client(url, retries=20, max_items=4) as client:
        with pytest.raises(Problem, match=re.escape("latents[9][2]: expected a finite number")):
            client.decode(latents)
        with pytest.raises(Problem, match=re.escape("latents[2][1][2]: expected a finite number")):
            client.decode(latents.reshape(3, 4, 4))


def test_an_error_of_a_half_names_the_image_of_the_call(digits_model, png) -> None:
    reason = re.escape("images[9]: expected PNG")
    with (
        listening(model=digits_model, max_items=3) as address,
        Client(address, retries=20) as client,
        pytest.raises(Problem, match=reason),
    ):
        client.encode([png] * 9 + [b"no image"])
