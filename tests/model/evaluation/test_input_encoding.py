"""Tests of the comparison of input encodings: reconstruction error and divergence of posteriors."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from model.evaluation.input_encoding import compare_inputs
from model.pixels import sample_binary
from tests.support.models import DIGITS, build


def test_all_encodings_of_binary_images_are_equal(digits):
    found = compare_inputs(build(DIGITS), np.where(digits[:70] > 127, 255, 0).astype(np.uint8))
    assert found.grey == found.threshold == found.draw
    assert found.grey.divergence == 0


def test_error_and_divergence_agree_with_their_definitions(digits):
    vae, levels = build(DIGITS), torch.tensor(digits[:40])
    found = compare_inputs(vae, digits[:40], draws=1, seed=5).grey
    with torch.inference_mode():
        p, q = vae.posterior(sample_binary(levels, torch.Generator().manual_seed(5))), vae.posterior(levels / 255)
        kl = kl_divergence(*(Independent(Normal(g.mean, g.std), 1) for g in (p, q)))
        error = (vae.likelihood(q.mean).mean - levels / 255).square().mean().sqrt()
    assert found.divergence == pytest.approx(kl.mean().item(), rel=1e-4)
    assert found.error == pytest.approx(error.item(), rel=1e-4)


def test_grey_levels_have_a_smaller_divergence_than_one_draw(digits):
    found = compare_inputs(build(DIGITS), digits[:200])
    assert found.grey.divergence < found.draw.divergence
