"""What recording adds to forwards on a GPU:  gpu_overhead.py --build build/gpu [--device cpu] [--smoke]

Decoder layers shaped like those of well-known models, with random bfloat16 weights, run as TorchScript: plain,
instrumented, and eager with Python hooks that log the same (router_hooks.py). All in one process, in blocks that take
turns. A figure is the median, over the rounds, of a block's time less that of the plain block in its round. Prints
Markdown.

What makes the plain forward slower than a server's, so that percentages come out lower: the experts of a forward of few
tokens are gathered (their weights are copied first); the fuser of TorchScript is off. What makes it faster: no output
head, and steps of generation have no cache to attend to.
"""

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from decoders import VOCABULARY, Shape, make_decoder
from recording import recording, scripted
from report import markdown
from router_hooks import RouterHooks

SHAPES = [
    Shape("Mixtral-8x7B", 4096, 8, 2, 14336, 32, 8, layers=4),
    Shape("Qwen3-30B-A3B", 2048, 128, 8, 768, 32, 4, layers=4),
    Shape("DeepSeek-V3", 7168, 256, 8, 2048, 128, 8, layers=2, sigmoid=True),
]
CASES = [("prefill", 1, 1024), ("prefill", 4, 1024), ("decode", 1, 1), ("decode", 16, 1), ("decode", 64, 1)]
FORWARD = "the forward"  # in a profile


@dataclass
class Way:
    """A way to run the forward; each block runs inside the context manager `around`."""

    name: str
    model: Callable[[torch.Tensor], torch.Tensor]
    around: Callable


@dataclass
class Times:
    """Of one forward, milliseconds."""

    total: float
    added: float  # over the first way, median of the rounds


class Bench:
    def __init__(self, options: argparse.Namespace, folder: Path):
        self._options = options
        self._folder = folder
        self._device = torch.device(options.device)
        self._library = options.library / "libmoetap.so"
        self._num_runs = 0

    def _nothing(self):
        @contextmanager
        def around():
            yield

        return around

    def _session(self, **config):
        @contextmanager
        def around():
            self._num_runs += 1
            with recording(self._library, self._folder / f"run-{self._num_runs}", **config):
                yield

        return around

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def ways(self, shape: Shape) -> list[Way]:
        decoder = make_decoder(shape, self._device, torch.bfloat16)
        plain, instrumented = scripted(decoder, shape, self._options.build / "bin" / "moetap", self._folder)
        ways = [Way("plain", plain, self._nothing())]
        if not self._options.without_kernels:
            ways += [
                Way("no session", instrumented, self._nothing()),
                Way("log_per_token off", instrumented, self._session(log_per_token=False)),
            ]
        ways.append(Way("log_per_token on", instrumented, self._session(log_per_token=True)))
        if not self._options.without_kernels:
            hooks = RouterHooks(decoder, decoder.routers(), (self._folder / "hooks.jsonl").open("w"))
            ways += [
                Way("eager", decoder, self._nothing()),
                Way("eager, hooks", decoder, hooks.attached),
            ]
        return ways

    def _block(self, way: Way, tokens: torch.Tensor, num_forwards: int) -> float:
        """Milliseconds of a forward."""
        with way.around():
            for _ in range(2):  # the first opens the run
                way.model(tokens)
            self.synchronize()
            if self._device.type == "cuda":
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                for _ in range(num_forwards):
                    way.model(tokens)
                end.record()
                end.synchronize()
                return begin.elapsed_time(end) / num_forwards
            begun = time.perf_counter()
            for _ in range(num_forwards):
                way.model(tokens)
            return (time.perf_counter() - begun) * 1000 / num_forwards

    def measure(self, ways: list[Way], tokens: torch.Tensor, seconds: float) -> dict[str, Times]:
        """Rounds for about `seconds`, at least three, unless it is a smoke test."""
        num_forwards = 2 if self._options.smoke else 5 if tokens.size(1) > 1 else 20
        for way in ways:  # TorchScript specialises what it has seen twice
            with way.around():
                for _ in range(3):
                    way.model(tokens)
        self.synchronize()
        rounds: list[dict[str, float]] = []
        begun = time.monotonic()
        least, most = (1, 1) if self._options.smoke else (3, 25)
        while len(rounds) < least or (len(rounds) < most and time.monotonic() - begun < seconds):
            first = len(rounds) % len(ways)
            order = ways[first:] + ways[:first]
            rounds.append({way.name: self._block(way, tokens, num_forwards) for way in order})
        return {
            way.name: Times(
                statistics.median(r[way.name] for r in rounds),
                statistics.median(r[way.name] - r[ways[0].name] for r in rounds),
            )
            for way in ways
        }

    def count(self, way: Way, tokens: torch.Tensor) -> dict[str, int]:
        """What one forward asks of CUDA on this thread, and of LibTorch's allocator."""
        trace = self._folder / "trace.json"
        with way.around():
            for _ in range(3):
                way.model(tokens)
            self.synchronize()
            before = torch.cuda.memory_stats()["allocation.all.allocated"]
            way.model(tokens)
            allocated = torch.cuda.memory_stats()["allocation.all.allocated"] - before
            self.synchronize()
            activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function(FORWARD):
                way.model(tokens)
        profile.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"]
        forward = next(e for e in events if e["name"] == FORWARD and e.get("cat") == "user_annotation")
        ended = forward["ts"] + forward["dur"]
        names = [
            event["name"]
            for event in events
            if event.get("cat") in ("cuda_runtime", "cuda_driver")
            and event.get("tid") == forward["tid"]
            and forward["ts"] <= event["ts"] <= ended
        ]
        return {
            "synchronisations": sum("Synchronize" in name for name in names),
            "cudaMalloc, cudaHostAlloc": sum("Malloc" in name or "HostAlloc" in name for name in names),
            "blocks of LibTorch's allocator": allocated,
            "launches": sum("Launch" in name for name in names),
            "copies and fills": sum("Memcpy" in name or "Memset" in name for name in names),
        }


def fit(shape: Shape, options: argparse.Namespace) -> Shape:
    """The shape with as many layers as leave half of the free memory to the forward."""
    if options.smoke:
        return replace(shape, hidden=32, intermediate=16, heads=4, key_value_heads=2, head_width=8, layers=2)
    if options.device == "cpu":
        return replace(shape, layers=1)
    free = torch.cuda.mem_get_info()[0]
    return replace(shape, layers=max(1, min(shape.layers, int(0.62 * free / shape.layer_bytes()))))


def measure_all(options: argparse.Namespace) -> tuple[dict, dict]:
    """By shape and case: the times of each way, and what the last way with a session asks of CUDA beside plain."""
    times: dict[str, dict[str, Times]] = {}
    calls: dict[str, dict[str, int]] = {}
    seconds = options.seconds / (len(SHAPES) * len(CASES))
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(options, Path(name))
        for full in SHAPES:
            shape = fit(full, options)
            ways = bench.ways(shape)
            for kind, batch, length in CASES[1::2] if options.smoke else CASES:
                length = min(length, 8) if options.smoke else length
                tokens = torch.randint(VOCABULARY, (batch, length), device=options.device)
                label = f"{shape.name}, {shape.layers} layers, {kind} {batch} x {length}"
                times[label] = bench.measure(ways, tokens, seconds)
                print(f"gpu_overhead: {label}", file=sys.stderr)
            if options.device == "cuda" and not options.without_kernels:
                tokens = torch.randint(VOCABULARY, (16, 1), device="cuda")
                counted = [w for w in ways if w.name in ("plain", "no session", "log_per_token on")]
                calls |= {f"{shape.name}, decode 16 x 1, {w.name}": bench.count(w, tokens) for w in counted}
                del counted
            del ways  # the weights: those of the next shape need the memory
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    return times, calls


def measure_without_kernels(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds added with log_per_token on where libmoetap_cuda.so is not there: another process, since one loads
    the library once."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(options.library / "libmoetap.so", folder)
        command = [sys.executable, __file__, "--build", str(options.build), "--library", folder]
        command += ["--device", options.device, "--seconds", str(options.seconds / 3), "--without-kernels"]
        done = subprocess.run(command + ["--smoke"] * options.smoke, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError("measuring without kernels failed; its message stands above")
    return json.loads(done.stdout)


def print_tables(times: dict, calls: dict, without_kernels: dict[str, float]) -> None:
    rows = []
    for label, ways in times.items():
        plain, on = ways["plain"], ways["log_per_token on"]
        hooks = ways["eager, hooks"].total - ways["eager"].total
        rows.append(
            [label, f"{plain.total:.3f}"]
            + [
                f"{ways[name].added * 1000:.0f} ({ways[name].added / plain.total * 100:+.2f} %)"
                for name in ("no session", "log_per_token off", "log_per_token on")
            ]
            + [f"{without_kernels[label] * 1000:.0f}" if label in without_kernels else ""]
            + [f"{ways['eager'].total:.3f}", f"{hooks * 1000:.0f}"]
            + [f"{hooks / on.added:.0f}" if on.added > 0 else "not to be told"]
        )
    header = ["forward", "plain ms", "no session: added us", "log_per_token off: added us"]
    header += ["log_per_token on: added us", "the same without kernels us", "eager ms", "hooks: added us", "hooks / on"]
    print(markdown(header, rows))
    if calls:
        names = list(next(iter(calls.values())))
        print("\nWhat one forward asks of CUDA on its thread:\n")
        print(markdown(["forward", *names], [[label, *map(str, found.values())] for label, found in calls.items()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="build folder with bin/moetap and lib/libmoetap.so")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=30, help="of measuring, without setting up")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--without-kernels", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.library = options.library or options.build / "lib"
    if options.device == "cuda" and not torch.cuda.is_available():
        print("nothing measured: no CUDA device")
        return
    if options.smoke:
        torch.set_num_threads(1)  # beside other tests
    torch._C._jit_set_texpr_fuser_enabled(False)  # it compiles anew for each shape
    torch.ops.load_library(str(options.library / "libmoetap.so"))
    with torch.no_grad():
        times, calls = measure_all(options)
    if options.without_kernels:
        print(json.dumps({label: ways["log_per_token on"].added for label, ways in times.items()}))
        return
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, PyTorch {torch.__version__}\n")
    print_tables(times, calls, measure_without_kernels(options))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"gpu_overhead.py: {str(error).strip().splitlines()[-1]}")
