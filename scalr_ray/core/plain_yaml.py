"""YAML from a file that anybody may have written: plain values, of a size that can be held.

Only the safe tags make a value, none an object. An alias stands for all that it names, so that a
few lines can name more than any memory holds: what is written out in full is counted before
anything is made of it.
"""

from __future__ import annotations

import reprlib
from typing import Any

import yaml

_MOST_CHARACTERS = 1 << 20
_MOST_VALUES = 100_000
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_TOO_MUCH = "its aliases name more than {most:,} values; write out what is meant"


def read_yaml(text: str) -> Any:  # noqa: ANN401 - any plain value
    """The value of one YAML document; None of an empty one.

    Raises:
        ValueError: it is no YAML, has tags of objects, names itself, or is too large; in words that
            stand in one line.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; {_MOST_CHARACTERS:,} are allowed")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _values_of(node, {}) > _MOST_VALUES:
                raise ValueError(_TOO_MUCH.format(most=_MOST_VALUES))
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (LookupError, OverflowError) as error:  # LookupError: of `!!bool maybe`
        raise ValueError(f"a value is none of its kind: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(yaml_problem(error)) from error


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a file and where, without the line itself: it may hold secrets."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "there are characters in it that YAML does not know"
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return f"{getattr(error, 'problem', '')} in {where}"


def shorten_value(value: object) -> str:
    """A value as a message shows it, however large it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return f"a {type(value).__name__} too long to show"


def _values_of(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, with all aliases written out."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError("an alias names what it stands in; write out what is meant")
        return known[id(node)]
    known[id(node)] = -1  # until it is known: whoever comes here again stands inside of it
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inside = node.value
    elif isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_values_of(part, known) for part in inside)
    return known[id(node)]
