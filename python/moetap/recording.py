"""`attach`: records what the routers of a model do."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def attach(
    model,
    output_dir: str | Path,
    *,
    example_inputs: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] | None = None,
    **config: Any,
) -> "Recording":
    """Records the routers of `model` into the run directory `output_dir` until the recording is closed.

    model: a ScriptModule, an nn.Module, what torch.compile made of one, or an ExportedProgram. A ScriptModule and an
    ExportedProgram are left as they are: run `Recording.model` instead. An nn.Module gets forward hooks, which
    `Recording.detach` takes away.
    example_inputs: arguments of `forward` (by name, or in order), for a model that is neither scripted nor exported:
    it is traced with them, once, to find its routers. Without them the first forward's own arguments serve; that
    forward then runs twice.
    config: the keys of moetap's configuration (docs/config.md), such as dump="topk".

    Raises ValueError where no router was found or a router's values cannot be reached, with what was looked at.
    """
    recording = Recording(output_dir, config)
    try:
        recording._attach(model, example_inputs)
    except BaseException:
        recording.close(done=False)
        raise
    return recording


class Recording:
    """An open run directory and the model that reports to it. A context manager: leaving it closes the run."""

    def __init__(self, output_dir: str | Path, config: Mapping[str, Any]):
        settings = {**config, "output_dir": str(output_dir)}
        self.model = None
        self.output_dir = Path(output_dir)
        self._session = _refusing(lambda: torch.classes.moetap.Session(json.dumps(settings)))
        self._taps = None

    def _attach(self, model, example_inputs) -> None:
        if isinstance(model, torch.jit.ScriptModule):
            self.model = torch.jit._recursive.wrap_cpp_module(self._bind(model))
            return
        config = json.loads(self._session.config())
        if config["attention"] != "off":
            raise ValueError("attention is recorded from ScriptModules alone: leave it off, or attach a traced model")
        if config["dump_router_input"]:
            raise ValueError("dump_router_input is for ScriptModules alone: leave it out, or attach a traced model")
        if isinstance(model, torch.export.ExportedProgram):
            from moetap.exported import description_of, instrument_with

            description = description_of(model)
            if description is None:
                model = instrument_with(model, self._bind)
            else:
                _refusing(lambda: self._session.attach_description(description))
            self.model = model.module()
        elif isinstance(model, torch.nn.Module):
            from moetap.eager import EagerTaps

            self._taps = EagerTaps(model, self._bind, example_inputs, config["dump"] == "full", config["strict"])
            self.model = model
        else:
            kind = type(model).__name__
            raise TypeError(f"a model is a ScriptModule, an nn.Module or an ExportedProgram, got {kind}")

    def _bind(self, module: torch.jit.ScriptModule):
        """The instrumented twin of a scripted or traced module, bound to this session."""
        return _refusing(lambda: self._session.attach(module, "", ""))

    def label(self, samples: Sequence[int], generation: bool = False) -> None:
        """The samples (one number a sequence) of the forwards that this thread begins from now on."""
        self._session.label(list(samples), generation)

    def clear_label(self) -> None:
        self._session.clear_label()

    def pause(self) -> None:
        """Forwards run unrecorded until `resume`; they use up sample numbers."""
        self._session.pause()

    def resume(self) -> None:
        self._session.resume()

    def log(self, layer: str, name: str, value: float) -> None:
        """Adds a value to the log entry of the forward that this thread is in or began last."""
        self._session.log(layer, name, float(value))

    def flush(self) -> None:
        """Blocks until everything that ended before is in the files."""
        self._session.flush()

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._session.counters())

    def summary(self) -> dict[str, Any]:
        """moetap/summary.json of a closed run."""
        return json.loads((self.output_dir / "moetap" / "summary.json").read_text())

    def detach(self) -> None:
        """Takes the forward hooks away. The run stays open."""
        if self._taps is not None:
            self._taps.remove()
            self._taps = None

    def close(self, done: bool = True) -> None:
        """Detaches and completes the files. done=False: the run can be resumed."""
        self.detach()
        self._session.close(done)
        if error := self._session.write_error():
            raise OSError(error)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close(done=kind is None)


def _refusing(call: Callable[[], Any]) -> Any:
    """What the library refuses is a ValueError of one line."""
    try:
        return call()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(lines[0] if lines else "refused") from None
