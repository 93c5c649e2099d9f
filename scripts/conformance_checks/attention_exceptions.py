"""What attention of an oracle and of a run cannot be compared: the table attention_exceptions.txt."""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib

TABLE = pathlib.Path(__file__).parent / "attention_exceptions.txt"
KINDS = ("no-oracle", "not-found", "no-values")


@dataclasses.dataclass
class ListedException:
    model: str
    place: str  # pattern of a hook's name or of an oracle's key
    kind: str
    reason: str
    used: int = 0


class Exceptions:
    """Those of one model."""

    def __init__(self, entries: list[ListedException]):
        self.entries = entries

    def covers(self, kind: str, place: str) -> bool:
        """True if an exception of this kind names the place; it then counts as used."""
        matching = [entry for entry in self.entries if entry.kind == kind and fnmatch.fnmatchcase(place, entry.place)]
        for entry in matching:
            entry.used += 1
        return bool(matching)

    def unused(self) -> list[str]:
        return [f"{entry.kind} {entry.place}" for entry in self.entries if not entry.used]


def exceptions_of(model: str, table: pathlib.Path = TABLE) -> Exceptions:
    """Raises ValueError for a line that is none."""
    entries = []
    for line in table.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=3)
        if len(words) != 4 or words[2] not in KINDS:
            raise ValueError(f"{table.name}: a line is MODEL PLACE {'|'.join(KINDS)} REASON, got '{line}'")
        if words[0] == model:
            entries.append(ListedException(*words))
    return Exceptions(entries)
