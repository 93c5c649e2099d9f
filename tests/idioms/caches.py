"""Steps of generation: keys of earlier tokens come in an argument, and the mask covers them, too."""

import torch
from models import padded
from parts import BATCH, DIM, LENGTH, VOCAB, idiom
from structure import Block, PlainMoE
from torch import nn

PAST, PLACES = 4, 12


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """q, k, v [B, 1, S, D], mask [B, M]."""
    bias = (1.0 - mask[:, None, None, :].to(q.dtype)) * -1e9
    return (torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1) @ v).squeeze(1)


def growing(own: torch.Tensor) -> dict[str, torch.Tensor]:
    """A mask over a cache of PAST tokens and `own` ones, which are padded on the right."""
    ids = padded()["input_ids"]
    before = torch.ones(BATCH, PAST, dtype=torch.int64)
    before[0, :2] = 0
    keys = torch.randn(BATCH, 1, PAST, DIM)
    return {"input_ids": ids, "attention_mask": torch.cat([before, own], 1), "past": keys}


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, DIM)
        self.q, self.k = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.block = Block(PlainMoE())


@idiom("script", wrap="none", inputs=lambda: growing(padded()["attention_mask"]))
class GrowingCache(Cached):
    """The keys are put behind those of the cache."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        keys = torch.cat([past, self.k(x).unsqueeze(1)], dim=-2)
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))


@idiom("trace", wrap="none", inputs=lambda: growing(padded()["attention_mask"]))
class GrowingCachePositions(Cached):
    """Positions by a running sum of the mask, of which the end is taken."""

    def __init__(self):
        super().__init__()
        self.places = nn.Embedding(PAST + LENGTH, DIM)

    def forward(self, input_ids, attention_mask, past):
        length = input_ids.shape[1]
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
        x = self.emb(input_ids) + self.places(positions)
        keys = torch.cat((past, self.k(x).unsqueeze(1)), dim=2)
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))


def before_memory() -> dict[str, torch.Tensor]:
    """A mask over the tokens and behind them a memory, of which one place is closed."""
    mask = torch.ones(BATCH, LENGTH + PAST, dtype=torch.int64)
    mask[0, -1] = 0
    memory = torch.randn(BATCH, 1, PAST, DIM)
    return {"input_ids": padded()["input_ids"], "attention_mask": mask, "memory": memory}


@idiom("script", wrap="none", inputs=before_memory)
class OwnKeysBeforeAMemory(Cached):
    """The tokens' keys stand before those of a memory, and one mask covers both: its last columns are no tokens."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        x = self.emb(input_ids)
        keys = torch.cat([self.k(x).unsqueeze(1), memory], dim=-2)
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))


def static(padding: bool = True) -> dict[str, torch.Tensor]:
    """A mask over all places of a buffer, of which the tokens' are written in this forward."""
    inputs = padded()
    if not padding:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    mask = torch.zeros(BATCH, PLACES, dtype=torch.int64)
    mask[:, :PAST] = 1
    mask[:, PAST : PAST + LENGTH] = inputs["attention_mask"]
    places = torch.arange(PAST, PAST + LENGTH)
    keys = torch.randn(BATCH, 1, PLACES, DIM)
    return {"input_ids": inputs["input_ids"], "attention_mask": mask, "cache": keys, "cache_position": places}


@idiom("script", wrap="none", inputs=static)
class StaticCache(Cached):
    """The keys are written to their places in a buffer."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache: torch.Tensor,
        cache_position: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        keys = cache.index_copy(2, cache_position, self.k(x).unsqueeze(1))
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))


def listed(padding: bool) -> dict[str, object]:
    inputs = static(padding)
    caches = [torch.randn(BATCH, 1, PLACES, DIM), inputs.pop("cache")]
    return {**inputs, "caches": caches}


@idiom("script", wrap="none", inputs=lambda: listed(padding=False))
class StaticCacheInAList(Cached):
    """The keys are written into a slice of an element of a list: which columns of the mask are theirs is not known."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        caches: list[torch.Tensor],
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        first = int(cache_position[0])
        caches[1][:, :, first : first + x.size(1)] = self.k(x).unsqueeze(1)
        keys = caches[1]
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))


@idiom("script", wrap="none", inputs=lambda: listed(padding=True))
class StaticCacheInAListByIndex(Cached):
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        caches: list[torch.Tensor],
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        caches[1].index_copy_(2, cache_position, self.k(x).unsqueeze(1))
        keys = caches[1]
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, keys, attention_mask))
