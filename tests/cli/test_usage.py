import pytest


def test_version(moetap):
    done = moetap("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "moetap 0.1.0\n", "")


@pytest.mark.parametrize("command", [[], ["inspect"], ["instrument"], ["run"]])
def test_help(moetap, command):
    done = moetap(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "--help" in done.stdout


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
    "arguments, part",
    [
        ([], "subcommand"),
        (["frobnicate"], "frobnicate"),
        (["inspect"], "MODEL"),
        (["inspect", "model.pt", "--frobnicate"], "--frobnicate"),
        (["instrument", "model.pt"], "--output"),
        (["run", "model.pt"], "--inputs"),
        (["run", "model.pt", "--inputs", "x.pt"], "-o RUN_DIR"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--dump", "all"], "none, topk, full"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--probe-tokens", "many"], "probe-tokens"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--log-per-token", "maybe"], "true or false"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--device", "tpu"], "cuda:N"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--attention", "full"], "attention"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--hooks", "spec.json"], "hook"),
        (["run", "model.pt", "--inputs", "x.pt", "-o", "run", "--task", "../log"], "task"),
        (["inspect", "model.pt", "--hooks", "spec.json"], "hook"),
        (["instrument", "model.pt", "-o", "out.pt", "--attention", "stats"], "attention"),
        (["instrument", "model.pt", "-o", "out.pt", "--hooks", "spec.json"], "hook"),
    ],
)
def test_wrong_usage(assert_fails, arguments, part):
    assert_fails(2, *arguments, parts=[part])


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
