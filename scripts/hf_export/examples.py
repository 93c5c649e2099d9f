"""Example inputs of a model, for tracing and for checking the trace at another shape."""

from __future__ import annotations

import inspect

import torch

from .tiny import FIRST_TEXT_TOKEN, LAST_TEXT_TOKEN


def language_inputs(model, batch: int, length: int, seed: int, padded: bool) -> dict[str, torch.Tensor]:
    """Token ids and mask by argument name. With `padded`, every row after the first ends in padding."""
    generator = torch.Generator().manual_seed(seed)
    upper = min(LAST_TEXT_TOKEN, _vocabulary(model) - 1)
    ids = torch.randint(FIRST_TEXT_TOKEN, upper, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        pad = model.config.get_text_config().pad_token_id
        for row in range(1, batch):
            mask[row, length - 2 - 2 * row :] = 0
        ids = ids.masked_fill(mask == 0, pad if isinstance(pad, int) and 0 <= pad < upper else 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(
            FIRST_TEXT_TOKEN, upper, (batch, length // 2 + 1), generator=generator
        )
    return inputs


def _vocabulary(model) -> int:
    return int(model.config.get_text_config().vocab_size)


def is_vision_language(model) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return "pixel_values" in parameters and getattr(model.config, "vision_config", None) is not None


def example_inputs(model, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Inputs for tracing and, of another batch and length, for the check. Tracing sees enough tokens to reach every
    expert, since a loop over the experts that were hit is unrolled into the trace."""
    return (
        language_inputs(model, batch=2, length=16, seed=seed + 100, padded=False),
        language_inputs(model, batch=3, length=23, seed=seed + 200, padded=True),
    )


def with_length(model, inputs: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    """Evaluation inputs of another sequence length, for traces that hold for one length only."""
    batch = inputs["input_ids"].shape[0]
    return language_inputs(model, batch, length, seed=300, padded=True)
