"""--watch serves the page on this machine alone and renews it when the log grows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from conftest import MOETAP, TIMEOUT_MS


def line(epoch: int) -> str:
    return json.dumps({"epoch": epoch, "routing_acc": 0.5, "entropy": 1.0, "utilization": [0.5, 0.5]}) + "\n"


@pytest.fixture
def served(tmp_path):
    log = tmp_path / "training_log.txt"
    log.write_text(line(1))
    process = subprocess.Popen(
        [MOETAP, "report", "--training-log", log, "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    address = process.stdout.readline().strip()
    yield log, address, process
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["training_log.txt"]


def test_the_page_grows_with_the_log(browser, served):
    log, address, _ = served
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready=true]")
    assert page.evaluate("moetap.data.all.training.epochs.length") == 1
    with log.open("a") as file:
        file.write(line(2))
    page.wait_for_function("() => globalThis.moetap?.data?.all?.training?.epochs?.length === 2")
    context.close()


def test_only_who_knows_the_address_sees_it(served):
    _, address, _ = served
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/", address)
    assert "watched" in urllib.request.urlopen(address).read().decode()
    root = address[: address.index("/", 8)]
    for other in (root + "/", root + "/" + "0" * 32 + "/", address + "other"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(other)
        assert error.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "example.org"}))
    assert error.value.code == 400
