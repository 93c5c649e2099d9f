"""PEER-pytorch: a million small experts, which are rows of embeddings found by product keys."""

from ..layer import WIDTH, Layer, Model
from ..recorder import call
from ..surroundings import stub

REQUIREMENTS = ["peer-pytorch==0.2.2", "einops==0.8.1", "einx==0.3.0", "frozendict==2.4.6"]


def layers() -> list[Layer]:
    stub("beartype")
    from PEER_pytorch.PEER import PEER

    def peer(f, _):
        heads = f["indices"].flatten(2)
        return call(None, heads, f["self"].score_activation(f["scores"]).flatten(2))

    def build():
        return Model(PEER(WIDTH, heads=2, num_experts=16, num_experts_per_head=3, dim_key=8))

    return [Layer("peer", build, {PEER.forward: peer}, refused="picks from what was picked")]
