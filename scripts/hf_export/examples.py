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
    return int(model.config.get_text_config(decoder=True).vocab_size)


def is_vision_language(model) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return "pixel_values" in parameters and getattr(model.config, "vision_config", None) is not None


def example_inputs(model, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Inputs for tracing and, of another batch and length, for the check. Tracing sees enough tokens to reach every
    expert, since a loop over the experts that were hit is unrolled into the trace. Images have one grid: a vision
    tower bakes it into the trace, so that only the text varies."""
    if is_vision_language(model):
        return (
            vision_language_inputs(model, length=40, seed=seed + 100, padded=False),
            vision_language_inputs(model, length=27, seed=seed + 200, padded=True),
        )
    return (
        language_inputs(model, batch=8, length=16, seed=seed + 100, padded=False),
        language_inputs(model, batch=3, length=23, seed=seed + 200, padded=True),
    )


def with_length(model, inputs: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    """Evaluation inputs of another sequence length, for traces that hold for one length only."""
    if is_vision_language(model):
        pixels = next(name for name in inputs if name.startswith("pixel_values"))
        return {**inputs, pixels: inputs[pixels].flip(0)}
    batch = inputs["input_ids"].shape[0]
    return language_inputs(model, batch, length, seed=300, padded=True)


IMAGES = 2  # each example sequence has one


def vision_language_inputs(model, length: int, seed: int, padded: bool) -> dict[str, torch.Tensor]:
    """Two sequences of one image each, then `length` tokens of text."""
    generator = torch.Generator().manual_seed(seed)
    pixels = _pixels(model, generator)
    tokens = _tokens_per_image(model, pixels)
    text = language_inputs(model, IMAGES, length, seed, padded)
    markers = _markers(model.config, tokens)
    ids = torch.cat([torch.tensor([markers] * IMAGES), text["input_ids"]], dim=1)
    mask = torch.cat([torch.ones(IMAGES, len(markers), dtype=torch.long), text["attention_mask"]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": mask}
    position_ids = _position_ids(model, inputs, pixels)
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    # Some families tell image from text tokens by an argument that only the processor makes.
    parameters = inspect.signature(model.forward).parameters
    if "moe_mm_token_type_ids" in parameters:
        inputs["moe_mm_token_type_ids"] = (ids == image_token(model.config)).long()
    elif "mm_token_type_ids" in parameters and position_ids is None:
        inputs["mm_token_type_ids"] = (ids == image_token(model.config)).long()
    return {**inputs, **pixels}


def image_token(config) -> int:
    return next(
        value
        for value in (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        if value is not None
    )


def _markers(config, tokens: int) -> list[int]:
    pair = ("vision_start_token_id", "vision_end_token_id"), ("image_start_token_id", "image_end_token_id")
    around = next(
        ([getattr(config, a), getattr(config, b)] for a, b in pair if isinstance(getattr(config, a, None), int)), None
    )
    image = [image_token(config)] * tokens
    return image if around is None else [around[0], *image, around[1]]


def _pixels(model, generator: torch.Generator) -> dict[str, torch.Tensor]:
    vision = model.config.vision_config
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    patch = vision.patch_size
    parameters = inspect.signature(model.forward).parameters
    if "image_grid_thw" in parameters:
        grid = torch.tensor([[1, 4, 4]] * IMAGES)
        values = channels * patch * patch * (getattr(vision, "temporal_patch_size", None) or 1)
        pixels = torch.randn(int(grid.prod(1).sum()), values, generator=generator)
        return {"pixel_values": pixels, "image_grid_thw": grid}
    size = getattr(vision, "image_size", None) or 4 * patch
    pixels = {"pixel_values": torch.randn(IMAGES, channels, size, size, generator=generator)}
    if "pixel_mask" in parameters:
        pixels["pixel_mask"] = torch.ones(IMAGES, size, size, dtype=torch.bool)
    return pixels


def _tokens_per_image(model, pixels: dict[str, torch.Tensor]) -> int:
    get_features = getattr(model, "get_image_features", None) or model.model.get_image_features
    accepted = inspect.signature(get_features).parameters
    with torch.no_grad():
        features = get_features(**{name: value for name, value in pixels.items() if name in accepted})
    features = getattr(features, "pooler_output", features)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(part.numel() // part.shape[-1] for part in parts) // IMAGES


def _position_ids(model, inputs: dict[str, torch.Tensor], pixels: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The positions, for families whose Python code computes them from the ids: a trace would fix them."""
    get_rope_index = getattr(getattr(model, "model", model), "get_rope_index", None) or getattr(
        model, "get_rope_index", None
    )
    if get_rope_index is None:
        return None
    known = {
        **inputs,
        **pixels,
        "mm_token_type_ids": (inputs["input_ids"] == image_token(model.config)).int(),
    }
    accepted = inspect.signature(get_rope_index).parameters
    return get_rope_index(**{name: known[name] for name in accepted if name in known})[0]
