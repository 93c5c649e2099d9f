"""TorchScript models, plain and instrumented, and sessions that record them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "generation"))

from decoders import Decoder, Shape
from moetap_session import MoetapSession


def instrumented(module: torch.jit.ScriptModule, moetap: Path, folder: Path) -> tuple[nn.Module, nn.Module]:
    """The module as it comes back from its file, and what the program `moetap` makes of it."""
    plain, recorded = folder / "plain.pt", folder / "recorded.pt"
    module.save(str(plain))
    done = subprocess.run([moetap, "instrument", plain, "-o", recorded], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"moetap instrument failed: {done.stderr.strip()}")
    return torch.jit.load(str(plain)), torch.jit.load(str(recorded))


def scripted(decoder: Decoder, shape: Shape, moetap: Path, folder: Path) -> tuple[nn.Module, nn.Module]:
    """The decoder in TorchScript, plain and instrumented, with its weights. The files hold small ones."""
    weights = dict(decoder.named_parameters())
    small = replace(shape, hidden=16, intermediate=8, head_width=2)
    made = instrumented(torch.jit.script(Decoder(small).to(decoder.dtype()).eval()), moetap, folder)
    for module in made:
        for name, weight in module.named_parameters():
            weight.data = weights[name].data
    return made


@contextmanager
def recording(library: Path, run: Path, **config) -> Iterator[MoetapSession]:
    """A session on the folder `run`, which is removed afterwards. Raises RuntimeError if not all was recorded."""
    session = MoetapSession(str(library), output_dir=str(run), unlabelled="new", **config)
    try:
        yield session
    finally:
        session.close()
    counters = json.loads((run / "moetap" / "manifest.json").read_text())["counters"]
    if counters["tokens"] == 0 or counters["failed_hooks"] > 0:
        raise RuntimeError(f"nothing was recorded, or not all: {counters}")
    shutil.rmtree(run)
