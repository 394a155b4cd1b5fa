"""JSON schemas of request and response bodies, with examples for the OpenAPI document."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, FailFast, Field, Tag

EXAMPLE_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAwAAAAMCAAAAABzHgM7AAAANUlEQVR42nXNQQrAMAwDwXHI/7+sHBLTlpI9GCRZiB8JGBDSIsfY"
    "iarnrbmLqdsnKX3eox8WPkMJDs0cPvkAAAAASUVORK5CYII="
)
"""A PNG file in base64, the digit zero in 12 x 12 pixels: the example that /docs sends."""


class Schema(BaseModel):
    """Base of all schemas: unknown fields are refused, so that typing errors are reported."""

    model_config = ConfigDict(extra="forbid")


def _depth(value: Any) -> str:
    if isinstance(value, dict | str):
        return "posterior" if isinstance(value, dict) else "text"
    return "grid" if isinstance(value, list) and value and isinstance(value[0], list) else "vector"


class _FailFast(FailFast):
    __hash__ = object.__hash__  # pydantic's class has none, and unions of types need it


T = TypeVar("T")
FailFastList = Annotated[list[T], _FailFast()]
"""A list of which only the first invalid item is reported: a client may send a million of them."""

Number = Annotated[float, Field(strict=True)]
Vector = Annotated[FailFastList[Number], Tag("vector")]
Grid = Annotated[FailFastList[FailFastList[FailFastList[Number]]], Tag("grid")]
Text = Annotated[str, Tag("text")]
Values = Annotated[Vector | Grid | Text, Discriminator(_depth)]
"""A latent as numbers, or as little-endian float32 in base64."""


class Posterior(Schema):
    """q(z|x) of one image: N(mean, exp(logvar)), nested lists where the latent is spatial."""

    mean: Values = Field(examples=[[0.4, -1.2]], description="the numbers of a latent, or their base64")
    logvar: Values | None = Field(
        examples=[[-3.1, -2.7]], description="log of the variance; null if the encoder is deterministic"
    )
    z: FailFastList[Values] | None = Field(None, examples=[[[0.5, -1.3]]], description="draws, with ?samples=")


class Latents(Schema):
    """The response of /encode; /decode accepts it unchanged."""

    latents: list[Posterior]
    shape: list[int] = Field(examples=[[2]], description="the shape of one latent")
    model: str = Field(examples=["mnist:0123456789ab"], description="name and digest of the model")
    scaled: bool | None = Field(None, description="true if the latents are in the units of the diffusion model")
    encoding: Literal["base64"] | None = Field(None, description="base64 if latents are float32 in base64")


class LatentsIn(Schema):
    """The latents of a request to /decode: plain values, or posteriors of /encode, of which the means are decoded."""

    latents: FailFastList[
        Annotated[Vector | Grid | Text | Annotated[Posterior, Tag("posterior")], Discriminator(_depth)]
    ] = Field(
        min_length=1,
        examples=[[[0.4, -1.2]]],
        description="an array with the numbers of each latent, their base64, or the posteriors of /encode",
    )
    shape: FailFastList[Annotated[int, Field(strict=True)]] | None = Field(
        None, description="must be the latent shape of the model"
    )
    model: str | None = Field(None, description="name and digest; latents of another model are refused")
    scaled: bool | None = Field(None, description="true for latents in the units of the diffusion model, as ?scaled=")
    encoding: Literal["base64", "float"] | None = Field(None, description="not needed: text is base64")


class Images(Schema):
    """Image files in base64; requests may use line breaks, no padding, the URL alphabet, or `data:` URLs."""

    images: FailFastList[str] = Field(
        min_length=1,
        examples=[[EXAMPLE_PNG]],
        description="an array of PNG, JPEG, WEBP, GIF, TIFF, AVIF or BMP files in base64",
    )


_TYPICALITY = (
    "two-sided p-value in (0, 1] among the images by which the model was calibrated: the share of them that are as "
    "unusual; absent without a calibration, or for images of another size"
)
_ANOMALOUS = "whether the typicality is at most ?alpha="


_BITS = (
    "-elbo in bits per pixel value, lower is better; of a density with the masses of the 8-bit levels in its place, as "
    "vae evaluate computes it"
)


class Score(Schema):
    """How well the model explains one image, in nats, higher is better."""

    elbo: float = Field(examples=[-82.6], description="the lower bound on log p(x): reconstruction - kl")
    reconstruction: float = Field(examples=[-57.4], description="the expected log p(x|z)")
    kl: float = Field(examples=[25.2], description="KL(q(z|x) || p(z)), at least 0")
    bits_per_dim: float = Field(examples=[0.152], description=_BITS)
    percentile: float | None = Field(
        None, examples=[48.2], description="percentage of the evaluated images with an elbo that is not higher"
    )
    log_likelihood: float | None = Field(None, examples=[-79.9], description="importance-weighted, with ?samples=")
    typicality: float | None = Field(None, examples=[0.41], description=_TYPICALITY)
    anomalous: bool | None = Field(None, description=_ANOMALOUS)


class ReconstructionScore(Schema):
    """The score of one image by a model without an ELBO: the error of its reconstruction at the posterior mean."""

    squared_error: float = Field(examples=[0.0021], description="mean squared error of the pixel values in [0, 1]")
    psnr: float | None = Field(examples=[26.8], description="peak signal-to-noise ratio in dB; null without an error")
    kl: float | None = Field(None, description="KL(q(z|x) || N(0, I)) in nats, unless the encoder is deterministic")
    typicality: float | None = Field(None, examples=[0.41], description=_TYPICALITY)
    anomalous: bool | None = Field(None, description=_ANOMALOUS)


class Scores(Schema):
    """The response of /score."""

    scores: list[Score | ReconstructionScore]
    unit: Literal["nats"] = "nats"


class Capability(Schema):
    """Whether the model can do something, and the reason if it cannot."""

    supported: bool
    reason: str | None = None


class ImageSizes(Schema):
    """The sizes of images: multiples of `factor` from `minimum` to `maximum` pixels a side."""

    factor: int
    minimum: int
    maximum: int
    largest_whole: dict[str, int] | None = Field(
        None,
        description="for each operation, the pixels of the largest image for which the device has memory as a whole; "
        "larger ones are computed in tiles, or refused with 413 if the model cannot do that",
    )


class Scaling(Schema):
    """The units of the diffusion model, (z - shift) * scale: one number, or one for each channel.

    With `patch` there is one for each channel and each place in a patch of latents, as [C, *patch].
    """

    scale: list[float]
    shift: list[float]
    patch: list[int] | None = None


class Model(Schema):
    """The served model in short; `GET /model/history` has its training record."""

    model: str = Field(examples=["mnist:0123456789ab"])
    digest: str = Field(description="SHA-256 of the weights' file")
    format: str = Field(examples=["native"], description="format of the model's files")
    source: str = Field(examples=["mnist"], description="where the model was read from")
    image_shape: list[int] = Field(
        examples=[[1, 28, 28]], description="channels, height, width; of a model of many sizes the default"
    )
    image_sizes: ImageSizes | None = Field(None, description="the sizes of images; absent if there is one")
    latent_shape: list[int] = Field(examples=[[32]], description="of an image of that shape")
    scaling: Scaling | None = Field(None, description="the units of ?scaled=true; absent if they are those of z")
    likelihood: str | None = Field(examples=["bernoulli"], description="p(x|z); null if the model defines no density")
    capabilities: dict[str, Capability] = Field(
        description="what else the model can do: `samples` from the posterior, a `sample` from the prior, the `elbo` "
        "of an image, and `tiles` of an image that is too large as a whole"
    )
    parameters: int = Field(description="number of weights")
    device: str = Field(examples=["cpu"])
    precision: str = Field(examples=["float32"], description="number format that the networks compute in")
    runtime: str = Field(examples=["onnxruntime"], description="library that computes the networks")
    batch_invariant: bool = Field(description="whether the bytes of a response are independent of other requests")
    architecture: dict[str, Any] = Field(description="the model's config.json")
    scores: str = Field(description="meaning of the scores of this model")


class History(Schema):
    """How the served model was trained and evaluated."""

    model: str = Field(examples=["mnist:0123456789ab"], description="name and digest of the served model")
    metrics: dict[str, Any] = Field(
        description="the model's metrics.json, if it has one: `training` with its options, data and epochs, "
        "`evaluations`, `inputs` and `reference`; log-probabilities in nats"
    )


class Health(Schema):
    """The response of the probes."""

    status: str = Field(examples=["ready"])
