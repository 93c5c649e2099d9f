"""Options that nothing of an analysis reads are named."""

import json
import re

import pytest
from conftest import read_table

OF_EVERY_ANALYSIS = {"--help", "--output", "--force", "--list", "--only", "--shard", "--merge", "--threads"}
VALUES = {
    **{"--definitions": "notebook", "--gate": "topk", "--phase": "prompt", "--cache-phase": "all", "--seed": "3"},
    **{"--top-k": "2", "--experts": "9", "--sample": "1", "--layer": "0", "--token-range": "0:3", "--alphabet": "ACD"},
    **{"--group-by": "phase", "--max-length": "9", "--regions": "4", "--top": "3", "--threshold": "0.2"},
    **{"--link-share": "0.1", "--draws": "10", "--delta-max": "3", "--component": "arrays"},
}
FLAGS = {"--warm", "--absolute-regions", "--matrices"}
FILES = {"--samples", "--placement", "--tokenizer", "--model", "--positive", "--negative"}
READ_BY = {
    "--definitions": "expert_usage",
    "--gate": "expert_usage",
    "--component": "usage",
    "--phase": "usage",
    "--cache-phase": "expert_cache",
    "--warm": "expert_cache",
    "--token-range": "usage",
    "--alphabet": "token_expert_enrichment",
    "--sample": "sankey_token_expert",
    "--layer": "sankey_token_expert",
    "--regions": "information_flow",
    "--absolute-regions": "information_flow",
    "--top": "sankey_evolution",
    "--threshold": "sankey_evolution",
    "--link-share": "sankey_expert_region",
    "--matrices": "expert_attention_patterns",
    "--delta-max": "layer_activation",
}


def named(done) -> list[str]:
    return re.findall(r"(--[a-z-]+) changes nothing here: it is for \S+", done.stderr)


def options_of_help(moetap) -> set[str]:
    return set(re.findall(r"^\s+(?:-\w,)?(?:-\w, )?(--[a-z-]+)", moetap("analyze", "--help").stdout, re.M))


def test_every_option_knows_who_reads_it(moetap, arrays, tmp_path):
    """Given at once to studies that read none of them, each is named; an option without a row would be an error."""
    options = options_of_help(moetap)
    assert options == OF_EVERY_ANALYSIS | set(VALUES) | FLAGS | FILES
    given = [text for option, value in VALUES.items() if option != "--definitions" for text in (option, value)]
    fasta = tmp_path / "a.fasta"
    fasta.write_text(">a\nACD\n")
    given += [*FLAGS, "--positive", fasta, "--negative", fasta, "--samples", fasta]
    done = moetap("analyze", arrays(), "--only", "imbalance,layer_statistics", *given, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    unread = set(VALUES) | FLAGS | {"--positive", "--negative", "--samples"}
    assert set(named(done)) == unread - {"--definitions", "--component"}
    notices = json.loads((tmp_path / "out/analysis.json").read_text())["notices"]
    assert all(any(notice.startswith(f"{option} ") for notice in notices) for option in named(done))


@pytest.mark.parametrize("option", sorted(READ_BY))
def test_an_option_that_is_read_is_not_named(moetap, arrays, option, tmp_path):
    given = [option] if option in FLAGS else [option, VALUES[option]]
    done = moetap("analyze", arrays(), "--only", READ_BY[option], *given, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert named(done) == []


def test_an_option_of_one_kind_of_input_is_named_for_another(moetap, recorded, tmp_path):
    for option, value, what in (("--top-k", "1", "logits"), ("--experts", "9", "routed ids")):
        done = moetap("analyze", recorded, option, value, "-o", tmp_path / option)
        assert done.returncode == 0 and f"{option} changes nothing here: it is for {what}" in done.stderr
    plain, given = (read_table(tmp_path / name / "usage.csv") for name in ("--top-k", "--experts"))
    assert plain == given
    log = recorded / "log_metrics.json"
    done = moetap("analyze", log, "--component", "x", "--gate", "topk", "-o", tmp_path / "log")
    assert named(done) == ["--gate", "--component"] or named(done) == ["--component", "--gate"]
