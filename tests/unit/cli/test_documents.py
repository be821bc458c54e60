"""What the documents tell a reader to type is something that the command takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from scalr_ray.cli.main import cli

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("README.md", "OPERATIONS.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "infra/README.md")
VERB = re.compile(r"[a-z-]+")
_FENCE = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(scalr [^`]+)`")
# What comes before the command in a shell, in a pod or in a container.
_BEFORE = re.compile(r"^(.* -- |docker compose .* run .*?)?(scalr .*)$")


def commands_in(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    fenced = [line.strip() for block in _FENCE.findall(text) for line in block.splitlines()]
    found = [hit[2] for line in fenced if (hit := _BEFORE.match(line))]
    inline = _INLINE.findall(_FENCE.sub("", text))
    return found + [command for command in inline if VERB.match(command.removeprefix("scalr "))]


COMMANDS = [(name, command) for name in DOCUMENTS for command in commands_in(name)]


def parse(words: list[str]) -> click.Context:
    """Take a command line apart as click does, and call nothing."""
    command: click.Command = cli
    context = cli.make_context("scalr", list(words))
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_a_command_of_a_document_parses(document, command):
    _, *words = shlex.split(command.replace("…", ""), comments=True)
    if len(words) == 1 and not words[0].startswith("-"):  # the name of a verb, not a call
        assert words[0] in cli.commands
        return
    try:
        parse(words)
    except click.exceptions.Exit:  # --help and --version
        return
    except click.UsageError as error:
        pytest.fail(f"{document}: {command}: {error.format_message()}")


@pytest.mark.parametrize("wrong", ["scalr nonsense", "scalr runs --limit none", "scalr retire"])
def test_a_wrong_one_would_be_found(wrong):
    with pytest.raises(click.UsageError):
        parse(shlex.split(wrong)[1:])


def test_each_document_was_read():
    read = {name for name, _ in COMMANDS}
    assert {"README.md", "OPERATIONS.md", "infra/README.md"} <= read
    assert 'scalr erase --file requests.txt --why "after a restore"' in dict.fromkeys(
        command for _, command in COMMANDS
    )


def test_the_cost_follows_from_the_figures_of_the_readme():
    readme, told = ((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS[:2])
    speeds = dict(
        re.findall(r"^\| ([\d,]+) \| ([\d,]+) \| [\d,]+ \| \d\.\d\d \| \d\.\d GiB", readme, re.M)
    )
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", told, re.M
    )
    assert len(rows) == len(speeds) == 3
    users = 1e9 / 60
    for catalogue, speed, scored, drawn, together, cost in rows:
        assert speed == speeds[catalogue]
        hours = users / float(speed.replace(",", "")) / 3600
        draw = users * 1e-3 / 3600
        assert float(scored) == pytest.approx(hours, abs=0.05)
        assert float(drawn) == pytest.approx(draw, abs=0.05)
        assert float(together) == pytest.approx(hours + draw, abs=0.1)
        assert float(cost) == pytest.approx(0.05 * (hours + draw), abs=0.01)
