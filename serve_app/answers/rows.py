"""Rows of a contract table as requests: any column names, read at the speed of a fixed schema.

A row is what ``DataFrame.to_json(orient="records", date_format="iso")`` makes of a table's row: features under their own
names, columns that training did not use beside them. `RowReader` builds the struct that a card asks for.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from serve_app.wire.features import feature_range
from serve_app.wire.limits import MAX_TEXT
from serve_app.wire.wording import listed

__all__ = ["RESERVED", "RowReader", "Scalar", "ignored_of", "is_nested", "say_ignored"]

#: Columns of the tables that are no features, for cards that do not list what training ignored.
RESERVED: dict[str, tuple[str, ...]] = {
    "failure": ("resource_id", "timestamp", "split"),
    "threat": ("threat_type", "timestamp", "group", "split"),
    "capacity": ("resource_id", "timestamp"),
}
#: What a column that is not used may hold.
Scalar = str | float | bool | None
_UNSAFE = {ord('"'): "\u2033", ord("\\"): "\uff3c", **{i: chr(0x2400 + i) for i in range(32)}}


def ignored_of(card: Mapping[str, Any]) -> list[str]:
    """Return the columns of the training table that a request may carry although the model does not use them."""
    known = {feature["name"] for feature in card["features"]} | set(card.get("targets", ()))
    return [name for name in card.get("ignored", RESERVED[card["task"]]) if name not in known]


def say_ignored(names: Iterable[str]) -> str:
    """Return the warning for columns that were given and not used."""
    return f"ignored: {listed(names)} (not used by the model)"


def _feature_type(feature: Mapping[str, Any]) -> Any:
    if feature.get("dtype") != "category":
        low, high = feature_range(feature)
        number: Any = Annotated[float, Meta(ge=low, le=high)] | None
        return number | bool if feature.get("boolean") else number
    text: Any = Annotated[str, Meta(max_length=MAX_TEXT)] | None
    # The texts of a column that mixed kinds: its JSON holds the numbers and booleans themselves.
    mixed = any(_literal(str(c)) for c in feature.get("categories", ()))
    return text | float | int | bool if mixed else text


def _literal(text: str) -> bool:
    if text in ("True", "False"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Renaming:
    """A decoder for column names that the struct decoder cannot hold: quotes, backslashes, control characters."""

    def __init__(self, kind: type[Struct], renamed: Mapping[str, str]) -> None:
        self.type, self._renamed = kind, dict(renamed)

    def decode(self, body: bytes) -> Any:
        return msgspec.convert(self.rename(msgspec.json.decode(body)), self.type)

    def rename(self, content: Any) -> Any:
        """Return a decoded row under the names of the struct."""
        if not isinstance(content, dict):
            return content
        return {self._renamed.get(name, name): value for name, value in content.items()}


class RowReader:
    """Requests that are one row of a card's table.

    A name that a feature has is always the feature; next come the ignored columns, then the controls.

    Parameters
    ----------
    title : str
        Name of the struct.
    features : sequence of mappings
        ``features`` of a card.
    ignored : sequence of str
        As from `ignored_of`.
    controls : mapping of str to (type, default)
        Other fields, reachable as attributes of a request.

    Attributes
    ----------
    type : type
        The struct: features, ignored columns, controls, in this order.
    decoder : object
        With a method ``decode``.
    known : list of str
        Names that a request may hold, features first.
    width : int
        Number of features.
    """

    def __init__(
        self,
        title: str,
        features: Sequence[Mapping[str, Any]],
        ignored: Sequence[str],
        controls: Mapping[str, tuple[Any, Any]],
    ) -> None:
        names = [str(feature["name"]) for feature in features]
        self.width = len(names)
        self.ignored = [name for name in ignored if name not in names]
        self._given = slice(self.width, self.width + len(self.ignored))
        fields: list[tuple[str, Any, Any]] = []
        renamed: dict[str, str] = {}

        def add(attribute: str, kind: Any, name: str, default: Any) -> None:
            safe = name.translate(_UNSAFE)
            if safe != name:
                renamed[name] = safe
            fields.append((attribute, kind, msgspec.field(name=safe, default=default)))

        for i, feature in enumerate(features):
            missing = None if feature.get("dtype") == "category" else math.nan
            add(f"f{i}", _feature_type(feature), names[i], missing)
        for i, name in enumerate(self.ignored):
            add(f"ignored{i}", Scalar | int | UnsetType, name, UNSET)
        for name, (kind, default) in controls.items():
            if name not in names and name not in self.ignored:
                add(name, kind, name, default)
        self.type = msgspec.defstruct(title, fields, forbid_unknown_fields=True, kw_only=True, gc=False)
        self.decoder: Any = _Renaming(self.type, renamed) if renamed else msgspec.json.Decoder(self.type)
        self.known = list(self.type.__struct_encode_fields__)
        #: Whether a feature bears the name that marks a batch.
        self.named_instances = "instances" in (*names, *self.ignored)

    def values(self, request: Struct) -> tuple[Any, ...]:
        """Return the values of the features: NaN or None where not given."""
        return msgspec.structs.astuple(request)[: self.width]

    def ignored_in(self, request: Struct) -> list[str]:
        """Return the columns given that the model does not use."""
        if not self.ignored:
            return []
        given = msgspec.structs.astuple(request)[self._given]
        return [name for name, value in zip(self.ignored, given, strict=True) if value is not UNSET]


class _Form(Struct):
    metrics: msgspec.Raw = msgspec.Raw()
    time_series: msgspec.Raw = msgspec.Raw()


_FORM = msgspec.json.Decoder(_Form)


def is_nested(body: bytes, names: Container[str]) -> bool:
    """Tell `metrics` and `time_series` from a flat row, where a metric called so holds a plain number.

    Parameters
    ----------
    body : bytes
        Of one instance.
    names : container of str
        Names that a flat row may hold.
    """
    try:
        form = _FORM.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    for name, begin in (("metrics", b"{"), ("time_series", b"[")):
        value = bytes(getattr(form, name))
        if value and (value.startswith(begin) or name not in names):
            return True
    return False
