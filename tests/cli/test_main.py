"""The program itself: version, help, wrong usage."""

import pytest


def test_version(moetap):
    done = moetap("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "moetap 0.1.0\n", "")


@pytest.mark.parametrize("command", [[], ["inspect"], ["instrument"], ["run"], ["recover"]])
def test_help(moetap, command):
    done = moetap(*command, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "--help" in done.stdout
    if not command:
        assert "130" in done.stdout, "the exit status of an interrupted run"


@pytest.mark.parametrize(
    "arguments, part",
    [
        ([], "subcommand"),
        (["frobnicate"], "frobnicate"),
        (["inspect"], "MODEL"),
        (["inspect", "model.pt", "--frobnicate"], "--frobnicate"),
        (["instrument", "model.pt"], "--output"),
        (["run", "model.pt"], "--inputs"),
        (["inspect", "model.pt", "--hooks", "spec.json"], "hook"),
        (["instrument", "model.pt", "-o", "out.pt", "--attention", "some"], "attention"),
        (["instrument", "model.pt", "-o", "out.pt", "--hooks", "spec.json"], "hook"),
    ],
)
def test_wrong_usage(assert_fails, arguments, part):
    assert_fails(2, *arguments, parts=[part])
