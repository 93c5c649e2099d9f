"""colt5-attention: a heavy branch takes some of the tokens. It picks tokens, not experts."""

from ..layer import WIDTH, Layer, Model
from ..surroundings import stub

REQUIREMENTS = ["colt5-attention==0.11.2", "einops==0.8.1"]


def layers() -> list[Layer]:
    stub("local_attention")
    from colt5_attention.transformer_block import ConditionalRoutedFeedForward

    return [Layer("feed_forward", lambda: Model(ConditionalRoutedFeedForward(WIDTH, num_heavy_tokens=4)), {})]
