"""`vae serve`: its options are the settings; invalid ones are reported in one line before the start."""

import os
import re
import subprocess
import sys

import pytest

from app.settings import Settings, option_of, variable_of
from tests.support.cli_runner import refusal, vae

NO_FOLDER = "no such folder; expected a model folder with config.json and model.safetensors"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)


@pytest.fixture(scope="module")
def shown() -> str:
    """The help, with single spaces instead of line breaks."""
    result = vae("serve --help")
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.stdout)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_help_has_each_setting_with_its_description_variable_and_default(shown: str, name: str) -> None:
    field = Settings.model_fields[name]
    entry = shown[shown.index(f" {option_of(name)} ") :]
    switches = {True: option_of(name)[2:], False: f"no-{option_of(name)[2:]}"}
    default = switches[field.default] if isinstance(field.default, bool) else field.default
    tail = f"env var: {variable_of(name)}" + (f"; default: {default}]" if default not in (None, "", ()) else "]")
    bare = entry.replace(" ", "")
    assert bare.index(str(field.description).replace(" ", "")) < bare.index(f"[{tail}".replace(" ", ""))


@pytest.mark.parametrize(
    "option",
    [
        "--model <path>",
        "--device <str>",
        "--port <int>",
        "--request-timeout-s <float>",
        "--batch-invariant / --no-batch-invariant",
        "--api-key <str>",
        "--api-key-file <path>",
        "--cors-origins <str>",
        "--log-format <auto|json|text>",
    ],
)
def test_the_help_has_plain_types(shown: str, option: str) -> None:
    assert f" {option} " in shown


def test_the_help_is_readable_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for command in ("serve", "train", "evaluate"):
        assert "…" not in vae(f"{command} --help").stdout
    assert "--max-batch-delay-ms" in vae("serve --help").stdout


def test_the_folder_of_the_model_may_be_an_argument(shown: str) -> None:
    assert "serve [OPTIONS] [MODEL] " in shown
    for line in ("serve nowhere", "serve --model nowhere", "serve --model=nowhere nowhere"):
        assert refusal(vae(line)) == f"nowhere: {NO_FOLDER}"
    message = refusal(vae("serve here --model there"))
    assert message == "model: expected one folder, got 'here' and 'there' from --model"


@pytest.mark.parametrize(
    ("line", "variables", "message"),
    [
        ("--port http", {}, "port: expected a valid integer, got 'http' from --port"),
        ("--port http", {"VAE_PORT": "http"}, "port: expected a valid integer, got 'http' from --port"),
        ("", {"VAE_PORT": "http"}, "port: expected a valid integer, got 'http' from VAE_PORT"),
        ("--workers=-1", {}, "workers: expected a number greater than or equal to 0, got '-1' from --workers"),
        ("--log-format xml", {}, "log_format: expected 'auto', 'json' or 'text', got 'xml' from --log-format"),
        ("--device gpu", {}, "device: expected auto, cpu, cuda or cuda:N, got 'gpu' from --device"),
        (
            "",
            {"VAE_API_KEY_FILE": "nowhere"},
            "api_key_file: path does not point to a file, got 'nowhere' from VAE_API_KEY_FILE",
        ),
        (
            "--port 0 --max-items 0",
            {"VAE_PORT": "http", "VAE_THREADS": "-1"},
            "threads: expected a number greater than or equal to 0, got '-1' from VAE_THREADS; "
            "max_items: expected a number greater than or equal to 1, got '0' from --max-items",
        ),
        ("--max-items 9", {"VAE_MAX_QUEUE_ITEMS": "8"}, "max_items (9) must not exceed max_queue_items (8)"),
        ("--no-batch-invariant", {"VAE_BATCH_INVARIANT": "maybe"}, f"nowhere: {NO_FOLDER}"),
        ("--log-level INFO --cors-origins *,", {"VAE_PORT": "0"}, f"nowhere: {NO_FOLDER}"),
    ],
)
def test_an_invalid_setting_is_reported_with_the_option_or_the_variable(
    monkeypatch: pytest.MonkeyPatch, line: str, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert refusal(vae(f"serve nowhere {line}")) == message


def test_an_empty_key_is_invalid_as_an_option_and_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "api_key: expected a key, got none; leave the setting out for a service without keys"
    assert refusal(vae("serve nowhere --api-key=")) == message
    monkeypatch.setenv("VAE_API_KEY", "")
    assert refusal(vae("serve nowhere")) == message


def test_a_mistyped_option_is_reported_with_a_similar_one() -> None:
    assert re.search(r"No such option: --prot .*--port", refusal(vae("serve --prot 9000")))


def test_the_shell_completes_the_settings() -> None:
    environment = {
        **os.environ,
        "_VAE_COMPLETE": "complete_bash",
        "COMP_WORDS": "vae serve --max-batch",
        "COMP_CWORD": "2",
    }
    code = "from app.cli import cli; cli(prog_name='vae')"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert answer.stdout.split() == ["--max-batch-size", "--max-batch-delay-ms"]


@pytest.mark.parametrize(
    ("line", "modules"),
    [("--help", "torch pydantic_settings"), ("serve --help", "torch uvicorn"), ("evaluate --help", "torch")],
)
def test_the_help_imports_nothing_slow(line: str, modules: str) -> None:
    show = f"from app.cli import cli; cli({line.split()}, standalone_mode=False)"
    code = f"import sys; {show}; print([name for name in {modules.split()} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.splitlines()[-1] == "[]"
