"""Models on the Hugging Face hub, `hf:ORG/NAME[@REVISION][/SUBFOLDER]`: a name in, a folder in its cache out.

`huggingface_hub` downloads: its cache, token, offline mode and `HF_ENDPOINT` work as its users know them. Only
safetensors, JSON and ONNX files of one autoencoder are fetched. Needs the extra `diffusers`.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from model.files import CONFIG, WEIGHTS, CheckpointError
from model.formats.diffusers_files import PIPELINE, STEM, SUBFOLDER
from model.formats.onnx_files import OPTIMUM_PAIR, PAIR

PREFIX = "hf:"

_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^@/]+))?(/(?P<subfolder>[^@]+))?")
_VARIANT = re.compile(rf"{STEM}(\.safetensors\.index)?(\.(?P<variant>[\w-]+?))?(-\d+-of-\d+)?(\.safetensors|\.json)")

_WEIGHTS_OF_GRAPH = r"([._](data|weights?)([._-]?\d+)?)?"
"""End of the name of a file with weights behind that of its graph: `model.onnx_data`, `encoder.onnx.data`."""

COMMIT_DIGITS = 12
"""Digits of a commit in the name of a model."""


@dataclass(frozen=True, slots=True)
class HubName:
    """The name of a model on the hub: a repository `ORG/NAME`, a revision, and a folder in it, empty for the root."""

    repository: str
    revision: str
    subfolder: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Parse `hf:ORG/NAME[@REVISION][/SUBFOLDER]`; a slash in a revision is `%2F`. Raises `CheckpointError`."""
        found = _NAME.fullmatch(text.rstrip("/"))
        parts = (found["subfolder"] or "").split("/") if found else []
        if not found or ".." in parts or "." in parts:
            raise CheckpointError(f"expected a name on the hub like hf:ORG/NAME[@REVISION][/SUBFOLDER], got {text!r}")
        return cls(found["repository"], unquote(found["revision"] or "main"), found["subfolder"] or "")

    @property
    def short(self) -> str:
        """The repository and the revision, of which the digits of a commit are cut."""
        return f"{self.repository}@{self.revision[:COMMIT_DIGITS]}"

    def __str__(self) -> str:
        folder = f"/{self.subfolder}" if self.subfolder else ""
        return f"{PREFIX}{self.repository}@{self.revision}{folder}"


class Snapshot(NamedTuple):
    """The files of one commit: the folder with the model, and the folder of the cache that its links lead to.

    `name` has the commit as its revision.
    """

    folder: Path
    root: Path
    name: HubName


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub at an endpoint, and the folder of its cache; both are those of `huggingface_hub` by default."""

    endpoint: str | None = None
    cache: Path | None = None

    def fetch(self, name: HubName) -> Snapshot:
        """Download the files of a model that the cache lacks, with a progress bar on a terminal.

        Without a connection the cache has to have them. Raises `CheckpointError` that names the reason.
        """
        library = _library()
        try:
            info = library.HfApi(endpoint=self.endpoint).model_info(name.repository, revision=name.revision)
        except Exception as failure:  # noqa: BLE001  # of the HTTP library, which depends on the version
            return self._cached(name, failure)
        wanted = wanted_files(name, [file.rfilename for file in info.siblings or ()])
        try:
            path = self._snapshot(name, allow_patterns=[_escaped(file) for file in wanted])
        except Exception as failure:  # noqa: BLE001  # as above
            raise CheckpointError(f"{name}: {_reason(failure)}") from None
        return _snapshot(name, path)

    def _cached(self, name: HubName, failure: Exception) -> Snapshot:
        errors = _library().errors
        refused = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError)
        if not isinstance(failure, refused):
            try:
                return _snapshot(name, self._snapshot(name, allow_patterns=[], local_files_only=True))
            except Exception:  # noqa: BLE001, S110  # the first failure is the reason
                pass
            raise CheckpointError(f"{name}: {_reason(failure)}, and the cache does not have it") from None
        raise CheckpointError(f"{name}: {_reason(failure)}") from None

    def _snapshot(self, name: HubName, **options: Any) -> Path:
        download = _library().snapshot_download
        place = {"endpoint": self.endpoint, "cache_dir": self.cache}
        return Path(download(name.repository, revision=name.revision, **place, **options))


DEFAULT_HUB = Hub()
"""The hub of huggingface_hub's environment variables."""


def is_hub_name(source: Path) -> bool:
    """Whether a model is named by its place on the hub."""
    return source.as_posix().startswith(PREFIX)


def wanted_files(name: HubName, listing: Sequence[str]) -> list[str]:
    """Return the files of a repository that a model needs, of the first format that is complete.

    Weights without a variant are preferred, fp16 else. Raises `CheckpointError` for a repository without a model.
    """
    prefix = f"{name.subfolder}/" if name.subfolder else ""
    files = [file.removeprefix(prefix) for file in listing if file.startswith(prefix)]
    for found in (_pair(files), _weights(files, ""), _pipeline(files), _optimum(files), _native(files)):
        if found:
            return [prefix + file for file in found]
    shown = ", ".join(files[:8]) or "no files"
    raise CheckpointError(
        f"{name}: holds {shown}{', ...' if len(files) > 8 else ''}; expected a model in safetensors or ONNX files"
    )


def _weights(files: Iterable[str], folder: str) -> list[str]:
    """Return the config of a diffusers autoencoder and the weights of one variant, none if either is missing."""
    variants: dict[str, list[str]] = {}
    for file in files:
        found = _VARIANT.fullmatch(file.removeprefix(folder)) if file.startswith(folder) else None
        if found:
            variants.setdefault(found["variant"] or "", []).append(file)
    if folder + CONFIG not in files or not variants:
        return []
    preferred = next((variant for variant in ("", "fp16") if variant in variants), min(variants))
    return [folder + CONFIG, *variants[preferred]]


def _pipeline(files: Sequence[str]) -> list[str]:
    weights = _weights(files, f"{SUBFOLDER}/")
    return [*weights, *({PIPELINE} & {*files})] if weights else []


def _pair(files: Sequence[str]) -> list[str]:
    return _graphs(files, PAIR, [CONFIG])


def _optimum(files: Sequence[str]) -> list[str]:
    return _graphs(files, OPTIMUM_PAIR, [f"{name.partition('/')[0]}/{CONFIG}" for name in OPTIMUM_PAIR])


def _graphs(files: Sequence[str], names: tuple[str, str], configs: Sequence[str]) -> list[str]:
    """Return two graphs with the files of their weights, which are named after them, and their configs."""
    if not {*names} <= {*files}:
        return []
    wanted = re.compile(f"({'|'.join(map(re.escape, names))}){_WEIGHTS_OF_GRAPH}")
    return [file for file in files if file in configs or wanted.fullmatch(file)]


def _native(files: Sequence[str]) -> list[str]:
    return [file for file in files if file in (CONFIG, WEIGHTS, "metrics.json")] if WEIGHTS in files else []


def _snapshot(name: HubName, path: Path) -> Snapshot:
    folder = path / name.subfolder
    if not folder.is_dir():
        raise CheckpointError(f"{name}: the repository has no folder {name.subfolder}")
    return Snapshot(folder, path.parent.parent.resolve(), replace(name, revision=path.name))


def _escaped(file: str) -> str:
    """Return a pattern that matches a file of this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", file)


def _library() -> Any:
    """Import huggingface_hub; its progress bars are for terminals, not for logs."""
    try:
        import huggingface_hub  # noqa: PLC0415  # an extra, and slow to import
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise CheckpointError("huggingface_hub is not installed; pip install 'vae-service[diffusers]'") from None
    library: Any = huggingface_hub
    if not sys.stderr.isatty():
        library.utils.disable_progress_bars()
    return library


def _reason(failure: Exception) -> str:
    """Return why the hub refuses a name or cannot be reached, in one line."""
    errors = _library().errors
    reasons = (
        (errors.GatedRepoError, "its conditions must be accepted on the hub, with the token of HF_TOKEN"),
        (errors.RepositoryNotFoundError, "the hub has no such repository, or not for the token of HF_TOKEN"),
        (errors.RevisionNotFoundError, "the repository has no such revision"),
        (errors.OfflineModeIsEnabled, "the hub is offline by HF_HUB_OFFLINE"),
    )
    for kind, reason in reasons:
        if isinstance(failure, kind):
            return reason
    line = " ".join(str(failure).split("\n", 1)[0].split())
    return f"the hub cannot be reached: {line or type(failure).__name__}"
