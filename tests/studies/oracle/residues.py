"""Residues of FASTA files: 2.1 and 2.2.

Readings: `kept` counts the records that the study uses (recommended: those with a standard residue); lengths are of
the records, before `*` and `-` are dropped; the notebook's correlation is its version B, the one that runs.
"""

import numpy as np

from .notebook_arrays import table

STANDARD = "ACDEFGHIKLMNPQRSTVWY"


def read_fasta(text: str) -> list[str]:
    """Records in order; those with an empty sequence are dropped. Text before the first header is a record."""
    records, current = [], ""
    for line in text.splitlines():
        if line.startswith(">"):
            records.append(current)
            current = ""
        else:
            current += line.strip()
    records.append(current)
    return [record for record in records if record]


def cleaned(sequence: str, notebook: bool) -> str:
    return sequence if notebook else sequence.upper().replace("*", "").replace("-", "")


def frequencies(sequences: list[str], notebook: bool = False) -> list[float | None]:
    counts = [sum(cleaned(s, notebook).count(a) for s in sequences) for a in STANDARD]
    total = sum(len(s) for s in sequences) if notebook else sum(counts)
    return [count / total if total else None for count in counts]


def aa_composition(positive: list[str], negative: list[str], notebook: bool = False) -> dict:
    columns = [list(STANDARD), frequencies(positive, notebook), frequencies(negative, notebook)]
    return {"aa_composition": table(["residue", "positive", "negative"], list(zip(*columns, strict=True)))}


def correlation(sequences: list[str], notebook: bool = False) -> np.ndarray:
    """[20, 20]; NaN is undefined."""
    columns = []
    for sequence in sequences:
        letters = cleaned(sequence, notebook)
        counts = np.array([letters.count(a) for a in STANDARD], float)
        if counts.sum() > 0:
            columns.append(counts / counts.sum())
        elif notebook:
            columns.append(counts)
    out = np.full((20, 20), np.nan)
    if len(columns) < 2:
        return out
    fractions = np.array(columns).T  # [20, N]
    constant = [np.ptp(row) == 0 for row in fractions]
    centred = fractions - fractions.mean(axis=1, keepdims=True)
    for a in range(20):
        for b in range(20):
            if not constant[a] and not constant[b]:
                norm = np.sqrt((centred[a] ** 2).sum() * (centred[b] ** 2).sum())
                out[a, b] = np.clip((centred[a] * centred[b]).sum() / norm, -1, 1)
    return out


def aa_correlation(positive: list[str], negative: list[str], notebook: bool = False) -> dict:
    tables = {}
    for name, sequences in (("positive", positive), ("negative", negative)):
        values = correlation(sequences, notebook)
        rows = [(STANDARD[a], *(None if np.isnan(x) else float(x) for x in values[a])) for a in range(len(STANDARD))]
        tables[f"aa_correlation_{name}"] = table(["residue", *STANDARD], rows)
    return tables
