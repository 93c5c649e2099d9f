"""The tokens' view: every token with its experts and weights, texts, images, categories."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import struct
import sys
import zlib

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli" / "exports"))
dumps = pytest.importorskip("synthetic_dump", reason="needs safetensors")

LAYERS = ["0", "1"]
IMAGE, SAMPLES, LENGTH = 7, 5, 9


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(range(width)) for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Five samples of nine tokens, of which 1 to 6 are an image."""
    folder = tmp_path_factory.mktemp("tokens")
    shards = dumps.write_run(folder / "run", LAYERS)
    manifest = folder / "run" / "moetap" / "manifest.json"
    about = json.loads(manifest.read_text())
    about["config"] |= {"samples": str(folder / "samples.jsonl"), "attention_regions": f"tokens:image={IMAGE}"}
    manifest.write_text(json.dumps(about))
    total = SAMPLES * LENGTH
    ids = [[1, *[IMAGE] * 6, 2, 3] for _ in range(SAMPLES)]
    columns = dumps.columns_of(
        np.repeat(np.arange(SAMPLES), LENGTH),
        np.tile(np.arange(LENGTH), SAMPLES),
        np.repeat(np.arange(SAMPLES), LENGTH),
        token_id=np.ravel(ids),
    )
    for number, layer in enumerate(LAYERS):
        columns |= dumps.routed(layer, total, seed=number)
    dumps.write_shard(shards, "language_model", 0, 0, columns)
    (folder / "pictures").mkdir()
    lines = []
    for sample in range(SAMPLES):
        (folder / "pictures" / f"{sample}.png").write_bytes(png(30, 20))
        doc = {
            "category": ["cat", "dog"][sample % 2],
            "question": "What <b>is</b> it?",
            "image": f"pictures/{sample}.png",
        }
        lines.append(json.dumps({"doc_id": sample, "target": "x", "doc": doc, "resps": [["y"]]}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "vocabulary.json").write_text(json.dumps({"<start>": 1, "▁what": 2, "</script>": 3, "<image>": IMAGE}))
    return folder, columns


def test_every_slot_is_in_the_table(open_page, write_page, run):
    folder, columns = run
    page = write_page(folder / "page.html", folder / "run", "--max-samples", 3)
    assert stat.S_IMODE(os.stat(page).st_mode) == 0o600
    opened = open_page(page)
    rows = opened.table("tokens")
    expected = []
    for number, layer in enumerate(LAYERS):
        for t in range(LENGTH):
            ids, weights = columns[f"{layer}.selected"][t], columns[f"{layer}.weights"][t]
            for rank, slot in enumerate(np.argsort(-weights, kind="stable")):
                weight = float(str(weights[slot]))
                expected.append((0, t, int(columns["token_id"][t]), LAYERS[number], rank, int(ids[slot]), weight))
    assert [tuple(row.values()) for row in rows] == expected
    assert "The first 3 of 5 samples" in opened.page.locator("#figure-tokens").inner_text()


def test_texts_image_slider_and_tips(open_page, write_page, run):
    folder, columns = run
    page = write_page(folder / "texts.html", folder / "run", "--tokenizer", folder / "vocabulary.json")
    opened = open_page(page)
    card = opened.page.locator("#figure-tokens")
    card.scroll_into_view_if_needed()
    opened.table("tokens")
    tokens = card.locator(".token")
    assert tokens.all_inner_texts() == ["<start>", *["<image>"] * 6, "·what", "</script>"]
    first = columns["0.weights"].argmax(axis=1)
    experts = [int(columns["0.selected"][t][first[t]]) for t in range(LENGTH)]
    assert [int(token.get_attribute("data-expert")) for token in tokens.all()] == experts
    assert card.locator(".patches button").all_inner_texts() == [str(expert) for expert in experts[1:7]]
    grid = card.locator(".patches").evaluate("(e) => [e.style.gridTemplateRows, e.style.gridTemplateColumns]")
    assert grid == ["repeat(2, 1fr)", "repeat(3, 1fr)"]  # 6 tokens, 30 x 20 pixels
    assert card.locator(".patched img").first.evaluate("(e) => e.complete && e.naturalWidth") == 30
    tokens.nth(8).focus()
    tip = opened.page.locator(".tip").inner_text()
    assert "</script>" in tip and f"expert {experts[8]}" in tip and "position 8" in tip
    opened.page.keyboard.press("ArrowLeft")
    assert "what" in opened.page.locator(".tip").inner_text()
    card.locator("#token-layer").press("ArrowRight")
    second = columns["1.weights"].argmax(axis=1)
    assert int(card.locator(".token").first.get_attribute("data-expert")) == int(columns["1.selected"][0][second[0]])
    assert "What <b>is</b> it?" in card.inner_text()
    card.locator("#token-play").click()
    opened.page.wait_for_function("() => document.querySelector('#token-layer').value === '0'")


def test_categories_are_counted_from_the_dump(open_page, write_page, run):
    folder, columns = run
    opened = open_page(write_page(folder / "categories.html", folder / "run", "--max-samples", 0))
    assert stat.S_IMODE(os.stat(folder / "categories.html").st_mode) & 0o077 != 0  # sums alone
    assert "tokens" not in opened.ids()
    z = opened.traces("categories")[0]["z"]
    category = np.repeat(np.arange(SAMPLES) % 2, LENGTH)
    for row in range(2):
        ids = columns["0.selected"][category == row]
        assert z[row] == (np.bincount(ids.ravel(), minlength=8) / len(ids)).tolist()


def test_pictures_that_do_not_fit_are_said(report, run, tmp_path):
    folder, _ = run
    done = report(folder / "run", "--grid", "5x5", "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "has 6 image tokens, not 5x5" in done.stderr
    done = report(folder / "run", "--grid", "wide", "-o", tmp_path / "page.html")
    assert done.returncode == 2 and "--grid" in done.stderr
    (tmp_path / "0.png").write_text("no picture")
    done = report(folder / "run", "--images", tmp_path, "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "0.png: is no PNG, JPEG, GIF or WebP" in done.stderr
