"""Checks that an instrumented model gives the plain model's output, bit by bit."""

from __future__ import annotations

import multiprocessing
import pathlib

from .compare import bits_equal
from .zoo import Method, Model

RUNS = 4  # the profiling executor optimises anew in the first runs


def check_outputs(model: Model, library: pathlib.Path, instrumented: list[pathlib.Path], saved: dict) -> dict:
    """Runs the plain and the instrumented models in a process of their own. `saved` are the outputs that runs of
    `moetap run` wrote, a list by method.

    Returns {"problems": [...], "passes": [...]}: the passes of PyTorch that work on the plain model and agreed."""
    return _in_own_process(_compare, model, library, instrumented, saved)


def why_not_run(model: Model) -> str:
    """Why PyTorch itself cannot run the plain model, such as an operator that this version lacks. Empty: it can."""
    problems = _in_own_process(_run_plain, model)["problems"]
    return problems[0] if problems else ""


def _in_own_process(check, *arguments) -> dict:
    """The result that `check(result, *arguments)` fills. Any error of it, and its death, is a problem."""
    # A fork of a process that already computed with torch may hang; the server only imported it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "safetensors.torch", "numpy"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, check, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {"problems": [f"the process that ran the model died: exit code {process.exitcode}"], "passes": []}
    finally:
        process.join()


def _child(sender, check, arguments) -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    result = {"problems": [], "passes": []}
    try:
        check(result, *arguments)
    except Exception as error:  # any error is a finding
        result["problems"].append(f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}")
    sender.send(result)


def _compare(result: dict, model: Model, library: pathlib.Path, instrumented: list[pathlib.Path], saved: dict) -> None:
    import torch

    torch.ops.load_library(str(library))
    for method in model.methods:
        _compare_plain(result, model, instrumented, method, saved.get(method.name, []))
    for name in ("freeze", "optimize_for_inference"):
        _compare_optimised(result, model, instrumented, name)


def _run_plain(result: dict, model: Model) -> None:
    for method in model.methods:
        _run(_load(model.file), method, runs=1)


def _load(file: pathlib.Path):
    import torch

    return torch.jit.load(str(file)).eval()


def _run(module, method: Method, runs: int = RUNS) -> list:
    import torch

    outputs = []
    for _ in range(runs):
        torch.manual_seed(0)  # as `moetap run` does: a model may draw noise
        outputs.append(_first_tensor(getattr(module, method.name)(**method.inputs())).clone())
    return outputs


def _first_tensor(value):
    import torch

    if isinstance(value, torch.Tensor):
        return value
    values = value.values() if isinstance(value, dict) else value
    return next(found for found in map(_first_tensor, values) if found is not None)


def _compare_plain(result: dict, model: Model, instrumented: list[pathlib.Path], method: Method, saved: list) -> None:
    plain = _run(_load(model.file), method)
    for file in instrumented:
        _compare_runs(result, method.name, plain, _run(_load(file), method), file)
    for output in saved:
        if output is not None and not bits_equal(plain[0], output):
            result["problems"].append(f"{method.name}: an output that moetap run saved differs from the plain one")


def _compare_runs(result: dict, what: str, plain: list, reporting: list, file: pathlib.Path) -> None:
    for number, (expected, actual) in enumerate(zip(plain, reporting, strict=True), 1):
        if not bits_equal(expected, actual):
            result["problems"].append(f"{what}: run {number} of {file.name} differs from the plain model's")
            return


def _compare_optimised(result: dict, model: Model, instrumented: list[pathlib.Path], name: str) -> None:
    """Freezing and optimising the instrumented models, where PyTorch's passes work on the plain one."""
    import torch

    transform = {"freeze": torch.jit.freeze, "optimize_for_inference": torch.jit.optimize_for_inference}[name]
    method = model.methods[0]
    if not model.has_paths:
        return  # frozen already
    try:
        plain = _run(transform(_load(model.file)), method)
    except Exception:  # PyTorch's pass does not support this model
        return
    result["passes"].append(name)
    for file in instrumented:
        _compare_runs(result, name, plain, _run(transform(_load(file)), method), file)
