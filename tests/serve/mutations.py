"""Bodies that a client might send by mistake: fields misspelt, misplaced, of another route, of another type."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Values of every JSON type, and what tends to break readers: huge, empty, nested, not ASCII.
VALUES: list[Any] = [
    None, True, 0, -1, 1, 0.5, 1e308, 10**30, "", "x", "\0", "\u00e9\U0001f600", "x" * 300, "a.b[0] - at `$.c`", [], {},
    [None], [[]], [{}], [1, "x"], {"": 0}, {"x": {"y": [1]}}, {"instances": 1}, [{"instances": [{}]}],
]  # fmt: skip


def field_names(document: Mapping[str, Any]) -> list[str]:
    """Return every field that any schema of an OpenAPI document names, at any depth, and some that none names."""
    found = {"instances", "x", "", "\u00e9", "a b/(c)", "a`b", "__class__"}

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("properties"), dict):
                found.update(part["properties"])
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(document["components"]["schemas"])
    return sorted(found)


def request_bodies(document: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the examples of every POST route of an OpenAPI document, by path."""
    found = {}
    for path, entry in document["paths"].items():
        if "post" in entry:
            content = entry["post"]["requestBody"]["content"]["application/json"]
            several = [example["value"] for example in content.get("examples", {}).values()]
            found[path] = several or [content["example"]]
    return found


def _containers(body: Any) -> list[Any]:
    if not isinstance(body, dict | list):
        return []
    inner = body.values() if isinstance(body, dict) else body
    return [body, *(c for part in inner for c in _containers(part))]


def _mutate(body: Any, rng: random.Random, names: Sequence[str], others: Sequence[Any]) -> Any:
    containers = _containers(body)
    if not containers or rng.random() < 0.05:
        return rng.choice([{"instances": body}, {"instances": [body]}, [body], rng.choice(VALUES)])
    place = rng.choice(containers)
    parts = [part for other in others for part in [other, *_containers(other)]]
    value = copy.deepcopy(rng.choice([rng.choice(VALUES), rng.choice(parts)]))
    if isinstance(place, list):
        place.insert(rng.randint(0, len(place)), value)
    elif not place or rng.random() < 0.4:
        place[rng.choice(names)] = value
    else:
        key = rng.choice(list(place))
        change = rng.randrange(5)
        if change == 0:
            del place[key]
        elif change == 1:
            place[key] = value
        elif change == 2:
            place[rng.choice(names)] = place.pop(key)
        elif change == 3:
            place[key] = rng.choice([[place[key]], {"instances": place[key]}, {rng.choice(names): place[key]}])
        else:
            place[rng.choice(names)] = copy.deepcopy(place[key])
    return body


def mutated(document: Mapping[str, Any], path: str, count: int, seed: int = 0) -> Iterator[Any]:
    """Yield bodies for one POST route, each one to four mistakes away from an example; the same for the same seed."""
    rng = random.Random(f"{path} {seed}")
    examples = request_bodies(document)
    others = [body for bodies in examples.values() for body in bodies]
    names = field_names(document)
    for _ in range(count):
        body = copy.deepcopy(rng.choice(examples[path]))
        for _ in range(rng.randint(1, 4)):
            body = _mutate(body, rng, names, others)
        yield body
