"""Chooses where in an eager model a router's values are taken."""

from dataclasses import dataclass, replace

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
            if (name, place, owner) not in traced.written
            and place.run == run
            # The owner itself, or a submodule that runs once in each run of the owner.
            and (
                place.module == owner
                or (
                    place.role != "call"
                    and _is_below(place.module, owner)
                    and traced.calls[place.module] == traced.calls.get(owner)
                )
            )
        ]
        if not held:
            return None
        places[name] = min(held, key=lambda place: _preference(place, owner))
    return places


def choose_tap(report: RouterReport, traced: TracedModel, needs_scores: bool) -> Tap:
    """The innermost module whose arguments and results hold all values of a router; else the innermost one that holds
    them with its submodules and the functions that it calls, which costs time. Scores that nobody asks for, and what
    only the hook's check of itself reads, are left out where they alone would need that. Raises ValueError, with the
    router's name."""
    taps = _taps_of(report, traced)
    if not any(tap.is_at_owner for tap in taps):
        without_choice = replace(report, choice=None)
        taps = _taps_of(without_choice, traced) or taps
        if not needs_scores and report.logits is not None and not any(tap.is_at_owner for tap in taps):
            taps = _taps_of(replace(without_choice, scores=None), traced) or taps
    if not taps:
        raise ValueError(f"router {report.name}: no module of the model holds all of its values")
    return next((tap for tap in taps if tap.is_at_owner), taps[0])


def _taps_of(report: RouterReport, traced: TracedModel) -> list[Tap]:
    """The innermost owners first."""
    names = set().union(*(known_names(value) for value in report.operands()))
    owners = {parent for name in names for place in traced.places[name] for parent in _parents(place.module)}
    return [
        Tap(report, owner, run, places)
        for owner in sorted(owners, key=len, reverse=True)
        for run in range(traced.calls.get(owner, 0))
        if (places := _places_in(traced, names, owner, run)) is not None
    ]
