"""What stands in for the surroundings of a package: dependencies, other processes, what a trace cannot hold."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import pathlib
import sys
import types

import torch


def stub(*names: str, **values) -> None:
    """Lets packages of these names be imported, with all that is below them, though they are not installed. They hold
    `values`; any other name of them is a class that does nothing."""
    sys.meta_path.insert(0, _StubFinder(names, values))


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...], values: dict):
        self.names = names
        self.values = values

    def find_spec(self, name: str, path=None, target=None):
        if not any(name == known or name.startswith(known + ".") for known in self.names):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module) -> None:
        module.__dict__.update(self.values)


class _Stub(types.ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        value = _StubType(name, (), {"__init__": lambda self, *_, **__: None})
        setattr(self, name, value)
        return value


class _StubType(type):
    """Called with a class or a function, as a decorator is, it gives that back."""

    def __call__(cls, *arguments, **options):
        if len(arguments) == 1 and not options and callable(arguments[0]):
            return arguments[0]
        return super().__call__(*arguments, **options)

    def __getitem__(cls, _):
        return cls

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


def package_without_init(*names: str) -> None:
    """Lets the modules of an installed package be imported without its `__init__`, which wants further packages."""
    for name in names:
        parent, _, child = name.rpartition(".")
        places = sys.modules[parent].__path__ if parent else sys.path
        folders = [str(pathlib.Path(place) / child) for place in places if (pathlib.Path(place) / child).is_dir()]
        module = types.ModuleType(name)
        module.__path__ = folders
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], child, module)


def one_process() -> None:
    """A process group of this process alone."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def plain_autograd_functions() -> None:
    """Runs the forward of autograd functions as plain code: TorchScript cannot hold them, nothing is trained here."""

    def apply(cls, *arguments, **options):
        return cls.forward(types.SimpleNamespace(save_for_backward=lambda *_: None), *arguments, **options)

    torch.autograd.Function.apply = classmethod(apply)


def bools_in_scatter_as_numbers() -> None:
    """What `scatter_(.., True)` writes is given as 1: a trace with the bool cannot be saved."""
    scatter_ = torch.Tensor.scatter_

    def replacement(tensor, dim, index, value, **options):
        return scatter_(tensor, dim, index, int(value) if isinstance(value, bool) else value, **options)

    torch.Tensor.scatter_ = replacement
