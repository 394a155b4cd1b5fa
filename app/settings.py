"""Settings of the service: options of `vae serve`, then VAE_* environment variables, then defaults."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.validation import expectation
from model.errors import UserError

PREFIX = "VAE_"
DEFAULT_MODEL = Path(__file__).parent.parent / "model" / "checkpoints" / "mnist"

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lambda name: str(name).lower())]

_SIZE = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")
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


class SettingsError(UserError):
    """Invalid settings; the message is one line that names each of them and what was expected."""


class Settings(BaseSettings):
    """Settings of the service. Each field is an option of `vae serve` and a variable: VAE_MAX_BATCH_SIZE."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # the input may contain API keys
    )

    model: Path = Field(
        DEFAULT_MODEL,
        description="folder of the model, name of a shipped one such as mnist, or a name on the Hugging Face hub: "
        "hf:ORG/NAME[@REVISION][/SUBFOLDER]",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of one batch; 0: automatic")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="float32; bfloat16: lower precision, faster on CPUs with AVX512-BF16 or AMX; float16: on a GPU, "
        "except for a model that overflows in it",
    )
    runtime: Literal["auto", "torch", "onnxruntime", "mnn"] = Field(
        "auto",
        description="library that computes the networks; auto picks the fastest one on this machine",
    )
    workers: int = Field(0, ge=0, le=64, description="serving processes; 0: one for each core, at most 4")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0: a free port")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$",
        description="a path prefix below which a proxy has the service, such as /models/vae: a slash at its start, "
        "none at its end",
    )
    page: bool = Field(True, description="serve the web page at /; otherwise / redirects to /docs")

    max_batch_size: int = Field(
        0,
        ge=0,
        le=4096,
        description="maximum number of images in one batch; 0: 64 on a CPU, 256 on a GPU, fewer if that takes too long",
    )
    max_batch_delay_ms: float = Field(
        0, ge=0, le=10_000, description="maximum time a batch waits for more images; 0 dispatches at once"
    )
    warm_sizes: Annotated[tuple[tuple[int, int], ...], NoDecode] = Field(
        (),
        description="image sizes that are warmed up, of a model of many sizes: 512x512,768x512 as width x height; "
        "by default the one of its config, at most 512",
    )
    batch_invariant: bool = Field(
        False, description="the bytes of a response never depend on the load; costs time with large models only"
    )
    max_queue_items: Count = Field(8192, description="images in the queue; beyond them 429")
    max_items: Count = Field(4096, description="images (times draws) in one request; beyond them 413")
    max_body_bytes: Count = Field(
        32 * 2**20,
        description="bytes of one request's body, beyond them 413; 16 times as many of all requests, beyond them 503",
    )
    max_memory_bytes: Count = Field(
        2**28,
        description="bytes of one request's pixels, latents and response, beyond them 413; twice as many of all, "
        "beyond them 503",
    )
    max_image_pixels: Count = Field(
        2**24, description="pixels of one image file before it is fitted to the model; beyond them 413"
    )
    max_connections: Count = Field(
        4096,
        description="open connections; beyond them the one that is idle for longest is closed; without an idle one 503",
    )
    request_timeout_s: Seconds = Field(30, description="deadline of a request; beyond it 504")
    graceful_timeout_s: Seconds = Field(30, description="time in which requests in flight may finish after SIGTERM")

    api_key: SecretStr | None = Field(
        None, description="API keys, comma-separated; clients send one as Authorization: Bearer KEY"
    )
    api_key_file: FilePath | None = Field(None, description="file with one API key in each line")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of web pages that may call the service, comma-separated"
    )

    log_level: Level = Field("info", description="lowest severity that is logged")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json: one object in each line; text: plain lines; auto: text on a terminal, otherwise json"
    )

    @field_validator("host", mode="before")
    @classmethod
    def _default_for_empty_host(cls, host: object) -> object:
        return cls.model_fields["host"].default if isinstance(host, str) and not host.strip() else host

    @field_validator("warm_sizes", mode="before")
    @classmethod
    def _parse_sizes(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        sizes = [part.strip() for part in value.split(",") if part.strip()]
        for size in sizes:
            if not _SIZE.fullmatch(size):
                msg = f"expected sizes such as 512x512,768x512, got {size!r}"
                raise ValueError(msg)
        return tuple((int(height), int(width)) for width, height in (size.split("x") for size in sizes))

    @model_validator(mode="before")
    @classmethod
    def _split_origins(cls, values: dict[str, object]) -> dict[str, object]:
        origins = values.get("cors_origins")
        if isinstance(origins, str):
            values["cors_origins"] = tuple(origin.strip() for origin in origins.split(",") if origin.strip())
        return values

    @model_validator(mode="after")
    def _require_consistent_limits(self) -> Self:
        if self.max_items > self.max_queue_items:
            msg = f"max_items ({self.max_items}) must not exceed max_queue_items ({self.max_queue_items})"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _require_keys(self) -> Self:
        if self.api_key_file and not self.keys():
            msg = "api_key_file: expected a key in each line, the file has none"
            raise ValueError(msg)
        if self.api_key is not None and not self.keys():
            msg = "api_key: expected a key, got none; leave the setting out for a service without keys"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _validate_origins(self) -> Self:
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
        """Return the API keys from both settings; without any the service is open."""
        inline = self.api_key.get_secret_value().split(",") if self.api_key else []
        return tuple(key.strip().encode() for key in (*inline, *self._lines_of_key_file()) if key.strip())

    def _lines_of_key_file(self) -> list[str]:
        try:
            return self.api_key_file.read_text().splitlines() if self.api_key_file else []
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"api_key_file: {self.api_key_file}: {error}") from None


def read_settings(options: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Read the settings from options by the name of their field, then from variables."""
    try:
        return Settings(**options)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(fault, options) for fault in error.errors())) from None


def option_of(name: str) -> str:
    """Return the option of a field: --max-batch-size."""
    return f"--{name.replace('_', '-')}"


def variable_of(name: str) -> str:
    """Return the environment variable of a field: VAE_MAX_BATCH_SIZE."""
    return f"{PREFIX}{name.upper()}"


MIN_KEY_LENGTH = 16
"""Characters of an API key below which a warning is logged."""


def short_keys(settings: Settings) -> Iterator[str]:
    """Yield a warning if an API key is short: it is easy to guess, and redacted wherever its text occurs in the log."""
    shortest = min(map(len, settings.keys()), default=MIN_KEY_LENGTH)
    if shortest < MIN_KEY_LENGTH:
        yield (
            f"an API key has {shortest} characters, and its text is replaced wherever it occurs in the log; "
            f"expected a random key of at least {MIN_KEY_LENGTH}"
        )


def unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each environment variable with the prefix that is not a setting."""
    known = [*map(variable_of, Settings.model_fields)]
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = get_close_matches(name.upper(), known, 1)
            yield f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else "")


def _describe(error: ErrorDetails, options: Container[str]) -> str:
    expected = expectation(error)
    if not error["loc"]:
        return expected
    name = str(error["loc"][0])
    if error["type"] == "string_pattern_mismatch":
        expected = f"expected {Settings.model_fields[name].description}"
    if name == "api_key":
        return f"{name}: {expected}"
    source = option_of(name) if name in options else variable_of(name)
    return f"{name}: {expected}, got {error['input']!r} from {source}"
