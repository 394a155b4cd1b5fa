"""Every knob of the service, read once: the options of `vae serve` over the VAE_* variables over the defaults."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.validation import expectation, place

PREFIX = "VAE_"
DEFAULT_MODEL = Path(__file__).parent.parent / "model" / "checkpoints" / "mnist"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lambda name: str(name).lower())]

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request and of all requests together."""

    max_items: int
    max_body_bytes: int
    max_memory_bytes: int
    max_image_pixels: int
    max_connections: int
    request_timeout_s: float


class SettingsError(ValueError):
    """Settings that cannot be served with; the message is one line that names each and what was expected of it."""


class Settings(BaseSettings):
    """Serve a model over HTTP. Each option is also a variable, VAE_ and its name: VAE_MAX_BATCH_SIZE."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # among it are keys
        cli_prog_name="vae serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    model: Path = Field(DEFAULT_MODEL, description="folder of the model: config.json and model.safetensors")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of one batch; 0 takes all cores but one, or a worker's share"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="float32, or bfloat16: half the digits, and faster where the processor has it"
    )
    runtime: Literal["auto", "torch", "onnxruntime", "mnn"] = Field(
        "auto",
        description="what computes the networks; auto takes the soonest: on a CPU, for float32, ONNX Runtime or MNN",
    )
    workers: int = Field(0, ge=0, le=64, description="serving processes; 0 takes one a core, at most 4")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")

    max_batch_size: int = Field(
        0,
        ge=0,
        le=4096,
        description="most images in one batch; 0 takes 64 on a CPU and 256 on a GPU, fewer where that takes too long",
    )
    max_batch_delay_ms: float = Field(0, ge=0, le=10_000, description="how long a batch waits for company")
    batch_invariant: bool = Field(
        False, description="answers whose bytes never depend on the load; free but for large models"
    )
    max_queue_items: Count = Field(8192, description="images that may wait; beyond them 429")
    max_items: Count = Field(4096, description="images (times draws) in one request; beyond them 413")
    max_body_bytes: Count = Field(
        32 * 2**20,
        description="bytes of one request's body, beyond them 413; 16 times as many of all, beyond them 503",
    )
    max_memory_bytes: Count = Field(
        2**28,
        description="bytes that one request's pixels, latents and response take, beyond them 413; twice as many of all",
    )
    max_image_pixels: Count = Field(2**24, description="pixels of one picture before it is fitted; beyond them 413")
    max_connections: Count = Field(4096, description="open connections; beyond them the longest idle is closed, or 503")
    request_timeout_s: Seconds = Field(30, description="deadline of a request; beyond it 504")
    graceful_timeout_s: Seconds = Field(30, description="how long accepted work may take after SIGTERM")

    api_key: SecretStr | None = Field(None, description="keys that callers must send as a bearer, comma-separated")
    api_key_file: FilePath | None = Field(None, description="file with one such key a line")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field((), description="origins of browsers, comma-separated")

    log_level: Level = Field("info", description="least severity that is logged")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json: an object a line; text: lines for people; auto: text on a terminal, else json"
    )

    @field_validator("host", mode="before")
    @classmethod
    def _an_empty_host_is_the_default(cls, host: object) -> object:
        return cls.model_fields["host"].default if isinstance(host, str) and not host.strip() else host

    @model_validator(mode="before")
    @classmethod
    def _split_origins(cls, values: dict[str, object]) -> dict[str, object]:
        origins = values.get("cors_origins")
        if isinstance(origins, str):
            values["cors_origins"] = tuple(origin.strip() for origin in origins.split(",") if origin.strip())
        return values

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.max_items > self.max_queue_items:
            msg = f"max_items ({self.max_items}) must not exceed max_queue_items ({self.max_queue_items})"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _locked_where_a_lock_was_asked_for(self) -> Self:
        if self.api_key_file and not self.keys():
            msg = "api_key_file: expected a key a line, the file holds none"
            raise ValueError(msg)
        if self.api_key is not None and not self.keys():
            msg = "api_key: expected a key, it holds none; where nobody needs a key, leave it out"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _origins_are_such_as_browsers_send(self) -> Self:
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                msg = f"cors_origins: expected * or origins such as https://lab.example, got {origin!r}"
                raise ValueError(msg)
        return self

    @property
    def limits(self) -> Limits:
        """The limits that apply to requests."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    def keys(self) -> tuple[bytes, ...]:
        """The keys that callers may send, from both sources; none means that the service is open."""
        inline = self.api_key.get_secret_value().split(",") if self.api_key else []
        filed = self.api_key_file.read_text().splitlines() if self.api_key_file else []
        return tuple(key.strip().encode() for key in (*inline, *filed) if key.strip())


def read_settings(options: list[str]) -> Settings:
    """The settings of a command line; ends the process for --help and for an unknown option, as argparse does."""
    try:
        return Settings(_cli_parse_args=options)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_told, error.errors()))) from None


def strange_variables(environment: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable that looks like a setting and is none, so that a typing error is told."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = get_close_matches(name.upper(), known, 1)
            yield f"{name} is no setting" + (f"; is {close[0]} meant?" if close else "")


def _told(found: Any) -> str:
    if not found["loc"]:
        return expectation(found["msg"])
    field, expected = place(found["loc"]), expectation(found["msg"])
    if found["type"] == "string_pattern_mismatch":
        expected = f"expected {Settings.model_fields[field].description}"
    return f"{field}: {expected}" + ("" if field == "api_key" else f", got {found['input']!r}")
