"""Caches of all layers in one tensor, of which a forward fills its own places."""

import torch
from caches import PLACES, Cached, attend, static
from parts import BATCH, DIM, idiom

LAYERS = 3


def of_layers(padding: bool = True, kinds: int = 2) -> dict[str, torch.Tensor]:
    """[layers, keys and values, B, H, places, D], with the layer that runs the second."""
    inputs = static(padding)
    inputs.pop("cache")
    return {**inputs, "cache": torch.randn(LAYERS, kinds, BATCH, 1, PLACES, DIM)}


class KeysAndValues(Cached):
    def __init__(self):
        super().__init__()
        self.v = torch.nn.Linear(DIM, DIM)


@idiom("script", wrap="none", inputs=of_layers)
class OneTensorOfCaches(KeysAndValues):
    """Keys and values are copied into views of the tensor by their places."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        cache: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        layer = cache[1]
        keys, values = layer[0], layer[1]
        keys.index_copy_(2, cache_position, self.k(x).unsqueeze(1))
        values.index_copy_(2, cache_position, self.v(x).unsqueeze(1))
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, values, attention_mask))


@idiom("script", wrap="none", inputs=of_layers)
class OneTensorOfCachesByIndex(KeysAndValues):
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        cache: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        cache[1, 0, :, :, cache_position] = self.k(x).unsqueeze(1)
        cache[1, 1, :, :, cache_position] = self.v(x).unsqueeze(1)
        return self.block(x + attend(self.q(x).unsqueeze(1), cache[1, 0], cache[1, 1], attention_mask))


@idiom("trace", wrap="none", inputs=of_layers)
class TracedTensorOfCaches(KeysAndValues):
    def forward(self, input_ids, attention_mask, cache_position, cache):
        x = self.emb(input_ids)
        keys, values = cache.select(0, 1).unbind(0)
        keys.index_copy_(-2, cache_position, self.k(x).unsqueeze(1))
        values.index_copy_(-2, cache_position, self.v(x).unsqueeze(1))
        return self.block(x + attend(self.q(x).unsqueeze(1), keys, values, attention_mask))


@idiom("script", wrap="none", inputs=lambda: of_layers(padding=False))
class OneTensorOfCachesBySlices(KeysAndValues):
    """Places from a number on."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        cache: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        first = int(cache_position[0])
        cache[1, 0, :, :, first : first + x.size(1)] = self.k(x).unsqueeze(1)
        cache[1, 1, :, :, first : first + x.size(1)] = self.v(x).unsqueeze(1)
        return self.block(x + attend(self.q(x).unsqueeze(1), cache[1, 0], cache[1, 1], attention_mask))


@idiom("script", wrap="none", inputs=of_layers)
class NewTensorOfCaches(KeysAndValues):
    """Keys and values together, written into a copy of the layer's part, which goes into a new tensor."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        cache: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        both = torch.stack([self.k(x).unsqueeze(1), self.v(x).unsqueeze(1)])
        layer = cache[1].index_copy(3, cache_position, both)
        return self.block(x + attend(self.q(x).unsqueeze(1), layer[0], layer[1], attention_mask))


@idiom("script", wrap="none", inputs=of_layers)
class CachesOfALayersLoop(KeysAndValues):
    """Each layer takes its part by its number."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cache_position: torch.Tensor,
        cache: torch.Tensor,
    ) -> torch.Tensor:
        x = self.emb(input_ids)
        for layer in range(cache.size(0)):
            keys, values = cache[layer, 0], cache[layer, 1]
            keys[:, :, cache_position] = self.k(x).unsqueeze(1)
            values[:, :, cache_position] = self.v(x).unsqueeze(1)
            x = x + attend(self.q(x).unsqueeze(1), keys, values, attention_mask)
        return self.block(x)
