"""`expert_cache`: what a cache of C experts a layer would hit. The caches are simulated, one capacity at a time.

Readings: a slot of weight 0 is no access; static counts the selections of the whole run, whatever its phase; a
sample's order is that of its forwards and positions; tokens of no sample are left out; with no access counted a rate
is undefined. In a warm cache, too, the future is the rest of the sample.
"""

from .notebook_arrays import ranked, table
from .routing_run import Layer, RoutingRun

Access = tuple[int, bool]  # expert, whether it is counted


def accesses_of(run: RoutingRun, layer: Layer, sample: int, counted: str) -> list[Access]:
    out: list[Access] = []
    used_in_forward: set[tuple[int, int]] = set()
    for token in run.tokens_of(sample):
        generated = run.phase[token] == 1
        for expert in layer.ranked_ids(token):
            if not generated:
                key = (int(run.forward[token]), expert)
                if key in used_in_forward:
                    continue
                used_in_forward.add(key)
            out.append((expert, counted == "all" or generated == (counted == "generation")))
    return out


def lru_hits(accesses: list[Access], capacity: int, cache: list[int]) -> int:
    """`cache` is ordered from the least recently used on, and kept by the caller."""
    hits = 0
    for expert, counted in accesses:
        if expert in cache:
            cache.remove(expert)
            hits += counted
        elif len(cache) == capacity:
            cache.pop(0)
        cache.append(expert)
    return hits


def optimal_hits(accesses: list[Access], capacity: int, cache: set[int]) -> int:
    """Belady: a miss takes the place of the expert whose next use is farthest away, on a tie of the highest id."""
    hits = 0
    experts = [expert for expert, _ in accesses]
    for now, (expert, counted) in enumerate(accesses):
        if expert in cache:
            hits += counted
            continue
        if len(cache) == capacity:
            rest = experts[now + 1 :]
            next_use = {e: rest.index(e) if e in rest else len(rest) for e in cache}
            _, farthest = max((use, e) for e, use in next_use.items())
            cache.remove(farthest)
        cache.add(expert)
    return hits


def expert_cache(run: RoutingRun, counted: str = "generation", warm: bool = False) -> dict:
    """`counted`: generation, prompt or all."""
    rows = []
    for name, layer in run.layers.items():
        by_sample = [accesses_of(run, layer, sample, counted) for sample in run.known_samples()]
        num_counted = sum(c for accesses in by_sample for _, c in accesses)
        order = ranked(layer.counts())
        for capacity in range(1, layer.num_experts + 1):
            kept = set(order[:capacity])
            lru = optimal = static = 0
            recent, held = [], set()
            for accesses in by_sample:
                if not warm:
                    recent, held = [], set()
                lru += lru_hits(accesses, capacity, recent)
                optimal += optimal_hits(accesses, capacity, held)
                static += sum(c for expert, c in accesses if expert in kept)
            rates = [hits / num_counted if num_counted else None for hits in (lru, optimal, static)]
            rows.append((run.component, name, capacity, num_counted, *rates))
    return {"expert_cache": table(["component", "layer", "capacity", "accesses", "lru", "optimal", "static"], rows)}
