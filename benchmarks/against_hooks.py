"""What Python forward hooks add to a forward, beside moetap:  against_hooks.py --build build/release [--smoke]

The same weights run eager, with and without hooks that log LibMoE's metrics (router_hooks.py), and in TorchScript, with
and without moetap: decoders of this folder, and one of transformers where that is installed. One thread, one process.
A forward with hooks runs between two plain eager ones, a recorded one between two plain ones of TorchScript, in turn; a
figure is the median of the rounds, in brackets the quartiles. Prints Markdown.

Of hooks, all is in the forward: Python's JSON and the file too ("of these writing"). Of moetap, the writer thread works
beside the next forward, if there is a core for it; its processor time has a column of its own. Before the next forward
the benchmark waits until all is on the disk. What moetap does when a session closes (the log in LibMoE's layout) is not
measured.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from decoders import VOCABULARY, Shape, make_decoder
from recording import MoetapSession, instrumented, recording, scripted
from report import Quartiles, markdown, quartiles
from router_hooks import RouterHooks
from torch import nn

STEPS = [(1, 1), (4, 1), (16, 1)]  # sequences, tokens of each
PROMPTS = [(1, 128), (4, 128), (4, 512)]
SMOKE_CASES = [(1, 1), (2, 4)]
# What is added must not drown in the forward's own changes, which grow with it: small layers, and for many tokens
# smaller ones. What hooks and moetap do of a token is the same in both: 8 routers, top-8 of 64 experts.
DECODER = Shape("decoder of decoders.py", 128, 64, 8, 64, 4, 2, layers=8, head_width=32)
SMALLER = Shape("smaller decoder of decoders.py", 32, 64, 8, 8, 4, 2, layers=8, head_width=8)


@dataclass
class Contest:
    """The same weights four ways; the last two with hooks and a session around them."""

    name: str
    eager: nn.Module
    routers: list[nn.Module]
    plain: nn.Module
    recorded: nn.Module
    cases: list[tuple[int, int]]


def make_contest_of_steps(options: argparse.Namespace, folder: Path) -> Contest:
    return make_contest(DECODER, STEPS, options, folder)


def make_contest_of_prompts(options: argparse.Namespace, folder: Path) -> Contest:
    return make_contest(SMALLER, PROMPTS, options, folder)


def make_contest(shape: Shape, cases: list[tuple[int, int]], options: argparse.Namespace, folder: Path) -> Contest:
    decoder = make_decoder(shape, torch.device("cpu"), torch.float32)
    plain, recorded = scripted(decoder, shape, options.moetap, folder)
    return Contest(shape.name, decoder, decoder.routers(), plain, recorded, cases)


def make_contest_of_transformers(options: argparse.Namespace, folder: Path) -> Contest | None:
    try:
        from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    except ImportError:
        return None
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from hf_export.build import spread_routers
    from hf_export.trace import trace

    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=DECODER.hidden,
        num_hidden_layers=DECODER.layers,
        num_experts=DECODER.experts,
        num_experts_per_tok=DECODER.top_k,
        norm_topk_prob=True,
        moe_intermediate_size=DECODER.intermediate,
        num_attention_heads=DECODER.heads,
        num_key_value_heads=DECODER.key_value_heads,
        head_dim=DECODER.head_width,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM._from_config(config, attn_implementation="sdpa", experts_implementation="batched_mm")
    spread_routers(model, 0)
    model = model.eval()
    traced = trace(model, {"input_ids": random_tokens(2, 8)}, {"input_ids": random_tokens(3, 5)})
    plain, recorded = instrumented(traced.module, options.moetap, folder)
    routers = [layer.mlp.gate for layer in model.model.layers]
    name = "Qwen3MoeForCausalLM of transformers"
    # No prompts: its experts that can be traced copy weights for every token.
    return Contest(name, traced.eager, routers, plain, recorded, STEPS)


def random_tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, length))


@dataclass
class Time:
    """Milliseconds of a forward: wall time, and processor time of its thread."""

    wall: float
    cpu: float


def timed(model: Callable, tokens: torch.Tensor) -> Time:
    cpu_begun, begun = time.thread_time(), time.perf_counter()
    model(tokens)
    ended = time.perf_counter()
    return Time((ended - begun) * 1e3, (time.thread_time() - cpu_begun) * 1e3)


@dataclass
class Added:
    """To a forward, by way of watching; milliseconds, one value a round."""

    plain: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, before: Time, own: Time, after: Time) -> None:
        self.plain.append((before.wall + after.wall) / 2)
        self.wall.append(own.wall - self.plain[-1])
        self.cpu.append(own.cpu - (before.cpu + after.cpu) / 2)


def writer_cpu_ms() -> float:
    """Of the session's writer thread."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "moetap-writer":
            return int((task / "schedstat").read_text().split()[0]) / 1e6
    raise RuntimeError("there is no thread moetap-writer")


def operators_ms(recorded: nn.Module, tokens: torch.Tensor, num_forwards: int) -> float:
    """Inside moetap's operators, a forward. The profiler slows what these call, so it is an upper bound."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        for _ in range(num_forwards):
            recorded(tokens)
    inside = [event.cpu_time_total for event in profile.events() if event.name.startswith("moetap::")]
    if not inside:
        raise RuntimeError("no operator of moetap ran")
    return sum(inside) / 1e3 / num_forwards


def spread(values: list[float]) -> str:
    found: Quartiles = quartiles(values)
    return f"{found.median:.2f} [{found.first:.2f}, {found.third:.2f}]"


def ratio(hooks: list[float], moetap: list[float]) -> str:
    added = statistics.median(moetap)
    return f"{statistics.median(hooks) / added:.1f}" if added > 0 else "not to be told"


def measure(
    contest: Contest, session: MoetapSession, hooks: RouterHooks, tokens: torch.Tensor, options: argparse.Namespace
) -> list[str]:
    """A row of the table."""
    smoke = options.smoke
    warm_up = 2 if smoke else 10 if tokens.numel() <= 16 else 3  # the first calls of a router check themselves
    for model in [contest.eager, contest.plain, contest.recorded] * warm_up:
        model(tokens)
    if not torch.allclose(contest.eager(tokens), contest.plain(tokens), atol=1e-3):
        raise RuntimeError("the eager model and the one of TorchScript must give the same")
    by_hooks, by_moetap = Added(), Added()
    writing: list[float] = []
    written: list[float] = []
    begun = time.monotonic()
    least, most = (1, 1) if smoke else (7, 200)
    while len(writing) < least or (len(writing) < most and time.monotonic() - begun < options.seconds):
        before, writing_s = timed(contest.eager, tokens), hooks.writing_s
        with hooks.attached():
            own = timed(contest.eager, tokens)
        writing.append((hooks.writing_s - writing_s) * 1e3)
        by_hooks.add(before, own, timed(contest.eager, tokens))
        before, writer_ms = timed(contest.plain, tokens), writer_cpu_ms()
        own = timed(contest.recorded, tokens)
        session.flush()
        written.append(writer_cpu_ms() - writer_ms)
        by_moetap.add(before, own, timed(contest.plain, tokens))
    return [
        f"{tokens.size(0)} x {tokens.size(1)}",
        f"{statistics.median(by_hooks.plain):.2f}",
        spread(by_hooks.wall),
        f"{statistics.median(writing):.2f}",
        f"{statistics.median(by_moetap.plain):.2f}",
        spread(by_moetap.wall),
        ratio(by_hooks.wall, by_moetap.wall),
        ratio(by_hooks.cpu, by_moetap.cpu),
        f"{operators_ms(contest.recorded, tokens, 1 if smoke else 3):.2f}",
        f"{statistics.median(written):.2f}",
    ]


def check_that_both_log_the_same(contest: Contest, folder: Path, options: argparse.Namespace) -> None:
    tokens = random_tokens(2, 5)
    with (folder / "checked.jsonl").open("w+") as file:
        with RouterHooks(contest.eager, contest.routers, file).attached():
            contest.eager(tokens)
        file.seek(0)
        by_hooks = [json.loads(line)["layers"] for line in file]
    session = MoetapSession(str(options.library), output_dir=str(folder / "checked"), unlabelled="new")
    contest.recorded(tokens)
    session.close()
    logs = json.loads((folder / "checked" / "log_metrics.json").read_text())["logs"]
    by_moetap = [entry["logs_metrics_vision"][0][0] for entry in logs]
    if len(by_hooks) != len(by_moetap):
        raise RuntimeError(f"hooks log {len(by_hooks)} samples, moetap {len(by_moetap)}")
    for sample, (hooks, moetap) in enumerate(zip(by_hooks, by_moetap, strict=True)):
        for layer, metrics in hooks.items():
            for name, value in metrics.items():
                own = torch.tensor(moetap[layer][name], dtype=torch.double)
                if not torch.allclose(torch.tensor(value, dtype=torch.double), own, rtol=1e-3, atol=1e-5):
                    raise RuntimeError(f"sample {sample}, layer {layer}, {name}: hooks {value}, moetap {own.tolist()}")


HEADER = ["sequences x tokens", "eager ms", "hooks add ms", "of these writing", "TorchScript ms", "moetap adds ms"]
HEADER += ["hooks / moetap", "the same, processor time", "moetap's operators, profiled ms", "writer thread ms"]


def run(options: argparse.Namespace) -> None:
    for make in (make_contest_of_steps, make_contest_of_prompts, make_contest_of_transformers):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            contest = make(options, folder)
            if contest is None:
                print("\ntransformers is not installed: not measured")
                continue
            check_that_both_log_the_same(contest, folder, options)
            rows = []
            with recording(options.library, folder / "run") as session, (folder / "hooks.jsonl").open("w") as file:
                hooks = RouterHooks(contest.eager, contest.routers, file)
                for batch, length in SMOKE_CASES if options.smoke else contest.cases:
                    rows.append(measure(contest, session, hooks, random_tokens(batch, length), options))
                    print(f"against_hooks: {contest.name}, {batch} x {length}", file=sys.stderr)
        print(f"\n{contest.name}:\n\n{markdown(HEADER, rows)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="build folder with bin/moetap and lib/libmoetap.so")
    parser.add_argument("--seconds", type=float, default=8, help="of measuring each case, without setting up")
    parser.add_argument("--smoke", action="store_true", help="few forwards, to see that it runs")
    options = parser.parse_args()
    options.moetap = options.build / "bin" / "moetap"
    options.library = options.build / "lib" / "libmoetap.so"
    warnings.filterwarnings("ignore", module="transformers")
    torch.set_num_threads(1)
    torch._C._jit_set_texpr_fuser_enabled(False)  # it compiles anew for each shape
    torch.ops.load_library(str(options.library))
    print(f"PyTorch {torch.__version__}, 1 thread; load average {Path('/proc/loadavg').read_text().split()[0]}")
    with torch.no_grad():
        run(options)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"against_hooks.py: {str(error).strip().splitlines()[-1]}")
