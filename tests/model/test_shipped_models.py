"""The models that ship: whole, small, and with sane answers for images that are nothing like those of the training."""

import shutil
from math import exp
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.checkpoint import DEFAULT, read_checkpoint
from model.elbo import elbo
from model.evaluation.model_card import write_card
from model.pixels import to_grey_levels, to_unit_interval
from model.vae import VAE

FOLDERS = sorted(path.parent for path in DEFAULT.parent.glob("*/config.json"))
MAX_BYTES = 12 * 10**6
MAX_NATS = 5000.0


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def vae(folder: Path) -> VAE:
    return read_checkpoint(folder).vae.eval()


@pytest.fixture(scope="module")
def samples(vae: VAE) -> Tensor:
    """Images of the model itself, [24, C, H, W], with 256 levels."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return to_unit_interval(to_grey_levels(vae.likelihood(torch.randn(24, *vae.config.latent_shape)).mean))


@torch.inference_mode()
def bounds_of(vae: VAE, images: Tensor) -> Tensor:
    """The ELBO of each image, [N]."""
    noise = torch.randn(4, 1, *vae.config.latent_shape, generator=torch.Generator().manual_seed(1))
    return elbo(vae, images, noise=noise).total


@pytest.fixture(scope="module")
def own_bounds(vae: VAE, samples: Tensor) -> Tensor:
    return bounds_of(vae, samples)


def strange(images: Tensor) -> dict[str, Tensor]:
    half = images.clone()
    half[..., : images.shape[-1] // 2] = 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, images.shape, generator=generator) / 255
    return {
        "inverted": 1 - images,
        "white": torch.ones_like(images[:1]),
        "black": torch.zeros_like(images[:1]),
        "grey": torch.full_like(images[:1], 0.5),
        "noise": noise,
        "black and white noise": noise.round(),
        "half white": half,
    }


KINDS = ["inverted", "white", "black", "grey", "noise", "black and white noise", "half white"]


def test_the_folder_has_the_weights_and_figures_of_one_model(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    assert not checkpoint.warnings
    assert checkpoint.metrics.training is not None
    assert checkpoint.metrics.evaluations
    assert (folder / "README.md").read_text().startswith(f"# {folder.name}: ")
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= MAX_BYTES


def test_the_card_is_the_generated_one_with_its_own_sections(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    assert write_card(copy)
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_posterior_of_a_strange_image_stays_near_the_prior(vae: VAE, samples: Tensor, kind: str) -> None:
    q = vae.posterior(strange(samples)[kind])
    assert q.logvar.exp().max() <= exp(3)
    assert q.mean.abs().max() <= 10
    assert q.kl_to_standard().max() <= MAX_NATS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "half white"])
@torch.inference_mode()
def test_the_reconstruction_of_a_strange_image_is_as_probable_as_images_of_the_model(
    vae: VAE, samples: Tensor, own_bounds: Tensor, kind: str
) -> None:
    """Half a digit beside white is left out: its reconstruction has the strokes that are there, which are no digit."""
    images = strange(samples)[kind]
    reconstructed = vae.likelihood(vae.posterior(images).mean).mean
    assert torch.isfinite(reconstructed).all()
    assert torch.isfinite(bounds_of(vae, images)).all()
    assert bounds_of(vae, reconstructed).median() > 2 * own_bounds.median()
