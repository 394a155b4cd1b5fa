"""The project's own checkpoints, config.json beside model.safetensors, as image models."""

from pathlib import Path

from torch import Tensor

from model.checkpoint import Checkpoint, read_checkpoint
from model.gaussian import DiagonalGaussian
from model.interface import FixedSize, ModelSpec, Origin, StoredModel
from model.likelihoods import Likelihood
from model.vae import VAE

FORMAT = "native"


class NativeModel:
    """A VAE of this project with its spec; runtimes may replace its networks."""

    def __init__(self, vae: VAE, spec: ModelSpec) -> None:
        self.vae = vae
        self.spec = spec

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return self.vae.posterior(x)

    def likelihood(self, z: Tensor) -> Likelihood:
        return self.vae.likelihood(z)


def read(folder: Path, origin: Origin) -> StoredModel:
    """Read a checkpoint. Raises `CheckpointError` as `read_checkpoint` does."""
    checkpoint = read_checkpoint(folder)
    model = model_of(checkpoint.vae, origin.name, checkpoint.digest, checkpoint.parameters, origin.source)
    return StoredModel(model, checkpoint.metrics, checkpoint.warnings)


def native_model(checkpoint: Checkpoint) -> NativeModel:
    """Return the model of a checkpoint."""
    return model_of(checkpoint.vae, checkpoint.name, checkpoint.digest, checkpoint.parameters)


def model_of(vae: VAE, name: str = "", digest: str = "", parameters: int = 0, source: str = "") -> NativeModel:
    """Return the model of a VAE, with the shapes of its architecture; `source` is `name` by default."""
    channels, height, width = vae.config.image_shape
    spec = ModelSpec(
        name=name,
        digest=digest,
        format=FORMAT,
        source=source or name,
        channels=channels,
        sizes=FixedSize((height, width), vae.config.latent_shape),
        likelihood=vae.config.likelihood,
        parameters=parameters,
        architecture=vae.config.as_dict(),
    )
    return NativeModel(vae, spec)
