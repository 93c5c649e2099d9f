"""Residues of FASTA files against the oracle."""

import random

import pytest
from comparison import assert_tables
from oracle import residues

LETTERS = "ACDEFGHIKLMNPQRSTVWYacdXB*-"


def random_records(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice(LETTERS) for _ in range(draw.randint(2, 60))) for _ in range(count)]


def write(path, records: list[str]):
    """Sequences over several lines; a record without a sequence; text before the first header."""
    lines = [records[0]]
    for number, record in enumerate(records[1:]):
        lines += [f">{number} a protein", *(record[i : i + 20] for i in range(0, len(record), 20))]
    path.write_text("\n".join([*lines, ">empty", ""]) + "\n")
    assert residues.read_fasta(path.read_text()) == records
    return path


@pytest.mark.parametrize("definitions", ["recommended", "notebook"])
def test_tables(definitions, tables_of, tmp_path):
    """The positive set is two files; one of its sequences has no standard residue, and no negative one has a W."""
    positive = [random_records(1, 8), [*random_records(2, 5), "XX"]]
    negative = [record.replace("W", "A") for record in random_records(3, 9)]
    paths = [write(tmp_path / f"{name}.fasta", positive[i]) for i, name in enumerate(("train", "test"))]
    got = tables_of(
        *("--positive", *paths, "--negative", write(tmp_path / "negative.fasta", negative)),
        *("--definitions", definitions),
    )
    notebook = definitions == "notebook"
    both = positive[0] + positive[1]
    assert_tables(
        got,
        residues.aa_composition(both, negative, notebook) | residues.aa_correlation(both, negative, notebook),
    )
    assert got["aa_summary"]["records"] == ["16", "10"]  # with the empty ones, one a file
    assert got["aa_summary"]["kept"] == ["14", "9"]
