"""soft-moe: the layer of the paper "From Sparse to Soft Mixtures of Experts"; no expert is chosen."""

from torch import nn

from ..layer import WIDTH, Layer, Model
from ..surroundings import package_without_init

REQUIREMENTS = ["soft-moe==0.0.1"]


def layers() -> list[Layer]:
    package_without_init("soft_moe")
    from soft_moe.soft_moe import SoftMoELayerWrapper

    def build():
        return Model(SoftMoELayerWrapper(WIDTH, 4, 3, nn.Linear, in_features=WIDTH, out_features=WIDTH))

    return [Layer("wrapper", build, {})]
