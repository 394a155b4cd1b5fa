"""The ONNX graph of a network computes what torch does, for every architecture and batch size."""

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from app.runtimes.onnx_export import INPUT, onnx_model
from tests.support.configs import configs
from tests.support.models import build


@settings(max_examples=40)
@given(configs(), st.integers(1, 5))
def test_the_graph_of_every_architecture_computes_what_torch_computes(config, rows):
    vae = build(config)
    for network, shape in ((vae.encoder.network, config.image_shape), (vae.decoder.network, config.latent_shape)):
        model = onnx_model(network, shape)
        x = torch.randn(rows, *shape)
        (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {INPUT: x.numpy()})
        assert_close(torch.from_numpy(y), network(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_layer_without_a_translation_is_named():
    with pytest.raises(TypeError, match="no translation of Dropout to ONNX"):
        onnx_model(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), (2,))
