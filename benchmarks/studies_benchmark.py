"""Times `moetap analyze` on the notebook's arrays, against NumPy and against loops over elements, in one run.

    benchmarks/studies_benchmark.py --build build/release [--arrays FOLDER] [--samples 1149 --length 300 ...] [--smoke]

Without --arrays the arrays are made (make_arrays.py) in a temporary folder. moetap and NumPy read warm files; each is
run --repeats times and the median stands in the table, as does the largest resident set. The loops take some samples
of one layer, and their time is scaled by cells of attention. Before times are shown, gate mass and distances of all
three are compared.
"""

import argparse
import csv
import os
import subprocess
import tempfile
import time
from pathlib import Path

import make_arrays
import notebook_studies
import numpy as np
from report import markdown, quartiles

LOOP_SAMPLES = 2
STUDIES = [
    *("sankey_token_expert", "sankey_expert_region", "sankey_group_expert_region", "expert_attention_patterns"),
    *("information_flow", "region_specialization", "layer_statistics", "expert_usage", "layer_changes", "top_experts"),
    *("expert_stability", "expert_transitions", "expert_evolution_stats", "sankey_evolution", "evolution_report"),
    "expert_cooperation",
]  # the notebook's, but for those of FASTA files


def run_moetap(program: Path, folder: Path, out: Path, more: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident set in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [program, "analyze", folder, "-o", out, "--only", ",".join(STUDIES), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"moetap analyze failed: {errors.strip()}")
    return seconds, usage.ru_maxrss / 1024


def warm(folder: Path) -> float:
    """Reads every file; returns the seconds of the second time."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for file in sorted(folder.glob("*.npy")):
            with open(file, "rb", buffering=0) as stream:
                buffer = bytearray(1 << 22)
                while stream.readinto(buffer):
                    pass
        seconds = time.perf_counter() - start
    return seconds


def summary(out: Path) -> np.ndarray:
    """[L, E, 2] gate mass and mean distance that moetap wrote."""
    with open(out / "expert_attention_summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    layers = int(rows[-1]["layer"])
    cells = [[float(row["gate_mass"]), float(row["mean_distance"] or "nan")] for row in rows]
    return np.array(cells).reshape(layers, -1, 2)


def compare(arrays: notebook_studies.Arrays, out: Path, found: dict, loops: np.ndarray, samples: list[int]) -> None:
    """Stops if the three disagree."""
    written = summary(out)
    for layer, studies in found.items():
        attention = studies["attention"]
        np.testing.assert_allclose(written[layer, :, 0], attention.mass, rtol=1e-9)
        used = attention.mass > 0
        distance = attention.distance[used] / attention.mass[used]
        np.testing.assert_allclose(written[layer, used, 1], distance, rtol=1e-9)
    one = notebook_studies.Attention(arrays.num_experts)
    for sample in samples:
        n = int(arrays.length[sample])
        ids = arrays.topk[0, sample, :n]
        gates = np.take_along_axis(arrays.gates[0, sample, :n], ids, axis=1).astype(np.float64)
        one.add(arrays.attention[0, sample, :n, :n], ids, gates)
    np.testing.assert_allclose(one.distance, loops, rtol=1e-9)


def measure(options: argparse.Namespace, folder: Path, work: Path) -> None:
    reading = warm(folder)
    program = options.build / "bin" / "moetap"
    rows = []
    taken = {}
    for name, more in [
        ("recommended", []),
        ("notebook", ["--definitions", "notebook"]),
        ("with --matrices", ["--matrices"]),
    ]:
        runs = [run_moetap(program, folder, work / f"out-{name}-{i}", more) for i in range(options.repeats)]
        taken[name] = quartiles([seconds for seconds, _ in runs]).median
        rows.append([f"moetap analyze, {name}", f"{taken[name]:.3f}", f"{max(peak for _, peak in runs):.0f}", ""])

    arrays = notebook_studies.Arrays(folder)
    times = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        found = notebook_studies.vectorised(arrays)
        times.append(time.perf_counter() - start)
    numpy_seconds = quartiles(times).median

    samples = list(np.flatnonzero(arrays.length > 0)[:LOOP_SAMPLES])
    start = time.perf_counter()
    loops = notebook_studies.looped(arrays, 0, samples)
    share = notebook_studies.cells(arrays, samples, 1)
    share /= notebook_studies.cells(arrays, range(arrays.num_samples), arrays.num_layers)
    loop_seconds = (time.perf_counter() - start) / share

    compare(arrays, work / "out-recommended-0", found, loops, samples)
    fastest = taken["recommended"]
    rows.append(["NumPy, vectorised", f"{numpy_seconds:.3f}", "", f"{numpy_seconds / fastest:.1f} x"])
    rows.append(
        [f"loops ({share:.2%} of the cells, scaled)", f"{loop_seconds:.0f}", "", f"{loop_seconds / fastest:.0f} x"]
    )
    rows.append(["reading the files, one thread", f"{reading:.3f}", "", ""])
    shape = " x ".join(str(size) for size in arrays.attention.shape)
    gibibytes = arrays.attention.nbytes / 2**30
    print(f"Attention {shape} {arrays.attention.dtype}, {gibibytes:.2f} GiB; load average {os.getloadavg()[0]:.1f}\n")
    print(markdown(["", "seconds", "peak MiB", "against moetap"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="build folder that holds bin/moetap")
    parser.add_argument("--arrays", type=Path, help="folder of arrays; default: made")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=1149)
    parser.add_argument("--length", type=int, default=300)
    parser.add_argument("--experts", type=int, default=30)
    parser.add_argument("--top-k", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny arrays")
    options = parser.parse_args()
    if options.smoke:
        options.layers, options.samples, options.length, options.experts, options.repeats = 2, 12, 40, 6, 1
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = options.arrays
        if folder is None:
            folder = work / "arrays"
            sizes = make_arrays.Sizes(
                options.layers, options.samples, options.length, options.experts, options.top_k, options.length // 6
            )
            make_arrays.write(folder, sizes)
        measure(options, folder, work)


if __name__ == "__main__":
    main()
