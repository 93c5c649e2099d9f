"""What moetap.attach adds to an eager forward, beside Python hooks:  attach_overhead.py --build build/release [--smoke]

One eager decoder (decoders.py), in turn plain, with hooks that log LibMoE's metrics
(router_hooks.py), plain, and attached. One thread; a figure is the median of the rounds, in brackets the quartiles.
Prints Markdown.
"""

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from decoders import VOCABULARY, Shape, make_decoder
from report import markdown, quartiles
from router_hooks import RouterHooks

CASES = [(1, 1), (4, 1), (16, 1)]
DECODER = Shape("decoder of decoders.py", 128, 64, 8, 64, 4, 2, layers=8, head_width=32)


def timed(model, tokens: torch.Tensor) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    model(tokens)
    return (time.perf_counter() - begun) * 1e3


def spread(values: list[float]) -> str:
    found = quartiles(values)
    return f"{found.median:.3f} [{found.first:.3f}, {found.third:.3f}]"


def measure(decoder, hooks: RouterHooks, batch: int, length: int, rounds: int) -> list[str]:
    import moetap

    tokens = torch.randint(VOCABULARY, (batch, length))
    with tempfile.TemporaryDirectory() as folder:
        plain, by_hooks, by_attach = [], [], []
        twin = copy.deepcopy(decoder, {id(each): each for each in decoder.parameters()})  # shares the weights
        with moetap.attach(twin, Path(folder) / "run", example_inputs=(tokens,)) as recording:
            for _ in range(10):
                twin(tokens)
            for _ in range(rounds):
                before = timed(decoder, tokens)
                with hooks.attached():
                    own = timed(decoder, tokens)
                by_hooks.append(own - before)
                plain.append(timed(decoder, tokens))
                by_attach.append(timed(twin, tokens) - plain[-1])
                recording.flush()
    added = statistics.median(by_attach)
    return [
        f"{batch} x {length}",
        f"{statistics.median(plain):.2f}",
        spread(by_hooks),
        spread(by_attach),
        f"{statistics.median(by_hooks) / added:.1f}" if added > 0 else "not to be told",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True, help="build folder with lib/libmoetap.so")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--smoke", action="store_true", help="few forwards, to see that it runs")
    options = parser.parse_args()
    os.environ["MOETAP_LIBRARY"] = str(options.build.resolve() / "lib" / "libmoetap.so")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
    torch.set_num_threads(1)
    decoder = make_decoder(DECODER, torch.device("cpu"), torch.float32)
    rows = []
    with torch.no_grad(), open(os.devnull, "w") as file:
        hooks = RouterHooks(decoder, decoder.routers(), file)
        for batch, length in CASES[:1] if options.smoke else CASES:
            rows.append(measure(decoder, hooks, batch, length, 5 if options.smoke else options.rounds))
    print(f"PyTorch {torch.__version__}, 1 thread; load average {Path('/proc/loadavg').read_text().split()[0]}\n")
    header = ["sequences x tokens", "eager ms", "hooks add ms", "attach adds ms", "hooks / attach"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
