"""Pairs of ONNX graphs compute what the networks compute that they were made of."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from model.formats import check_model, read_model
from model.interface import FixedSize, ImageModel, MultipleOfFactor
from model.likelihoods import Bernoulli, Gaussian
from tests.support.onnx_pairs import (
    SPATIAL,
    SPATIAL_DECODER,
    SPATIAL_ENCODER,
    VECTOR,
    VECTOR_DECODER,
    VECTOR_ENCODER,
    channels_last,
    graph_of,
    write_graphs,
    write_optimum_pair,
    write_spatial_pair,
    write_vector_pair,
)

pytestmark = pytest.mark.usefixtures("_without_gradients")


@pytest.fixture
def _without_gradients():
    with torch.inference_mode():
        yield


def read(folder: Path) -> ImageModel:
    check_model(folder)
    return read_model(folder).model


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)


def test_a_pair_of_one_size_equals_its_networks(tmp_path):
    model = read(write_vector_pair(tmp_path / "mine"))
    x, z = torch.rand(5, 1, 8, 8), torch.randn(5, 3)
    q = model.posterior(x)
    assert close(torch.cat([q.mean, q.logvar], 1), VECTOR_ENCODER(x))
    assert close(model.likelihood(z).mean, VECTOR_DECODER(z).clamp(0, 1))
    assert model.spec.sizes == FixedSize((8, 8), (3,))
    assert model.spec.parameters == sum(w.numel() for n in (VECTOR_ENCODER, VECTOR_DECODER) for w in n.parameters())
    assert (model.spec.name, model.spec.format, model.spec.has_prior) == ("mine", "onnx", True)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (4, 4)])
def test_a_pair_of_many_sizes_equals_its_networks(tmp_path, size):
    model = read(write_spatial_pair(tmp_path))
    x, z = torch.rand(2, 3, *size), torch.randn(2, *model.spec.sizes.latents_of(*size))
    q = model.posterior(x)
    assert close(torch.cat([q.mean, q.logvar], 1), SPATIAL_ENCODER(2 * x - 1))
    assert close(model.likelihood(z).mean, (SPATIAL_DECODER(z) / 2 + 0.5).clamp(0, 1))


def test_the_layout_of_optimum_takes_sizes_and_scaling_from_the_config_of_the_autoencoder(tmp_path):
    model = read(write_optimum_pair(tmp_path, scaling_factor=0.5, latents_mean=[1.0, 2.0], latents_std=[2.0, 4.0]))
    x = torch.rand(2, 3, 8, 24)
    assert close(model.posterior(x).mean, SPATIAL_ENCODER(2 * x - 1)[:, :2])
    assert isinstance(model.spec.sizes, MultipleOfFactor)
    assert (model.spec.image_shape, model.spec.latent_shape) == ((3, 16, 16), (2, 4, 4))
    assert (model.spec.scaling.scale, model.spec.scaling.shift) == ((0.25, 0.125), (1.0, 2.0))
    assert (model.spec.likelihood, model.spec.has_variance, model.spec.has_prior) == (None, True, False)


def test_an_encoder_of_codes_has_no_variance(tmp_path):
    encoder = graph_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8))
    pair = write_graphs(tmp_path, encoder, graph_of(VECTOR_DECODER, (3,)), **(VECTOR | {"encoder_output": "code"}))
    model = read(pair)
    q = model.posterior(torch.rand(2, 1, 8, 8))
    assert q.logvar is None
    assert not model.spec.has_variance
    assert torch.equal(q.reparameterize(torch.ones_like(q.mean)), q.mean)


def test_channels_are_reversed_where_the_order_is_bgr(tmp_path):
    rgb, bgr = read(write_spatial_pair(tmp_path / "a")), read(write_spatial_pair(tmp_path / "b", channel_order="BGR"))
    x, z = torch.rand(1, 3, 8, 8), torch.randn(1, 2, 2, 2)
    assert torch.equal(bgr.posterior(x).mean, rgb.posterior(x.flip(1)).mean)
    assert torch.equal(bgr.likelihood(z).mean, rgb.likelihood(z).mean.flip(1))
    assert rgb.spec.digest != bgr.spec.digest


def test_graphs_with_channels_last_are_served_like_those_with_channels_first(tmp_path):
    encoder, decoder = channels_last(SPATIAL_ENCODER, ("H", "W", 3)), channels_last(SPATIAL_DECODER, ("h", "w", 2))
    nhwc = read(write_graphs(tmp_path / "a", encoder, decoder, **SPATIAL, layout="NHWC"))
    nchw = read(write_spatial_pair(tmp_path / "b"))
    x, z = torch.rand(2, 3, 8, 12), torch.randn(2, 2, 2, 3)
    assert close(nhwc.posterior(x).mean, nchw.posterior(x).mean)
    assert close(nhwc.likelihood(z).mean, nchw.likelihood(z).mean)


def test_graphs_of_one_row_are_computed_row_by_row(tmp_path):
    encoder = graph_of(VECTOR_ENCODER, VECTOR["image_shape"], batch=1, split=True)
    model = read(write_graphs(tmp_path, encoder, graph_of(VECTOR_DECODER, (3,), batch=1), **VECTOR))
    x, z = torch.rand(3, 1, 8, 8), torch.randn(2, 3, 3)
    assert close(model.posterior(x).mean, VECTOR_ENCODER(x)[:, :3])
    assert close(model.likelihood(z).mean, VECTOR_DECODER(z.flatten(0, 1)).clamp(0, 1).unflatten(0, (2, 3)))


def test_weights_may_be_in_files_next_to_the_graph(tmp_path):
    folder = write_vector_pair(tmp_path)
    expected = read(folder)
    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(folder / name)
        onnx.save(graph, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=128)
    model = read(folder)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.posterior(x).mean, expected.posterior(x).mean)
    assert model.spec.parameters == expected.spec.parameters
    digest = model.spec.digest
    (folder / "decoder.onnx.data").write_bytes(bytes(64) + (folder / "decoder.onnx.data").read_bytes()[64:])
    assert read(folder).spec.digest != digest


@pytest.mark.parametrize(
    ("options", "family"),
    [({"likelihood": "bernoulli"}, Bernoulli), ({"likelihood": "gaussian", "scale": 0.2}, Gaussian)],
)
@pytest.mark.parametrize("decoder_output", ["mean", "logits"])
def test_a_pair_with_a_likelihood_has_its_density(tmp_path, options, family, decoder_output):
    model = read(write_vector_pair(tmp_path, **options, decoder_output=decoder_output))
    x, z = torch.rand(2, 1, 8, 8), torch.randn(4, 2, 3)
    raw = VECTOR_DECODER(z.flatten(0, 1)).unflatten(0, (4, 2))
    logits = raw if decoder_output == "logits" else torch.logit(raw, 1e-7)
    p, expected = model.likelihood(z), family(logits, options.get("scale", 1.0))
    assert close(p.mean, expected.mean)
    assert torch.allclose(p.log_prob(x), expected.log_prob(x), rtol=1e-4)


def test_a_pair_without_a_likelihood_has_no_density(tmp_path):
    model = read(write_spatial_pair(tmp_path))
    with pytest.raises(NotImplementedError):
        model.likelihood(torch.zeros(1, 2, 1, 1)).log_prob(torch.zeros(1, 3, 4, 4))
