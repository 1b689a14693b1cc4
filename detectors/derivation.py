"""Which plain columns come of a typed raw column: their names and kinds, without the arithmetic of `detectors.derive`.

Apart from it so that a configuration is read without numpy.

    boolean    NAME                                     categorical: true, false
    timestamp  NAME.hour, NAME.weekday                  categorical, in UTC: 00 to 23; Mon to Sun
    text       NAME.length, .words, .variety, .digits   numeric: characters; tokens; different tokens over tokens;
                                                        digits over characters
               NAME.word                                categorical: which of 32 buckets the longest word falls into
    embedding  NAME.0 to NAME.7, NAME.norm              numeric: along fixed directions, and in length
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["boolean", "timestamp", "text", "embedding"]

KINDS: tuple[Kind, ...] = ("boolean", "timestamp", "text", "embedding")
DIRECTIONS = 8  # of an embedding; fewer where it is shorter
LONGEST = 65_536  # numbers in an embedding


@dataclass(frozen=True)
class Derivation:
    """A typed raw column.

    Raises
    ------
    ValueError
        If an embedding has no sensible length.
    """

    kind: Kind
    name: str
    length: int = 0  # numbers in an embedding

    def __post_init__(self) -> None:
        if self.kind == "embedding" and not 0 < self.length <= LONGEST:
            raise ValueError(
                f"embedding {self.name!r} needs a length between 1 and {LONGEST}, not {self.length}"
            )

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of its numeric columns."""
        match self.kind:
            case "text":
                return self._named("length", "words", "variety", "digits")
            case "embedding":
                return self._named(*map(str, range(min(DIRECTIONS, self.length))), "norm")
            case _:
                return ()

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of its categorical columns."""
        match self.kind:
            case "boolean":
                return (self.name,)
            case "timestamp":
                return self._named("hour", "weekday")
            case "text":
                return self._named("word")
            case _:
                return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all its columns."""
        return self.numeric + self.categorical

    def _named(self, *parts: str) -> tuple[str, ...]:
        return tuple(f"{self.name}.{part}" for part in parts)


class Typed(Protocol):
    """A schema that names typed columns."""

    @property
    def boolean(self) -> tuple[str, ...]: ...  # noqa: D102 - columns of this type, by name
    @property
    def timestamp(self) -> tuple[str, ...]: ...  # noqa: D102 - columns of this type, by name
    @property
    def text(self) -> tuple[str, ...]: ...  # noqa: D102 - columns of this type, by name
    @property
    def embedding(self) -> dict[str, int]: ...  # noqa: D102 - length by name


def derivations_of(schema: Typed) -> tuple[Derivation, ...]:
    """Return the typed columns of a schema."""
    kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("boolean", schema.boolean),
        ("timestamp", schema.timestamp),
        ("text", schema.text),
    )
    plain = tuple(Derivation(kind, name) for kind, names in kinds for name in names)
    return plain + tuple(Derivation("embedding", name, length) for name, length in schema.embedding.items())
