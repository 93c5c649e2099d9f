"""A rank of a job of torchrun over gloo: runs its share of the inputs and labels each with its own number.

rank_host.py LIBRARY MODEL CONFIG INPUT... ; input i goes to rank i modulo the world size, its samples are those that
one process over all inputs would count.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "generation"))

from moetap_session import MoetapSession


def main() -> None:
    library, model_file, config, *inputs = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.ops.load_library(library)
    session = MoetapSession(library, **json.loads(config))
    model = torch.jit.load(model_file).eval()
    recorded = torch.zeros(1)
    first = 0
    for number, path in enumerate(inputs):
        arguments = torch.load(path)
        batch = arguments[0].shape[0]
        if number % world_size == rank:
            session.label(list(range(first, first + batch)), generation=False)
            # A graph that is optimised after some calls rounds otherwise: the ranks would compute other numbers.
            with torch.no_grad(), torch.jit.optimized_execution(False):
                model(*arguments)
            recorded += batch
        first += batch
    dist.all_reduce(recorded)  # the ranks wait for each other
    assert recorded.item() == first
    if rank == int(os.environ.get("DIES", "-1")):
        session.flush()
        os._exit(0)
    session.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
