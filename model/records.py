"""Typed records of metrics.json, which training and evaluation write beside a model.

An entry that lacks a required field, or has one of another type, is left out with a warning. Fields and entries of
other names are kept in `Metrics.entries`, so that files of earlier and later versions can be read.
"""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from model.elbo_percentiles import ElboPercentiles

MAX_DEPTH = 100
MAX_EVALUATIONS = 10_000
MAX_FAULTS = 20
"""Sentences about entries that are left out; of a damaged file there could be one for each entry."""

VERSION = 1
"""Version of metrics.json that is written; a file without a version has this one."""

_TYPES: dict[Any, tuple[Any, str]] = {
    int: (int, "an integer"),
    str: (str, "text"),
    float: (int | float, "a number"),
    float | None: (int | float | None, "a number or null"),
}
"""Types that JSON can have for a field, and their name in error messages."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One training epoch: means over its batches in nats, and the ELBO of the averaged weights on held-out images.

    `objective` and `objective_validation` are the same of the bound that is climbed, None if it is the ELBO.
    """

    epoch: int
    elbo: float
    reconstruction: float
    kl: float
    validation: float | None
    learning_rate: float
    images_per_second: float
    seconds: float
    objective: float | None = None
    objective_validation: float | None = None

    @property
    def climbed_validation(self) -> float | None:
        """The bound that is climbed, of the averaged weights on held-out images."""
        return self.validation if self.objective_validation is None else self.objective_validation


@dataclass(frozen=True, slots=True)
class DataRecord:
    """Training data: its source, its number of images, and their digest."""

    source: str
    train: int
    digest: str


@dataclass(frozen=True, slots=True)
class OptionsRecord:
    """Training options: two that readers rely on, and all values as they were written."""

    binarize: str
    holdout: int
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, where: str, value: Any) -> "OptionsRecord":
        """Read the options at the path `where` of metrics.json. Raises `ValueError`."""
        return cls(**(_arguments(cls, where, value) | {"values": value}))


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """A finished or running training."""

    options: OptionsRecord
    data: DataRecord
    epochs: tuple[EpochRecord, ...]
    seconds: float
    device: str
    torch: str
    command: str
    best_epoch: int = 0

    @property
    def images(self) -> int:
        """Number of images that were trained on."""
        return self.data.train - self.options.holdout

    @property
    def is_binary(self) -> bool:
        """Whether pixels were drawn black or white."""
        return self.options.binarize == "dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Means over `images` images in nats; `log_likelihood` is the bound with `samples` draws.

    `standard_error` is that of `log_likelihood`, None for a single image. With `binarize` "dynamic" pixels were drawn
    black or white once, by `seed`.
    """

    images: int
    samples: int
    elbo: float
    reconstruction: float
    kl: float
    log_likelihood: float
    standard_error: float | None
    bits_per_dim: float
    active_units: int
    units: int
    binarize: str
    seed: int
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord(Evaluation):
    """An evaluation with its data, weights, command and machine; digests are empty in files of early versions."""

    split: str
    digest: str = ""
    weights: str = ""
    command: str
    torch: str = ""
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class InputQuality:
    """Quality of an input encoding: root mean square error in [0, 1], and mean KL divergence in nats."""

    error: float
    divergence: float


@dataclass(frozen=True, slots=True)
class InputComparison:
    """Quality of three encodings of grey images: grey levels, thresholded levels, and one binary draw."""

    grey: InputQuality
    threshold: InputQuality
    draw: InputQuality


@dataclass(frozen=True, slots=True)
class Metrics:
    """Contents of metrics.json: `entries` as JSON has them, and typed records of those that are known."""

    entries: dict[str, Any] = field(default_factory=dict)
    training: TrainingRecord | None = None
    evaluations: tuple[EvaluationRecord, ...] = ()
    inputs: InputComparison | None = None
    reference: ElboPercentiles | None = None

    @property
    def most_images(self) -> int:
        """Number of images of the largest evaluation, 0 without any."""
        reference = self.reference.images if self.reference else None
        return max([reference or 0, *(evaluation.images for evaluation in self.evaluations)])


def read_metrics(content: Any) -> tuple[Metrics, list[str]]:
    """Read the JSON value of metrics.json; return the usable entries and a sentence for each that is left out."""
    if not isinstance(content, dict):
        return Metrics(), [f"expected an object, got {type(content).__name__}; the file is left out"]
    entries: dict[str, Any] = {}
    records: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in content.items():
        try:
            _read_entry(name, value, entries, records, faults)
        except ValueError as error:
            faults.append(f"{error}; {'scores have no percentile' if name == 'reference' else 'the entry is left out'}")
    if (more := len(faults) - MAX_FAULTS) > 0:
        faults[MAX_FAULTS:] = [f"{more:,} more entries are left out"]
    if (version := entries.get("version", VERSION)) != VERSION:
        faults.append(f"version: expected {VERSION}, got {version}; the entries that this release knows are read")
    return Metrics(entries, **records), faults


def read_record(record: type[Record], where: str, value: Any) -> Record:
    """Build a record from a JSON object; a `ValueError` begins with the path `where` of the invalid field."""
    if custom := getattr(record, "from_json", None):
        built: Record = custom(where, value)
        return built
    return record(**_arguments(record, where, value))


def _read_entry(name: str, value: Any, entries: dict[str, Any], records: dict[str, Any], faults: list[str]) -> None:
    """Add an entry of metrics.json to `entries`, and its record to `records`. Raises `ValueError`."""
    if name == "evaluations" and isinstance(value, list):
        entries[name], records[name] = _read_evaluations(value, faults)
        return
    _require_serializable(name, {name: value})
    if name == "reference":
        records[name] = _read_reference(value)
    elif name in _RECORDS:
        records[name] = _convert(name, _RECORDS[name], value)
    elif name in _HEADER:
        _convert(name, _HEADER[name], value)
    entries[name] = value


def _read_evaluations(values: list[Any], faults: list[str]) -> tuple[list[Any], tuple[EvaluationRecord, ...]]:
    """Return the usable evaluations as JSON and as records; one that is not usable does not affect the others."""
    if len(values) > MAX_EVALUATIONS:
        raise ValueError(f"evaluations: expected at most {MAX_EVALUATIONS:,}, got {len(values):,}")
    kept, records = [], []
    for number, value in enumerate(values):
        where = f"evaluations[{number}]"
        try:
            _require_serializable(where, value)
            records.append(read_record(EvaluationRecord, where, value))
            kept.append(value)
        except ValueError as error:
            faults.append(f"{error}; the entry is left out")
    return kept, tuple(records)


def _read_reference(value: Any) -> ElboPercentiles:
    try:
        return ElboPercentiles.from_dict(value)
    except ValueError as error:
        raise ValueError(f"reference: {error}") from None


def _arguments(record: Any, where: str, value: Any) -> dict[str, Any]:
    require_type(where, dict, "an object", value)
    hints, arguments = get_type_hints(record), {}
    for known in fields(record):
        if known.name in value:
            arguments[known.name] = _convert(f"{where}.{known.name}", hints[known.name], value[known.name])
        elif known.default is MISSING and known.default_factory is MISSING:
            raise ValueError(f"{where}.{known.name} is missing")
    return arguments


def _convert(where: str, kind: Any, value: Any) -> Any:
    """Check a JSON value against the type of a field, and convert objects and lists."""
    if is_dataclass(kind):
        return read_record(kind, where, value)  # type: ignore[arg-type]  # is_dataclass leaves the instance case open
    if get_origin(kind) is tuple:
        require_type(where, list, "a list", value)
        return tuple(_convert(f"{where}[{number}]", get_args(kind)[0], item) for number, item in enumerate(value))
    if get_origin(kind) is dict:
        require_type(where, dict, "an object", value)
    else:
        require_type(where, *_TYPES[kind], value)
    return value


def require_type(where: str, kind: Any, name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a `kind`; true and false are no numbers."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: expected {name}, got {type(value).__name__}")  # noqa: TRY004  # the file is wrong


def _require_serializable(where: str, value: Any, levels: int = MAX_DEPTH) -> None:
    """Raise `ValueError` for a value that not every JSON writer can write, such as an integer of more than 64 bits."""
    if not levels:
        raise ValueError(f"{where}: expected at most {MAX_DEPTH} levels, got more")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}: expected integers of 64 bits, got a larger one")
    if isinstance(value, str):
        _require_unicode(value)
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_serializable(where, inner, levels - 1)


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"expected text of Unicode, got {text[:50]!a}") from None


_HEADER: dict[str, Any] = {"version": int, "weights": str}
_RECORDS: dict[str, Any] = {
    "training": TrainingRecord,
    "evaluations": tuple[EvaluationRecord, ...],
    "inputs": InputComparison,
}
