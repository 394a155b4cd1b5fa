"""Settings: read from environment and command line, validated, and reported in one line when invalid."""

import pytest
from pydantic import ValidationError

from app.settings import Settings, SettingsError, read_settings, short_keys, unknown_variables

DEFAULTS = {name: field.get_default() for name, field in Settings.model_fields.items()}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in DEFAULTS:
        monkeypatch.delenv(f"VAE_{name.upper()}", raising=False)


def test_without_any_setting_the_defaults_apply():
    assert Settings().model_dump() == DEFAULTS
    assert Settings().keys() == ()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "9000", 9000),
        ("device", "cuda:1", "cuda:1"),
        ("max_batch_size", "128", 128),
        ("max_batch_delay_ms", "2.5", 2.5),
        ("batch_invariant", "true", True),
        ("request_timeout_s", "0.5", 0.5),
        ("cors_origins", "https://a.example, https://b.example,", ("https://a.example", "https://b.example")),
        ("cors_origins", "*", ("*",)),
        ("cors_origins", "", ()),
        ("log_format", "text", "text"),
        ("log_level", "INFO", "info"),
        ("root_path", "/models/vae-1.0", "/models/vae-1.0"),
    ],
)
def test_a_prefixed_variable_sets_the_setting_of_its_name(monkeypatch, name, text, value):
    monkeypatch.setenv(name.upper(), "unprefixed")
    assert Settings().model_dump() == DEFAULTS
    monkeypatch.setenv(f"VAE_{name.upper()}", text)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("threads", "-1"),
        ("max_batch_size", "-1"),
        ("max_batch_size", "4097"),
        ("max_batch_delay_ms", "-1"),
        ("max_batch_delay_ms", "nan"),
        ("max_queue_items", "0"),
        ("max_items", "0"),
        ("max_items", "100000"),
        ("max_body_bytes", "0"),
        ("max_image_pixels", "1e400"),
        ("request_timeout_s", "0"),
        ("request_timeout_s", "inf"),
        ("log_level", "loud"),
        ("cors_origins", "https://a.example/"),
        ("log_format", "xml"),
        ("root_path", "vae"),
        ("root_path", "/"),
        ("root_path", "//vae"),
        ("root_path", "/../vae"),
        ("root_path", "/a b"),
        ("root_path", '/"'),
        ("root_path", "/vae\n"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_line_with_its_name(monkeypatch, name, text):
    monkeypatch.setenv(f"VAE_{name.upper()}", text)
    with pytest.raises(ValidationError):
        Settings()
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("device", "gpu", "device: expected auto, cpu, cuda or cuda:N, got 'gpu' from VAE_DEVICE"),
        ("max_batch_size", "many", "max_batch_size: expected a valid integer, got 'many' from VAE_MAX_BATCH_SIZE"),
        (
            "max_batch_size",
            "-1",
            "max_batch_size: expected a number greater than or equal to 0, got '-1' from VAE_MAX_BATCH_SIZE",
        ),
        ("log_format", "xml", "log_format: expected 'auto', 'json' or 'text', got 'xml' from VAE_LOG_FORMAT"),
        (
            "root_path",
            "/vae/",
            "root_path: expected a path prefix below which a proxy has the service, such as /models/vae: a slash at "
            "its start, none at its end, got '/vae/' from VAE_ROOT_PATH",
        ),
        (
            "api_key_file",
            "/no/such",
            "api_key_file: path does not point to a file, got '/no/such' from VAE_API_KEY_FILE",
        ),
        ("api_key", " , ", "api_key: expected a key, got none; leave the setting out for a service without keys"),
        (
            "cors_origins",
            "a.example",
            "cors_origins: expected * or origins such as https://lab.example, got 'a.example'",
        ),
    ],
)
def test_an_error_says_what_was_expected_and_what_was_given(monkeypatch, name, text, message):
    monkeypatch.setenv(f"VAE_{name.upper()}", text)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value) == message


def test_a_variable_with_the_prefix_that_is_not_a_setting_is_reported():
    environment = {
        "VAE_PORT": "1",
        "vae_host": "::",
        "VAE_MAX_BATCHSIZE": "5",
        "VAE_API_KEYS": "hunter2",
        "VAE_QUITE_ANOTHER_WORD": "",
        "X": "",
    }
    assert [*unknown_variables(environment)] == [
        "VAE_MAX_BATCHSIZE is not a setting; did you mean VAE_MAX_BATCH_SIZE?",
        "VAE_API_KEYS is not a setting; did you mean VAE_API_KEY?",
        "VAE_QUITE_ANOTHER_WORD is not a setting",
    ]


def test_options_override_variables_and_variables_override_defaults(monkeypatch):
    monkeypatch.setenv("VAE_PORT", "9000")
    monkeypatch.setenv("VAE_MAX_BATCH_SIZE", "7")
    read = read_settings({"port": "9001", "batch_invariant": True, "cors_origins": "https://a.example"})
    assert (read.port, read.max_batch_size, read.batch_invariant, read.max_items) == (9001, 7, True, 4096)
    assert read.cors_origins == ("https://a.example",)


def test_an_error_names_the_option_also_if_the_variable_has_the_same_value(monkeypatch):
    monkeypatch.setenv("VAE_MAX_BATCH_SIZE", "many")
    with pytest.raises(SettingsError, match=r"got 'many' from --max-batch-size$"):
        read_settings({"max_batch_size": "many"})


def test_a_request_may_not_have_more_items_than_the_queue():
    with pytest.raises(ValidationError, match=r"max_items \(9\) must not exceed max_queue_items \(8\)"):
        Settings(max_items=9, max_queue_items=8)


def test_keys_are_read_from_the_setting_and_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("  filed \n\nclé\n")
    assert Settings(api_key="one, two,,").keys() == (b"one", b"two")
    assert Settings(api_key="one", api_key_file=file).keys() == (b"one", b"filed", "clé".encode())


@pytest.mark.parametrize("host", ["", "  "])
def test_an_empty_host_means_the_default_and_not_all_addresses(monkeypatch, host):
    assert read_settings({"host": host}).host == "127.0.0.1"
    monkeypatch.setenv("VAE_HOST", host)
    assert Settings().host == "127.0.0.1"


def test_the_settings_never_show_a_key():
    settings = Settings(api_key="hunter2")
    shown = (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump(mode="json")))
    assert not any("hunter2" in text for text in shown)


@pytest.mark.parametrize("wrong", [{"port": -1}, {"max_items": 9, "max_queue_items": 8}])
def test_an_error_of_another_setting_does_not_show_the_key(monkeypatch, wrong):
    with pytest.raises(ValidationError) as refused:
        Settings(api_key="hunter2", **wrong)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "  ", ",", " ,, "])
def test_an_empty_key_is_invalid_instead_of_switching_authentication_off(key):
    with pytest.raises(ValidationError, match="api_key: expected a key, got none"):
        Settings(api_key=key)


def test_a_key_file_without_keys_is_invalid_instead_of_switching_authentication_off(tmp_path):
    (tmp_path / "keys").write_text("\n  \n")
    with pytest.raises(ValidationError, match="api_key_file"):
        Settings(api_key_file=tmp_path / "keys")
    with pytest.raises(ValidationError, match="api_key_file"):
        Settings(api_key_file=tmp_path / "none")


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("key", "warned"), [("short", True), ("a key of 19 letters,short", True), ("a" * 16, False), (None, False)]
)
def test_a_short_api_key_is_worth_a_warning_without_the_key(key, warned):
    warnings = [*short_keys(Settings(api_key=key))]
    assert bool(warnings) is warned
    assert not any("short" in warning for warning in warnings)
