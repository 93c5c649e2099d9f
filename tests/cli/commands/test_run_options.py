"""The options of run and the configuration file that they override."""

import json

import pytest
from conftest import assert_succeeded


def test_run_help_documents_every_configuration_key(moetap):
    text = moetap("run", "--help").stdout
    for option in [
        "-o,--output-dir",
        "--task",
        "--method",
        "--device",
        "--dump",
        "--token-ids",
        "--token-mask",
        "--probe-tokens",
        "--log-component",
        "--log-entries",
        "--log-forwards",
        "--no-log-per-token",
        "--renumber-layers",
        "--libmoe-guide-layout",
        "--queue-bytes",
        "--on-overflow",
        "--strict",
        "--samples",
        "--save-outputs",
        "--config",
        "--overwrite",
    ]:
        assert option in text


@pytest.mark.parametrize(
    "options, part",
    [
        ([], "-o RUN_DIR"),
        (["-o", "run", "--dump", "all"], "none, ids, topk, full"),
        (["-o", "run", "--probe-tokens", "many"], "probe-tokens"),
        (["-o", "run", "--log-per-token", "maybe"], "true or false"),
        (["-o", "run", "--attention", "some"], "attention"),
        (["-o", "run", "--hooks", "spec.json"], "hook"),
        (["-o", "run", "--task", "../log"], "task"),
    ],
)
def test_an_option_that_is_wrong(assert_fails, options, part):
    assert_fails(2, "run", "model.pt", "--inputs", "x.pt", *options, parts=[part])


@pytest.mark.parametrize(
    "text, part",
    [
        ('{"dump": 3}', "dump"),
        ('{"strict": "yes"}', "strict"),
        ('{"probe_tokens": -1}', "probe_tokens"),
        ('{"frobnicate": 1}', "frobnicate"),
        ("[]", "object"),
        ('{"task": ', "JSON"),
        ("", "JSON"),
    ],
)
def test_wrong_configuration(assert_fails, tmp_path, models, inputs, text, part):
    config = tmp_path / "config.json"
    config.write_text(text)
    run = tmp_path / "run"
    assert_fails(
        2, "run", models / "moe.pt", "--inputs", inputs, "-o", run, "--config", config, parts=[str(config), part]
    )
    assert not run.exists()


def test_missing_configuration(assert_fails, tmp_path, models, inputs):
    arguments = ["--inputs", inputs, "-o", tmp_path / "run", "--config", tmp_path / "none.json"]
    assert_fails(2, "run", models / "moe.pt", *arguments, parts=["none.json"])


def test_options_override_the_configuration_file(moetap, models, inputs, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"task": "from_file", "log_per_token": True, "output_dir": str(tmp_path / "run")}))
    done = moetap(
        "run", models / "moe.pt", "--inputs", inputs, "--config", config, "--task", "mine", "--no-log-per-token"
    )
    assert_succeeded(done)
    log = json.loads((tmp_path / "run" / "mine.json").read_text())
    assert "selected_experts" not in log["logs"][0]["logs_metrics_vision"][0][0]["0"]
    assert not (tmp_path / "run" / "from_file.json").exists()


def test_flags_take_a_value(moetap, models, inputs, tmp_path):
    options = ["--log-per-token", "false", "--renumber-layers"]
    done = moetap("run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run", *options)
    assert_succeeded(done)
    manifest = json.loads((tmp_path / "run" / "moetap" / "manifest.json").read_text())
    assert manifest["config"]["log_per_token"] is False
    assert manifest["config"]["renumber_layers"] is True
