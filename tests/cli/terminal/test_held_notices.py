"""Notices of the session appear once, after the run."""


def test_a_notice_of_the_session_is_printed_at_the_end(moetap, models, inputs, failing_hooks, tmp_path):
    arguments = ["--inputs", inputs, "-o", tmp_path / "run", "--hooks", failing_hooks("0")]
    done = moetap("run", models / "moe.pt", *arguments)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if "without layers 0 to 9" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith('moetap: hook "layers.0.gate" failed and records no more: ')
