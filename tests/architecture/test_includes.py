"""Each folder includes only what its row in docs/architecture.md allows."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOP_FOLDERS = ("analysis", "hooks", "plugin", "cli")
SOURCES = (".h", ".cpp", ".cu", ".cuh")


def read_table(page: str) -> dict[str, list[str]]:
    """The folders that a folder may include, from the rows "| `folder` | owns | `folder` `folder` |"."""
    table = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"`[\w/]+`", cells[0]):
            table[cells[0].strip("`")] = re.findall(r"`([\w/]+)`", cells[2])
    return table


def forbidden_includes(root: Path, table: dict[str, list[str]]) -> list[str]:
    """One line "file:line: ..." for each #include that the table does not allow."""
    found = []
    for path in sorted(path for top in TOP_FOLDERS for path in (root / top).rglob("*") if path.suffix in SOURCES):
        file = path.relative_to(root)
        folder = file.parent.as_posix()
        if folder not in table:
            found.append(f"{file}:1: the folder {folder} has no row in docs/architecture.md")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            included = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if not included:
                continue
            target = Path(included[1]).parent.as_posix()
            if not (root / included[1]).is_file():
                found.append(f'{file}:{number}: "{included[1]}" is no path from the root of the repository')
            elif target != folder and not any(target == a or target.startswith(a + "/") for a in table[folder]):
                found.append(f"{file}:{number}: {folder} may not include {included[1]}")
    return found


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    return read_table((REPOSITORY / "docs/architecture.md").read_text())


def test_folders_include_only_what_their_row_allows(table):
    assert forbidden_includes(REPOSITORY, table) == []


def test_each_row_names_folders_that_are_there(table):
    assert len(table) > 15
    named = set(table) | {folder for allowed in table.values() for folder in allowed}
    assert sorted(folder for folder in named if not (REPOSITORY / folder).is_dir()) == []


def test_no_folders_include_each_other(table):
    """Files that stand beside sub-folders conduct them: `hooks`, `plugin` and `cli` include what lies below."""

    def reaches(start: str, goal: str) -> bool:
        seen, waiting = set(), [start]
        while waiting:
            for allowed in table[waiting.pop()]:
                for folder in (f for f in table if f == allowed or f.startswith(allowed + "/")):
                    if folder == goal:
                        return True
                    if folder not in seen:
                        seen.add(folder)
                        waiting.append(folder)
        return False

    conductors = {"hooks", "plugin", "cli"}
    assert [folder for folder in table if folder not in conductors and reaches(folder, folder)] == []


@pytest.mark.parametrize(
    "included",
    ["plugin/session/recording.h", "plugin/session.h", "cli/commands/commands.h", "hook_point.h"],
)
def test_an_include_that_is_not_allowed_is_named_with_file_and_line(table, tmp_path, included):
    for folder in table:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for file in ("plugin/session/recording.h", "plugin/session.h", "cli/commands/commands.h"):
        (tmp_path / file).write_text("#pragma once\n")
    (tmp_path / "plugin/capture/token_rows.h").write_text(f'#pragma once\n\n#include "{included}"\n')
    assert [line.split(": ")[0] for line in forbidden_includes(tmp_path, table)] == ["plugin/capture/token_rows.h:3"]


def test_a_folder_without_a_row_is_named(table, tmp_path):
    (tmp_path / "plugin/misc").mkdir(parents=True)
    (tmp_path / "plugin/misc/utils.h").write_text("#pragma once\n")
    assert forbidden_includes(tmp_path, table) == [
        "plugin/misc/utils.h:1: the folder plugin/misc has no row in docs/architecture.md"
    ]
