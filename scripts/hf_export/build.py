"""Builds the eager model of a family or a checkpoint, ready to be traced."""

from __future__ import annotations

import inspect

import torch

# Architectures, in the order in which transformers' auto classes are asked.
VISION_CLASS = "AutoModelForImageTextToText"
AUTO_CLASSES = ("AutoModelForCausalLM", VISION_CLASS, "AutoModelForSeq2SeqLM", "AutoModel")


def build_tiny(family: str, seed: int, attention: str, experts: str, dtype: torch.dtype):
    """A model of the family with small random weights, seeded, in eval mode."""
    from . import tiny

    config = tiny.tiny_config(family)
    torch.manual_seed(seed)
    model = _instantiate(lambda auto, kwargs: auto.from_config(config, **kwargs), config, attention, experts)
    spread_routers(model, seed)
    return model.to(dtype).eval()


def load_checkpoint(directory: str, attention: str, experts: str, dtype: torch.dtype | None):
    """The model in a local checkpoint directory. Nothing is downloaded."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True)

    def load(auto, kwargs):
        return auto.from_pretrained(directory, local_files_only=True, dtype=dtype or "auto", **kwargs)

    return _instantiate(load, config, attention, experts).eval()


def _instantiate(make, config, attention: str, experts: str):
    import transformers

    names = sorted(AUTO_CLASSES, key=lambda name: name != VISION_CLASS) if _has_vision(config) else AUTO_CLASSES
    for name in names:
        auto = getattr(transformers, name)
        if type(config) not in auto._model_mapping:
            continue
        # Families without fused attention or without a choice of expert kernels raise an error that says so.
        for kwargs in (
            {"attn_implementation": attention, "experts_implementation": experts},
            {"attn_implementation": "eager", "experts_implementation": experts},
        ):
            try:
                model = make(auto, kwargs)
            except ValueError as error:
                if kwargs["attn_implementation"] == "eager" or "ttention" not in str(error):
                    raise
                continue
            return model
    raise ValueError(f"transformers has no model class for '{config.model_type}'")


def _has_vision(config) -> bool:
    return getattr(config, "vision_config", None) is not None


def spread_routers(model: torch.nn.Module, seed: int) -> None:
    """Scales the random weights of gates up: initial ones are so small that the scores of experts almost tie."""
    generator = torch.Generator().manual_seed(seed + 1)
    for module in model.modules():
        kind = type(module).__name__
        if any(part in kind for part in ("Router", "Gating", "Top2", "V1Gate", "Doge")) or kind.endswith("MoE"):
            for name, tensor in [*module.named_parameters(recurse=True), *module.named_buffers(recurse=True)]:
                if "expert" in name.split(".")[0] and tensor.dim() != 1:
                    continue  # the experts themselves
                if tensor.dim() == 2 and tensor.is_floating_point():
                    scale = 1.5 / tensor.shape[1] ** 0.5
                    tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * scale)
                elif "bias" in name and tensor.is_floating_point():
                    tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
                elif name.endswith("tid2eid"):
                    experts = getattr(module, "num_experts", None) or tensor.shape[-1]
                    rows = [torch.randperm(experts, generator=generator)[: tensor.shape[1]] for _ in tensor]
                    tensor.copy_(torch.stack(rows))


class Wrapper(torch.nn.Module):
    """Gives a model positional arguments with names, one tensor as output and no cache, as tracing wants them.

    Paths of the traced module start with `model.`.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model


def wrap(model: torch.nn.Module, argument_names: list[str]) -> Wrapper:
    """A `Wrapper` whose forward takes the named arguments, in this order."""
    accepted = inspect.signature(model.forward).parameters
    takes_anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    fixed = {
        name: value
        for name, value in (("use_cache", False), ("return_dict", False))
        if takes_anything or name in accepted
    }

    def forward(self, *arguments):
        outputs = self.model(**dict(zip(argument_names, arguments, strict=True)), **fixed)
        if isinstance(outputs, torch.Tensor):
            return outputs
        values = outputs if isinstance(outputs, tuple | list) else outputs.to_tuple()
        return next(value for value in values if isinstance(value, torch.Tensor))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in ["self", *argument_names]])
    return type("Exported", (Wrapper,), {"forward": forward})(model).eval()
