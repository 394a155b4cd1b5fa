"""Autoencoders of diffusers are converted to pairs of ONNX graphs that compute the same."""

import pytest
import torch

from model.formats import read_model
from model.formats.onnx.conversion import convert
from model.formats.onnx.exporter import ExportError
from tests.support.cli_runner import refusal, vae
from tests.support.diffusers_models import DETERMINISTIC, write


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl16", "tiny"])
@torch.inference_mode()
def test_a_pair_computes_what_its_autoencoder_computes(tmp_path, name):
    model = read_model(write(tmp_path / name, name)).model
    spec = convert(model, tmp_path / "pair")
    pair = read_model(tmp_path / "pair").model
    assert pair.spec == spec
    assert (spec.sizes, spec.scaling, spec.image_shape) == (
        model.spec.sizes,
        model.spec.scaling,
        model.spec.image_shape,
    )
    assert (spec.has_prior, spec.has_variance) == (False, name not in DETERMINISTIC)
    side = 2 * spec.sizes.factor
    x, z = torch.rand(3, 3, 2 * side, 3 * side), torch.randn(3, spec.sizes.latent_channels, 4, 6)
    q, expected = pair.posterior(x), model.posterior(x)
    torch.testing.assert_close(q.mean, expected.mean, atol=1e-4, rtol=1e-4)
    if q.logvar is not None:
        torch.testing.assert_close(q.logvar, expected.logvar, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pair.likelihood(z).mean, model.likelihood(z).mean, atol=1e-4, rtol=1e-4)


def test_a_model_that_no_config_of_a_pair_describes_is_refused(tmp_path, digits_model):
    with pytest.raises(ExportError, match="expected an autoencoder of diffusers, got a model in the format native"):
        convert(read_model(digits_model).model, tmp_path / "pair")
    with pytest.raises(ExportError, match="units of patches of latents"):
        convert(read_model(write(tmp_path / "flux2", "flux2")).model, tmp_path / "pair")
    assert "expected a new or empty folder" in refusal(vae("export", tmp_path, "--model", digits_model))
    assert not (tmp_path / "pair").exists()
