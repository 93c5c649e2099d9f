"""What the oracle of a model says of its attention layers.

In the oracle `attn/KEY/probs_mean` [B, Sq, Sk] is the mean of the heads' probabilities in one call of an attention
module, `attn/KEY/probs` [B, H, Sq, Sk] those of each head where they are known; KEY as for routers. The layers stand in
the model's facts under `attention_layers`, in order of execution.
"""

from __future__ import annotations

import dataclasses

import numpy

from .attention_reference import AttentionCall

TEXT_COMPONENTS = {"language_model", "encoder", "decoder"}
SINK = 1e-2  # of a row's mass: more than rounding


@dataclasses.dataclass
class OracleAttention:
    """One call of an attention module."""

    path: str  # without method and call number
    key: str
    mean: numpy.ndarray  # [B, Sq, Sk]
    heads: numpy.ndarray | None  # [B, H, Sq, Sk]


def attention_of_method(facts: dict, arrays: dict[str, numpy.ndarray], method: str) -> list[OracleAttention]:
    """The calls of a method in order of execution."""
    prefix = "" if method == "forward" else f"{method}:"
    calls = []
    for layer in facts.get("attention_layers", []):
        if layer.get("method", "forward") != method:
            continue
        key = layer["key"]
        path = key.removeprefix(prefix).split("#")[0]
        calls.append(OracleAttention(path, key, arrays[f"attn/{key}/probs_mean"], arrays.get(f"attn/{key}/probs")))
    return calls


def reference_call(oracle: OracleAttention, inputs: dict, component: str) -> AttentionCall:
    """The oracle's call with what its queries and keys are. Masks are those of the text; elsewhere all tokens count."""
    batch, num_queries, num_keys = oracle.mean.shape
    mask, decoder_mask = (_array(inputs.get(name)) for name in ("attention_mask", "decoder_attention_mask"))
    own = decoder_mask if component == "decoder" else mask if component in TEXT_COMPONENTS else None
    queries = _fitting([own], (batch, num_queries))
    is_self = num_queries == num_keys or component != "decoder"
    # Keys behind those of the tokens, such as means of several tokens, are no tokens.
    keys = numpy.zeros((batch, num_keys), bool)
    keys[:, : queries.shape[1] if is_self else num_keys] = queries if is_self else _fitting([mask], (batch, num_keys))
    heads = oracle.heads
    return AttentionCall(
        probabilities=oracle.mean[:, None] if heads is None else heads,
        query_position=_ranks(queries),
        key_position=_ranks(keys),
        self_attention=is_self,
        heads_known=heads is not None,
        has_other_keys=is_self and num_keys > num_queries,
    )


def has_unknown_sink(call: AttentionCall) -> bool:
    """True if mass went to no token and only the heads' mean is known: what the heads' shares are is not."""
    if call.heads_known:
        return False
    mass = (call.probabilities[:, 0] * (call.key_position >= 0)[:, None, :]).sum(axis=2)[call.query_position >= 0]
    return bool(((mass > SINK) & (mass < 1 - SINK)).any())


def _array(value) -> numpy.ndarray | None:
    return None if value is None or value.dim() != 2 else value.bool().numpy()


def _fitting(masks: list[numpy.ndarray | None], shape: tuple[int, int]) -> numpy.ndarray:
    return next((mask for mask in masks if mask is not None and mask.shape == shape), numpy.ones(shape, bool))


def _ranks(valid: numpy.ndarray) -> numpy.ndarray:
    return numpy.where(valid, valid.cumsum(axis=1) - 1, -1)
