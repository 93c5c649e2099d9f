"""Reads the decisions of routers that do not pass ids and weights to an experts module.

Each reader gets the routing module, its inputs and its output, and returns what `oracle.RouterRecord.tensors` holds.
"""

from __future__ import annotations

import torch


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().reshape(-1, tensor.shape[-1])


def _jetmoe(module, inputs, output):
    logits = output[4]
    top, ids = logits.topk(module.top_k, dim=1)
    weights = torch.softmax(top, dim=1).type_as(inputs[0])
    return {
        "gate_linear": _flat(logits),
        "logits": _flat(logits),
        "topk_ids": _flat(ids),
        "topk_weights": _flat(weights),
    }


def _llama4(module, inputs, output):
    scores, logits = output
    ids = logits.topk(module.top_k, dim=1).indices
    return {
        "gate_linear": _flat(logits),
        "logits": _flat(logits),
        "topk_ids": _flat(ids),
        "topk_weights": _flat(scores.gather(1, ids)),
    }


def _switch(module, inputs, output):
    dispatch, weights, logits = output
    ids = logits.argmax(dim=-1, keepdim=True)
    kept = dispatch.gather(-1, ids).to(weights.dtype)  # 0 where the expert was full
    return {
        "gate_linear": _flat(logits),
        "logits": _flat(logits),
        "topk_ids": _flat(ids),
        "topk_weights": _flat(weights * kept),
    }


def _nllb(module, inputs, output):
    _, combine, logits = output
    first = logits.argmax(dim=-1, keepdim=True)
    second = logits.scatter(-1, first, float("-inf")).argmax(dim=-1, keepdim=True)
    ids = torch.cat([first, second], dim=-1)
    return {
        "gate_linear": _flat(logits),
        "logits": _flat(logits),
        "topk_ids": _flat(ids),
        "topk_weights": _flat(combine.gather(-1, ids)),
    }


def _doge(module, inputs, output):
    logits = output[1]  # [2, T, keys]: half of the score each
    keys = module.num_keys
    values, indices = logits.topk(keys, dim=-1)
    pairs = (values[0].unsqueeze(-1) + values[1].unsqueeze(-2)).flatten(-2)
    pair_ids = (indices[0].unsqueeze(-1) * keys + indices[1].unsqueeze(-2)).flatten(-2)
    scores, places = pairs.topk(module.top_k, dim=-1)
    weights = scores.softmax(dim=-1)
    if module.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return {"topk_ids": _flat(pair_ids.gather(-1, places)), "topk_weights": _flat(weights)}


READERS = {
    "JetMoeTopKGating": _jetmoe,
    "Llama4Router": _llama4,
    "SwitchTransformersTop1Router": _switch,
    "NllbMoeTop2Router": _nllb,
    "DogeCDMoE": _doge,
}
