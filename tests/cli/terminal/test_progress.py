"""The progress bar."""

import os
import pty
import subprocess

from conftest import MOETAP


def test_a_progress_bar_on_a_terminal_only(models, inputs, tmp_path):
    terminal, other_end = pty.openpty()
    command = [MOETAP, "run", models / "moe.pt", "--inputs", inputs, "-o", tmp_path / "run"]
    done = subprocess.run(command, stderr=other_end, stdout=subprocess.PIPE, timeout=120)
    os.close(other_end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "3/3 forwards" in shown
    assert b"3/3" not in done.stdout
