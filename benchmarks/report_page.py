"""Size of the report's page, and how long writing, opening and drawing it take, for a large model and for many samples.

Usage: .venv/bin/python benchmarks/report_page.py build/release/bin/moetap [FOLDER]
"""

from __future__ import annotations

import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "report"), str(ROOT / "tests" / "cli" / "exports")]
import synthetic_dump  # noqa: E402
import synthetic_run  # noqa: E402

IMAGE_TOKEN, IMAGE_SIDE = 7, 24


def png(generator: np.random.Generator) -> bytes:
    """Noise, which does not compress: about 2 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + generator.bytes(3 * IMAGE_SIDE) for _ in range(IMAGE_SIDE))
    header = struct.pack(">IIBBBBB", IMAGE_SIDE, IMAGE_SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_dump(run: pathlib.Path, layers: int, experts: int, top_k: int, samples: int, length: int) -> None:
    total = samples * length
    ids = np.tile(np.concatenate([[1], np.full(length - 4, IMAGE_TOKEN), [2, 3, 4]]), samples)
    columns = synthetic_dump.columns_of(
        *(np.repeat(np.arange(samples), length), np.tile(np.arange(length), samples)),
        *(np.repeat(np.arange(samples) // 8, length), None, ids),
    )
    for layer in range(layers):
        columns |= synthetic_dump.routed(str(layer), total, layer, experts=experts, top_k=top_k)
    synthetic_dump.write_shard(run / "moetap" / "dump" / "rank0", "language_model", 0, 0, columns)


def measure(name: str, moetap: str, page: pathlib.Path, *arguments) -> None:
    from playwright.sync_api import sync_playwright

    began = time.monotonic()
    subprocess.run([moetap, "report", *map(str, arguments), "-o", page], check=True, capture_output=True)
    written = time.monotonic() - began
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--use-angle=swiftshader"]
        )
        opened = browser.new_page()
        session = opened.context.new_cdp_session(opened)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        began = time.monotonic()
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("html[data-ready=true]")
        ready = time.monotonic() - began
        values = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        figures = opened.evaluate("moetap.page.cards.length")
        browser.close()
    size, busy = page.stat().st_size / 1e6, values["TaskDuration"]
    print(f"| {name} | {size:.2f} MB | {written:.1f} s | {busy:.2f} s | {ready:.2f} s | {figures} |", flush=True)


def main() -> None:
    moetap = sys.argv[1]
    folder = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    print("| page | size | written in | page's main thread until it is ready | by the clock | figures |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    large = folder / "large"
    synthetic_run.write_run(large, layers=62, experts=256, top_k=8, tokens=3000, attention=True)
    measure("62 layers of 256 experts, no dump", moetap, folder / "large.html", large)
    write_dump(large, 62, 256, 8, samples=30, length=100)
    measure("the same with a dump and all studies", moetap, folder / "studied.html", large)
    many = folder / "many"
    synthetic_run.write_run(many, layers=4, experts=8, tokens=20000)
    write_dump(many, 4, 8, 2, samples=1000, length=20)
    (folder / "pictures").mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for sample in range(1000):
        (folder / "pictures" / f"{sample}.png").write_bytes(png(generator))
    images = ["--max-samples", 1000, "--images", folder / "pictures", "--image-token", IMAGE_TOKEN]
    measure("1,000 samples with an image of 1.8 kB each", moetap, folder / "many.html", many, *images)


if __name__ == "__main__":
    main()
