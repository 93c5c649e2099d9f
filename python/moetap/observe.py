"""Calls of moetap::observe: see Note [The operator of models without a handle] in hooks/points/operator_schemas.h."""

import secrets
from collections.abc import Sequence

import torch

STATE = "_moetap_state"  # the buffer's name
_BITS = 20
_BEGIN, _END, _ABORT, _HOOK = 0, 1, 2, 16


class ModelNumber:
    """The numbers of one model's hooks. A new one for each model that is attached."""

    def __init__(self):
        self._base = secrets.randbits(40) << _BITS
        self.begin = self._base | _BEGIN
        self.end = self._base | _END
        self.abort = self._base | _ABORT

    def hook(self, hook: int) -> int:
        return self._base | (_HOOK + hook)


def new_state(device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.zeros(1, dtype=torch.uint8, device=device)


def begin_operands(number: ModelNumber, description: str, arguments: Sequence[torch.Tensor | None]) -> tuple:
    """What follows `state`. `arguments`: those of the method, in the order of the description; None: not given."""
    given = sum(1 << place for place, value in enumerate(arguments) if value is not None)
    return number.begin, None, None, [value for value in arguments if value is not None], [], given, description


def end_operands(number: int) -> tuple:
    """`number`: ModelNumber.end or ModelNumber.abort."""
    return number, None, None, [], [], 0, ""
