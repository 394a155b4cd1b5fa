"""Hypothesis strategies for architectures."""

from dataclasses import replace

from hypothesis import strategies as st

from model.config import POSTERIORS, VAEConfig
from model.likelihoods import FAMILIES


def counts(most, max_size):
    return st.lists(st.integers(1, most), max_size=max_size).map(tuple)


@st.composite
def configs(draw):
    """Small architectures of every kind: MLP or convolutions, stride 1 or 2, a latent with or without a place."""
    sides = st.integers(1, 11)
    channels = draw(counts(4, 3))
    config = VAEConfig(
        image_shape=(draw(st.sampled_from([1, 3])), draw(sides), draw(sides)),
        latent_shape=(draw(st.integers(1, 4)),),
        stride=draw(st.sampled_from([1, 2])),
        channels=channels,
        blocks=tuple(draw(st.integers(0, 2)) for _ in channels),
        hidden=draw(counts(6, 2)),
        likelihood=draw(st.sampled_from(sorted(FAMILIES))),
        scale=draw(st.floats(0.01, 10)),
        posterior=draw(st.sampled_from(POSTERIORS)),
    )
    if not draw(st.booleans()):
        return config
    place = config.features[1:] if channels and not config.hidden else (draw(sides), draw(sides))
    return replace(config, latent_shape=(*config.latent_shape, *place))
