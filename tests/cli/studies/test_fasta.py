"""Residues of FASTA files (`moetap analyze --positive --negative`)."""

import csv

import pytest


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_two_sets(moetap, tmp_path):
    one, two, other = tmp_path / "a.fasta", tmp_path / "b.fasta", tmp_path / "c.fasta"
    one.write_bytes(b">one\r\nAA\r\nc-\r\n>empty\r\n")
    two.write_text("CC\n>three\nAXC*")
    other.write_text(">n\nWWA\n")
    out = tmp_path / "out"
    done = moetap("analyze", "--positive", one, two, "--negative", other, "-o", out)
    assert done.returncode == 0, done.stderr
    frequencies = {row["residue"]: row for row in read(out / "aa_composition.csv")}
    assert list(frequencies) == list("ACDEFGHIKLMNPQRSTVWY")
    assert float(frequencies["A"]["positive"]) == 3 / 7
    assert float(frequencies["C"]["positive"]) == 4 / 7
    assert float(frequencies["W"]["negative"]) == 2 / 3
    positive, negative = read(out / "aa_summary.csv")
    assert (positive["records"], positive["kept"]) == ("4", "3")
    assert (positive["min_length"], positive["max_length"]) == ("2", "3")
    assert positive["nonstandard_letters"] == "X"
    assert negative["mean_length"] == "3"
    matrix = read(out / "aa_correlation_positive.csv")
    assert list(matrix[0]) == ["residue", *"ACDEFGHIKLMNPQRSTVWY"]
    assert matrix[0]["A"] == "1" and matrix[0]["D"] == ""  # D occurs nowhere
    assert float(matrix[0]["C"]) == pytest.approx(-1)
    assert all(cell == "" for cell in read(out / "aa_correlation_negative.csv")[0].values() if cell != "A")


def test_broken_files(moetap, tmp_path):
    for name, content, reason in [
        ("zero.fasta", b">x\nAC\0", "zero byte"),
        ("packed.fasta", b"\x1f\x8b\x08\0", "compressed"),
        ("missing.fasta", None, "missing.fasta"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        done = moetap("analyze", "--positive", path, "-o", tmp_path / "out")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and name in done.stderr and reason in done.stderr, done.stderr


def test_tables_of_sequences_and_of_arrays_lie_in_the_folder_itself(analyze, arrays, tmp_path):
    (tmp_path / "a.fasta").write_text(">a\nACDA\n>b\nCCDE\n")
    path = arrays()
    alone = analyze(path)
    both = analyze(path, "--positive", tmp_path / "a.fasta", "--negative", tmp_path / "a.fasta")
    tables = {file.name for file in both.iterdir() if file.suffix == ".csv"}
    assert tables == {file.name for file in alone.iterdir() if file.suffix == ".csv"} | {
        *("aa_composition.csv", "aa_summary.csv", "aa_correlation_positive.csv", "aa_correlation_negative.csv")
    }
    assert [file for file in both.iterdir() if file.is_dir()] == []
