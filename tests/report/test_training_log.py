"""Training logs of the awkward kinds: each gives its diagnostic with the line, none ends the program."""

from __future__ import annotations

import json
import re

import pytest

EVEN = [0.25, 0.25, 0.25, 0.25]


def line(epoch, utilization=EVEN, entropy=1.2, routing_acc=0.5, **more) -> str:
    return json.dumps(
        {"epoch": epoch, "routing_acc": routing_acc, "entropy": entropy, "utilization": utilization, **more}
    )


CASES = {
    "repeats": ([line(1), line(2), line(1), line(1)], [(3, "comes after 2"), (4, "epoch 1 stands twice")]),
    "collapse": ([line(1), line(2, [0.97, 0.01, 0.01, 0.01])], [(2, "collapse: expert 0 gets 97.0 %")]),
    "idle": ([line(1, [0.5, 0.5, 0, 0])], [(1, "underused: experts 2, 3")]),
    "missing": (['{"epoch": 1}'], [(1, "has no routing_acc"), (1, "has no entropy"), (1, "has no utilization")]),
    "no epoch": (['{"entropy": 1, "routing_acc": 0, "utilization": [0.5, 0.5]}'], [(1, "has no epoch")]),
    "ragged": ([line(1), line(2, [0.5, 0.5])], [(2, "utilization has 2 experts, the lines before have 4")]),
    "NaN": ([line(1, entropy=float("nan"))], [(1, 'entropy is "NaN"')]),
    "infinite": ([line(1, [float("inf"), 0, 0, 0])], [(1, "utilization of expert 0 is")]),
    "blank": ([line(1), "", "   ", line(2)], [(2, "is the first of 2 blank lines")]),
    "percent": ([line(1, [25, 25, 25, 25], routing_acc=50)], [(1, "taken as percent"), (1, "routing_acc 50 is taken")]),
    "sum": ([line(1, [0.5, 0.2, 0.1, 0.1])], [(1, "utilization sums to 0.9, not to 1")]),
    "no JSON": ([line(1), "epoch 2: fine"], [(2, "is no JSON")]),
    "no object": (["[1, 2]"], [(1, "is no JSON object")]),
    "text": ([line(1, [0.5, "many"])], [(1, 'utilization of expert 1 is "many"')]),
    "negative": ([line(1, [-0.5, 1.5])], [(1, "below 0")]),
    "cut": ([line(1), line(2)[:40]], [(2, "is no JSON")]),
    "empty": ([], [(0, "holds no epoch")]),
    "null accuracy": ([line(1, routing_acc=None)], []),
}


@pytest.mark.parametrize("case", CASES)
def test_awkward_logs(report, tmp_path, case):
    lines, expected = CASES[case]
    (tmp_path / "training_log.txt").write_text("\n".join(lines) + ("\n" if lines else ""))
    done = report("--training-log", tmp_path / "training_log.txt", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = done.stdout.splitlines()[:-1]
    for number, text in expected:
        place = f"training_log.txt, line {number}: " if number else "training_log.txt: "
        assert any(one.startswith(place) and text in one for one in said), (text, said)
    if not expected:
        assert said == []


TABLES = {
    "header": ("expert_0,expert_1\n0.5,0.5\n", [(1, "is a header")]),
    "numbered header": ("0,1,2\n0.2,0.3,0.5\n", [(1, "is a header")]),
    "classes": ("class,a,b\nzero,0.5,0.5\none,0.4,0.6\n", [(1, "is a header")]),
    "percent": ("50,50\n", [(1, "taken as percent")]),
    "ragged": ("0.5,0.5\n0.2,0.3,0.5\n", [(2, "has 3 experts, the lines before have 2")]),
    "NaN": ("0.5,nan\n0.5,0.5\n", [(1, "no number")]),
    "blank": ("0.5,0.5\n\n0.5,0.5\n", [(2, "is blank")]),
    "sum": ("0.9,0.9\n", [(1, "sums to 1.8")]),
    "empty": ("", [(0, "holds no row")]),
}


@pytest.mark.parametrize("case", TABLES)
def test_awkward_tables(report, tmp_path, case):
    text, expected = TABLES[case]
    (tmp_path / "router_affinity_matrix.csv").write_text(text)
    done = report(tmp_path, "-o", tmp_path / "page.html")  # found in the folder
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[:-1]
    for number, text in expected:
        place = f"router_affinity_matrix.csv, line {number}: " if number else "router_affinity_matrix.csv: "
        assert any(one.startswith(place) and text in one for one in said), (text, said)


def test_percent_is_decided_for_the_whole_log(report, tmp_path):
    """0.8 is 0.8 % beside 80: an early epoch of a log in percent is no share."""
    lines = [line(1, [40, 0.5, 0.5, 0.5], routing_acc=0.8), line(2, [97, 1, 1, 1], routing_acc=80)]
    (tmp_path / "training_log.txt").write_text("\n".join(lines) + "\n")
    done = report("--training-log", tmp_path / "training_log.txt", "-o", tmp_path / "page.html")
    said = [one for one in done.stdout.splitlines() if "taken as percent" in one]
    assert [one.split(": ")[0] for one in said] == ["training_log.txt, line 2"] * 2
    assert any("line 1: utilization sums to 41.5, not to 100" in one for one in done.stdout.splitlines())
    page = (tmp_path / "page.html").read_text()
    data = re.search(r'id="report-data" type="application/json">(.*?)</script>', page)[1]
    accuracy = [epoch["routing_acc"] for epoch in json.loads(data)["training"]["epochs"]]
    assert accuracy == pytest.approx([0.008, 0.8])


def test_curves_of_a_log_that_was_appended_to(open_page, write_page, tmp_path):
    lines = [line(epoch, entropy=2 - epoch / 20) for epoch in range(1, 21)] + [line(1), line(1), line(1)]
    (tmp_path / "training_log.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "router_affinity_matrix.csv").write_text("zero,0.5,0.5\none,0.4,0.6\n")
    opened = open_page(write_page(tmp_path / "page.html", tmp_path))
    curves = opened.traces("training-entropy")
    assert len(curves) == 4  # 1 to 20, then 1 three times
    assert curves[0]["y"][:20] == [2 - epoch / 20 for epoch in range(1, 21)]
    assert curves[0]["y"][20:] == [None] * 3
    assert opened.traces("affinity")[0]["z"] == [[0.5, 0.5], [0.4, 0.6]]
    assert [trace["y"][0] for trace in opened.traces("expert-utilization")] == [25.0] * 4
    assert "stands twice" in opened.page.locator("#figure-training-diagnostics").inner_text()
