"""torch-rechub: MMOE for recommendations, where each task weighs all experts."""

import torch
from torch import nn

from ..layer import WIDTH, Layer
from ..surroundings import package_without_init, stub

REQUIREMENTS = ["torch-rechub==0.9.0"]


def layers() -> list[Layer]:
    package_without_init("torch_rechub", "torch_rechub.models", "torch_rechub.models.multi_task")
    stub("pandas", "annoy", "tqdm")
    from torch_rechub.basic.features import DenseFeature
    from torch_rechub.models.multi_task.mmoe import MMOE

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            tasks = ["classification", "regression"]
            features = [DenseFeature("features", embed_dim=WIDTH)]
            self.mmoe = MMOE(features, tasks, 4, {"dims": [24]}, [{"dims": [8]}, {"dims": [8]}])

        def forward(self, x):
            return self.mmoe({"features": x})

    return [Layer("mmoe", Model, {}, lambda: {"x": torch.randn(8, WIDTH)})]
