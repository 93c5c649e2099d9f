"""What moetap is compared with: Python forward hooks on the routers of an eager model."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import torch
from torch import nn


class RouterHooks:
    """Logs LibMoE's metrics of each sample, one line of JSON a sample.

    Written with care for time: what a layer reports stays on its device and is reduced there, and the layers go to the
    host together when the forward is over. All layers have the same number of experts, and a router returns logits
    [T, E], weights [T, K] and ids [T, K], K at least 2.
    """

    def __init__(self, model: nn.Module, routers: list[nn.Module], file: TextIO):
        self._model, self._routers, self._file = model, routers, file
        self._num_samples = 0
        self._batch = 0
        self._layers: list[dict[str, torch.Tensor]] = []
        self.writing_s = 0.0  # in Python's JSON and the file, in all

    def _forward_begins(self, _model: nn.Module, inputs: tuple) -> None:
        self._batch = inputs[0].size(0)
        self._layers.clear()

    def _observe(self, _router: nn.Module, _inputs: tuple, outputs: tuple) -> None:
        logits, weights, ids = outputs
        experts = logits.size(-1)
        logits = logits.float().view(self._batch, -1, experts)
        weights = weights.float().view(self._batch, -1, weights.size(-1))
        ids = ids.view(self._batch, -1, ids.size(-1))
        probabilities = torch.softmax(logits, dim=-1)
        shares = weights / weights.sum(dim=-1, keepdim=True)
        counts = torch.zeros(self._batch, 3, experts, device=ids.device)
        best, slots = weights.topk(2, dim=-1)
        first = ids.gather(-1, slots[..., :1]).squeeze(-1)
        for row, chosen in enumerate((probabilities.argmax(dim=-1), ids.flatten(1), first)):
            counts[:, row].scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float))
        of_first = counts[:, 2] / logits.size(1)
        numbers = [
            -(shares * torch.log(shares + 1e-9)).sum(dim=-1).mean(dim=1),
            -(probabilities * torch.log(probabilities + 1e-9)).sum(dim=-1).mean(dim=1),
            (of_first * probabilities.mean(dim=1)).mean(dim=-1) * experts**2,
            torch.logsumexp(logits, dim=-1).square().mean(dim=1),
        ]
        self._layers.append(
            {
                "numbers": torch.stack(numbers, dim=1),
                "counts": counts[:, :2].long(),
                "margins": best[..., 0] - best[..., 1],
                "ids": ids.flatten(1),
            }
        )

    def _forward_ends(self, _model: nn.Module, _inputs: tuple, _output: torch.Tensor) -> None:
        # [layer][sample]...
        values = {name: torch.stack([layer[name] for layer in self._layers]).tolist() for name in self._layers[0]}
        begun = time.perf_counter()
        for sample in range(self._batch):
            layers = {}
            for layer in range(len(self._layers)):
                numbers, counts = values["numbers"][layer][sample], values["counts"][layer][sample]
                layers[str(layer)] = {
                    "entropy_weight_topk": numbers[0],
                    "entropy_weight_all": numbers[1],
                    "balance_loss": numbers[2],
                    "router_z_loss": numbers[3],
                    "dist_experts_top1": counts[0],
                    "dist_experts_top2": counts[1],
                    "router_magine": values["margins"][layer][sample],
                    "selected_experts": values["ids"][layer][sample],
                }
            self._file.write(json.dumps({"doc_id": self._num_samples, "layers": layers}) + "\n")
            self._num_samples += 1
        self.writing_s += time.perf_counter() - begun

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [router.register_forward_hook(self._observe) for router in self._routers]
        handles.append(self._model.register_forward_pre_hook(self._forward_begins))
        handles.append(self._model.register_forward_hook(self._forward_ends))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
