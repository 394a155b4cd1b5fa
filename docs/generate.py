"""Generate docs/configuration.md from the fields of `Settings`: `make docs`.

python docs/generate.py            write the page
python docs/generate.py --check    exit with 1 if the page is out of date
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prometheus_client.metrics_core import Metric
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from app.observability.metrics import Metrics  # noqa: E402  # the project need not be installed
from app.settings import PREFIX, Settings  # noqa: E402

GROUPS = {
    "Model and computation": ("model", "device", "threads", "precision", "runtime"),
    "Processes and sockets": ("workers", "host", "port", "root_path", "page"),
    "Batching": ("max_batch_size", "max_batch_delay_ms", "warm_sizes", "batch_invariant", "max_queue_items"),
    "Limits and timeouts": (
        "max_items",
        "max_body_bytes",
        "max_memory_bytes",
        "max_image_pixels",
        "max_connections",
        "request_timeout_s",
        "graceful_timeout_s",
    ),
    "Security": ("api_key", "api_key_file", "cors_origins"),
    "Logging": ("log_level", "log_format"),
}
SIGNS = (("ge", "≥"), ("gt", ">"), ("le", "≤"))
CONFIGURATION = """\
# Configuration

<!-- Generated from app/settings.py by `make docs`. Do not edit. -->

Each setting is an environment variable and an option of `vae serve`: `VAE_MAX_BATCH_SIZE=16` is the same as
`vae serve --max-batch-size 16`. An option overrides a variable, and a variable overrides the default. The folder of the
model may be an argument: `vae serve FOLDER`. `vae serve --help` lists the settings. `make serve` passes options on:
`make serve ARGS='--port 9000'`. A setting with an invalid value ends the process with one line that names its option or
variable. An environment variable that begins with `VAE_` and is not a setting is reported in the log.

Variables of Docker Compose and OpenTelemetry: [operations.md](operations.md#variables-of-other-programs).
"""

METRICS = """\
# Metrics

<!-- Generated from app/observability/metrics.py by `make docs`. Do not edit. -->

`GET /metrics` has these metrics in the text format of Prometheus, and those of the process (`process_*`). With several
workers the figures are sums over all of them. [operations.md](operations.md#monitoring) lists alerts and what to do.
"""


def configuration() -> str:
    """Render the page of settings."""
    grouped = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"Other": tuple(name for name in Settings.model_fields if name not in grouped)}
    return "\n".join([CONFIGURATION, *(_group(title, names) for title, names in groups.items() if names)])


def _group(title: str, names: tuple[str, ...]) -> str:
    rows = [_row(name, Settings.model_fields[name]) for name in names if name in Settings.model_fields]
    return "\n".join([f"## {title}", "", "| variable | default | values | meaning |", "|---|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    values = _values(field).replace("|", r"\|")
    return f"| `{PREFIX}{name.upper()}` | {_default(field)} | {values} | {field.description} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT)}`"
    if value in (None, "", (), PydanticUndefined):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    options = get_args(kind) if get_origin(kind) is Literal else ()
    if options:
        return ", ".join(f"`{option}`" for option in options)
    if kind is bool:
        return "`true`, `false`"
    bounds = [(sign, getattr(item, name)) for item in field.metadata for name, sign in SIGNS if hasattr(item, name)]
    return ", ".join(f"{sign} {bound:,}" for sign, bound in bounds)


def metrics() -> str:
    """Render the page of metrics."""
    families = sorted(Metrics().registry.collect(), key=lambda family: family.name)
    rows = [_metric(family) for family in families if not family.name.endswith("_created")]
    return "\n".join([METRICS, "| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""])


def _metric(family: Metric) -> str:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"


PAGES: dict[str, Callable[[], str]] = {"configuration.md": configuration, "metrics.md": metrics}


def main() -> int:
    """Write the pages, or compare them with `--check`."""
    pages = {ROOT / "docs" / name: render() for name, render in PAGES.items()}
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != page for path, page in pages.items()))
    for path, page in pages.items():
        path.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
