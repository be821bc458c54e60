"""Reports as they were written, and pages that are parsed strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from training.report import write_report


class Page(HTMLParser):
    """Parses a page and refuses markup that is not well nested."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]


def written(out: Path, result: Mapping[str, Any]) -> tuple[dict, Page]:
    json_path, html_path = write_report(out, result)
    assert (json_path, html_path) == (out / "report.json", out / "report.html")

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    data = json.loads(json_path.read_text(encoding="utf-8"), parse_constant=refuse)
    return data, Page(html_path.read_text(encoding="utf-8"))
