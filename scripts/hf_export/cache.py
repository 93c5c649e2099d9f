"""Exports a decoder with its key-value cache, so that a host can generate: the interface of examples/generation.

forward(input_ids [B, S], attention_mask [B, P + S], cache [layers, 2, B, heads, P, head width]) returns the logits of
the last position [B, vocabulary] and the cache of P + S positions. P = 0 is a prompt. The attribute `cache_shape` is
the shape of the cache with B = P = 0. Padding is on the left, as `transformers` generates.
"""

from __future__ import annotations

import warnings

import torch

from .build import Wrapper
from .trace import CannotTrace, one_line


class CachedDecoder(Wrapper):
    def __init__(self, model: torch.nn.Module):
        super().__init__(model)
        self.cache_shape = _cache_shape(model)

    def forward(self, input_ids, attention_mask, cache):
        from transformers import DynamicCache

        # Layers of a sliding window keep all positions as well: the attention mask leaves out those before the window.
        past = DynamicCache()
        for layer in range(self.cache_shape[0]):
            past.update(cache[layer, 0], cache[layer, 1], layer)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        caches = [torch.stack([layer.keys, layer.values]) for layer in outputs.past_key_values.layers]
        return outputs.logits[:, -1], torch.stack(caches)


def _cache_shape(model: torch.nn.Module) -> list[int]:
    """[layers, 2, 0, heads, 0, head width]. Throws ValueError for a model whose cache is not such a tensor."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if model.config.is_encoder_decoder:
        raise ValueError("--with-cache is for decoders, this model has an encoder as well")
    layers = DynamicCache(config=model.config).layers
    others = sorted({type(layer).__name__ for layer in layers if not isinstance(layer, DynamicLayer)})
    if others:
        raise ValueError(f"--with-cache is for caches of keys and values alone, this model has {', '.join(others)}")
    ids = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad():
        cache = model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
    shapes = {tuple(tensor.shape) for layer in cache.layers for tensor in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise ValueError(f"--with-cache needs keys and values of one shape in all layers, got {sorted(shapes)}")
    _, heads, _, width = shapes.pop()
    return [len(cache.layers), 2, 0, heads, 0, width]


def empty_cache(decoder: CachedDecoder, batch: int) -> torch.Tensor:
    layers, pair, _, heads, _, width = decoder.cache_shape
    return torch.zeros(layers, pair, batch, heads, 0, width, dtype=next(decoder.parameters()).dtype)


def trace_with_cache(model: torch.nn.Module, seed: int) -> tuple[torch.jit.ScriptModule, dict[str, torch.Tensor]]:
    """The traced decoder, checked at a prompt and at a step of other shapes, and the inputs of that prompt."""
    decoder = CachedDecoder(model).eval()
    generator = torch.Generator().manual_seed(seed + 100)
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)

    def prompt(lengths: list[int]) -> dict[str, torch.Tensor]:
        longest = max(lengths)
        mask = torch.tensor([[0] * (longest - length) + [1] * length for length in lengths])
        ids = torch.randint(vocabulary, mask.shape, generator=generator) * mask
        return {"input_ids": ids, "attention_mask": mask, "cache": empty_cache(decoder, len(lengths))}

    def after(inputs: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
        """`length` tokens that follow what `inputs` held."""
        batch = len(inputs["input_ids"])
        return {
            "input_ids": torch.randint(vocabulary, (batch, length), generator=generator),
            "attention_mask": torch.cat([inputs["attention_mask"], torch.ones(batch, length, dtype=torch.long)], dim=1),
            "cache": decoder(**inputs)[1],
        }

    # A step of one token takes another path of the eager model's attention, which sums in another order.
    limit = 1e-5 if next(model.parameters()).dtype is torch.float32 else 5e-2
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every Python branch; the checks find those that matter
        try:
            # Several tokens after a cache that is not empty: Python code has special cases for lengths 0 and 1.
            module = torch.jit.trace(decoder, tuple(after(prompt([5, 9, 7, 9]), 6).values()), check_trace=False).eval()
            module._c._register_attribute("cache_shape", torch._C.ListType.ofInts(), decoder.cache_shape)
        except Exception as error:
            raise CannotTrace(f"the tracer refuses the model with its cache: {one_line(error)}") from error
        first = prompt([11, 8, 3])
        for name, inputs in {"a prompt": first, "a step": after(first, 1)}.items():
            try:
                actual = module(**inputs)
            except RuntimeError as error:
                raise CannotTrace(f"the trace with a cache fails at {name}: {one_line(error)}") from error
            for part, got, expected in zip(("logits", "cache"), actual, decoder(**inputs), strict=True):
                difference = (got.float() - expected.float()).abs().max().item()
                if not difference <= limit * max(1.0, expected.float().abs().max().item()):
                    raise CannotTrace(
                        f"the trace with cache differs from the eager model in the {part} of {name} by {difference:.3g}"
                    )
    return module, first
