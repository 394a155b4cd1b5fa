"""Any two torch modules are exported as a pair of ONNX graphs that computes what they compute."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.config import ConfigError
from model.errors import UserError
from model.formats import read_model
from model.formats.onnx import export
from model.formats.onnx.exporter import ExportError


class ThreeResults(nn.Module):
    """A VAE with one forward, as in many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 8)
        )
        self.decode = nn.Sequential(
            nn.Linear(4, 512), nn.Unflatten(1, (8, 8, 8)), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.encode(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.decode(z), mean, logvar


class Encoder(nn.Module):
    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.vae(x)[1:]


@torch.inference_mode()
def test_a_vae_with_one_forward_is_exported_without_its_draw(tmp_path):
    torch.manual_seed(0)
    vae = ThreeResults()
    spec = export(
        Encoder(vae), vae.decode, tmp_path, image_shape=(3, 16, 16), latent_shape=(4,), likelihood="bernoulli"
    )
    assert vae.training, "the module of the caller stays as it is"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "decoder.onnx", "encoder.onnx"]
    assert str(Path(__file__).parent).encode() not in (tmp_path / "encoder.onnx").read_bytes()
    model, x = read_model(tmp_path).model, torch.rand(5, 3, 16, 16)
    assert (model.spec.digest, model.spec.likelihood) == (spec.digest, "bernoulli")
    _, mean, logvar = vae.eval()(x)
    q = model.posterior(x)
    assert torch.allclose(q.mean, mean, atol=1e-4)
    assert torch.allclose(q.logvar, logvar, atol=1e-4)
    assert torch.allclose(model.likelihood(mean).mean, vae.decode(mean), atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_a_convolutional_autoencoder_is_exported_for_many_sizes(tmp_path):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3, 2, 1))
    decoder = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(2, 1, 3, 1, 1))
    options = {"image_shape": (1, 16, 16), "latent_shape": (2, 4, 4), "factor": 4, "pixel_range": (-1, 1)}
    export(encoder, decoder, tmp_path, **options)
    model, x = read_model(tmp_path).model, torch.rand(2, 1, 8, 28)
    code = encoder(2 * x - 1)
    assert (model.spec.has_variance, model.spec.has_prior) == (False, False)
    assert torch.allclose(model.posterior(x).mean, code, atol=1e-4)
    assert torch.allclose(model.likelihood(code).mean, (decoder(code) / 2 + 0.5).clamp(0, 1), atol=1e-4)


LINEAR_DECODER = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
SHAPES = {"image_shape": (1, 8, 8), "latent_shape": (4,)}


class TwoRows(nn.Module):
    """Computes batches of two rows in another way."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] * (2 if len(x) == 3 else 1)


class Counting(nn.Module):
    """Multiplies by a number that is not a constant, but which is one in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[None] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(None)
        return x.flatten(1)[:, :4] * len(self.calls)


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1)[:, :4]
        return mean + torch.randn_like(mean)


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (
            nn.Flatten(),
            r"encoder: expected \(mean, logvar\) of \(4,\) each, \(8,\) with both, or a code of \(4,\) for an",
        ),
        (nn.Linear(3, 4), r"encoder: fails for an input of \(3, 1, 8, 8\): mat1 and mat2"),
        (nn.Flatten(0), r"encoder: expected tensors of 3 rows for 3 rows, got \(192,\)"),
        pytest.param(TwoRows(), "inferred a static shape of 3", marks=pytest.mark.slow),
        pytest.param(Counting(), "the graph computes other numbers than the module: mean of", marks=pytest.mark.slow),
        pytest.param(Drawing(), "RandomNormalLike draws random numbers without a seed", marks=pytest.mark.slow),
    ],
)
def test_modules_that_are_no_encoder_are_refused_and_change_no_file(tmp_path, encoder, sentence):
    (tmp_path / "encoder.onnx").write_text("an earlier export")
    with pytest.raises(UserError, match=sentence):
        export(encoder, LINEAR_DECODER, tmp_path, **SHAPES)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]


def test_a_decoder_of_other_images_and_an_option_that_does_not_exist_are_refused(tmp_path):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(ExportError, match=r"decoder: expected \(2, 8, 8\) for a latent of \(4,\), got \(1, 8, 8\)"):
        export(encoder, LINEAR_DECODER, tmp_path, **SHAPES, likelihood="logistic", decoder_output="logits")
    with pytest.raises(ConfigError, match="likelihood: expected null or one of"):
        export(encoder, LINEAR_DECODER, tmp_path, **SHAPES, likelihood="poisson")
