"""The evidence on what to encode of a grey image is what it says: an error of pixels, a divergence of posteriors."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from model.evaluation.input_encoding import compare_inputs
from model.pixels import sample_binary
from tests.support.models import DIGITS, build


def test_of_black_and_white_images_every_input_is_the_same(digits):
    found = compare_inputs(build(DIGITS), np.where(digits[:70] > 127, 255, 0).astype(np.uint8))
    assert found["grey"] == found["threshold"] == found["draw"]
    assert found["grey"].divergence == 0


def test_the_figures_are_their_definitions(digits):
    vae, levels = build(DIGITS), torch.tensor(digits[:40])
    found = compare_inputs(vae, digits[:40], draws=1, seed=5)["grey"]
    with torch.inference_mode():
        p, q = vae.posterior(sample_binary(levels, torch.Generator().manual_seed(5))), vae.posterior(levels / 255)
        kl = kl_divergence(*(Independent(Normal(g.mean, g.std), 1) for g in (p, q)))
        error = (vae.likelihood(q.mean).mean - levels / 255).square().mean().sqrt()
    assert found.divergence == pytest.approx(kl.mean().item(), rel=1e-4)
    assert found.error == pytest.approx(error.item(), rel=1e-4)


def test_a_draw_is_further_from_other_draws_than_their_mean_is(digits):
    found = compare_inputs(build(DIGITS), digits[:200])
    assert found["grey"].divergence < found["draw"].divergence
