"""Which router goes with which attention: the rule, told from the hooks in order of execution."""

from __future__ import annotations


def expected_pairs(hooks: list[dict], tokens: dict[str, list[int]]) -> dict[str, str]:
    """The attention of each router, by name. `tokens` are the sizes of a hook's calls, by name: rows of other sizes are
    other tokens. A router of whose attention the rule says nothing certain is left out."""
    pairs = {}
    for router in hooks:
        before = [hook for hook in hooks if hook["kind"] == "attention" and hook["id"] < router["id"]]
        if router["kind"] != "router" or router["name"] not in tokens:
            continue
        within = [hook for hook in before if hook["component"] == router["component"]]
        layer = [hook for hook in within if hook["layer"] == router["layer"]]
        same = [hook for hook in within if tokens.get(hook["name"]) == tokens[router["name"]]]
        if layer or same:
            pairs[router["name"]] = (layer or same)[-1]["name"]
    return pairs
