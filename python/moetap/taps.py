"""Chooses where in an eager model a router's values are taken."""

from dataclasses import dataclass

from moetap.traced import Place, TracedModel
from moetap.values import RouterReport, known_names


@dataclass(frozen=True)
class Tap:
    """A router, and where its values are held while the module `owner` runs."""

    report: RouterReport
    owner: str
    run: int  # which of the owner's runs in one forward of the model
    places: dict[str, Place]  # by name of a value

    @property
    def is_at_owner(self) -> bool:
        """Whether the owner's arguments and results hold everything."""
        return all(place.module == self.owner and place.role != "call" for place in self.places.values())


def _parents(module: str):
    """The module and those that hold it, the innermost first."""
    while module:
        yield module
        module = module.rpartition(".")[0]
    yield ""


def _is_below(module: str, owner: str) -> bool:
    return module.startswith(owner + ".") if owner else module != ""


def _preference(place: Place, owner: str) -> tuple:
    return (place.role == "call", place.module != owner, place.role == "in")


def _places_in(traced: TracedModel, names: set[str], owner: str, run: int) -> dict[str, Place] | None:
    """Where one run of the owner holds the values; None: it does not hold all."""
    places = {}
    for name in names:
        held = [
            place
            for place in traced.places[name]
            if (place.module == owner and place.run == run)
            or (
                # A submodule that runs once in each run of the owner.
                place.role != "call"
                and _is_below(place.module, owner)
                and traced.calls[place.module] == traced.calls.get(owner)
                and place.run == run
            )
        ]
        if not held:
            return None
        places[name] = min(held, key=lambda place: _preference(place, owner))
    return places


def choose_tap(report: RouterReport, traced: TracedModel) -> Tap:
    """The innermost module whose arguments and results hold all values of a router; else the innermost one that holds
    them with its submodules and the functions that it calls. Raises ValueError, with the router's name."""
    names = set().union(*(known_names(value) for value in report.operands()))
    first = traced.places[next(iter(names))]
    owners = sorted({parent for place in first for parent in _parents(place.module)}, key=len, reverse=True)
    taps = [
        Tap(report, owner, run, places)
        for owner in owners
        for run in range(traced.calls.get(owner, 0))
        if (places := _places_in(traced, names, owner, run)) is not None
    ]
    if not taps:
        raise ValueError(f"router {report.name}: no module of the model holds all of its values")
    return next((tap for tap in taps if tap.is_at_owner), taps[0])
