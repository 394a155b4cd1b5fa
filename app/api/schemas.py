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
    if isinstance(value, dict):
        return "posterior"
    return "grid" if isinstance(value, list) and value and isinstance(value[0], list) else "vector"


class _FailFast(FailFast):
    __hash__ = object.__hash__  # pydantic's class has none, and unions of types need it


T = TypeVar("T")
FailFastList = Annotated[list[T], _FailFast()]
"""A list of which only the first invalid item is reported: a client may send a million of them."""

Number = Annotated[float, Field(strict=True)]
Vector = Annotated[FailFastList[Number], Tag("vector")]
Grid = Annotated[FailFastList[FailFastList[FailFastList[Number]]], Tag("grid")]
Values = Annotated[Vector | Grid, Discriminator(_depth)]


class Posterior(Schema):
    """q(z|x) of one image: N(mean, exp(logvar)), nested lists where the latent is spatial."""

    mean: Values = Field(examples=[[0.4, -1.2]])
    logvar: Values = Field(examples=[[-3.1, -2.7]], description="log of the variance")
    z: FailFastList[Values] | None = Field(None, examples=[[[0.5, -1.3]]], description="draws, with ?samples=")


class Latents(Schema):
    """The response of /encode; /decode accepts it unchanged."""

    latents: list[Posterior]
    shape: list[int] = Field(examples=[[2]], description="the shape of one latent")
    model: str = Field(examples=["mnist:0123456789ab"], description="name and digest of the model")


class LatentsIn(Schema):
    """The latents of a request to /decode: plain values, or posteriors of /encode, of which the means are decoded."""

    latents: FailFastList[Annotated[Vector | Grid | Annotated[Posterior, Tag("posterior")], Discriminator(_depth)]] = (
        Field(min_length=1, examples=[[[0.4, -1.2]]])
    )
    shape: FailFastList[Annotated[int, Field(strict=True)]] | None = Field(
        None, description="must be the latent shape of the model"
    )
    model: str | None = Field(None, description="name and digest; latents of another model are refused")


class Images(Schema):
    """Image files in base64; requests may use line breaks, no padding, the URL alphabet, or `data:` URLs."""

    images: FailFastList[str] = Field(
        min_length=1, examples=[[EXAMPLE_PNG]], description="base64 of PNG, JPEG, WEBP, GIF or BMP files"
    )


class Score(Schema):
    """How well the model explains one image, in nats, higher is better."""

    elbo: float = Field(examples=[-82.6], description="the lower bound on log p(x): reconstruction - kl")
    reconstruction: float = Field(examples=[-57.4], description="the expected log p(x|z)")
    kl: float = Field(examples=[25.2], description="KL(q(z|x) || p(z)), at least 0")
    bits_per_dim: float = Field(examples=[0.152], description="-elbo in bits per pixel value, lower is better")
    percentile: float | None = Field(
        None, examples=[48.2], description="percentage of the evaluated images with an elbo that is not higher"
    )
    log_likelihood: float | None = Field(None, examples=[-79.9], description="importance-weighted, with ?samples=")


class Scores(Schema):
    """The response of /score."""

    scores: list[Score]
    unit: Literal["nats"] = "nats"


class Model(Schema):
    """The served model in short; `GET /model/history` has its training record."""

    model: str = Field(examples=["mnist:0123456789ab"])
    digest: str = Field(description="SHA-256 of the weights' file")
    image_shape: list[int] = Field(examples=[[1, 28, 28]], description="channels, height, width")
    latent_shape: list[int] = Field(examples=[[32]])
    likelihood: str = Field(examples=["bernoulli"])
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
