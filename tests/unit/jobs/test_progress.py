from __future__ import annotations

import io

import pytest
from rich.console import Console

from scalr_ray.jobs.progress import Progress


def shown(*, terminal: bool) -> tuple[Progress, io.StringIO]:
    written = io.StringIO()
    return Progress(Console(file=written, force_terminal=terminal, width=60)), written


def test_a_quiet_one_prints_nothing_and_keeps_the_times(capfd):
    progress = Progress()
    with progress.stage("first"):
        progress.note("a word")
    with progress.stage("second", total=2) as advance:
        advance(1)
        advance(1)
    assert capfd.readouterr() == ("", "")
    assert list(progress.timings_s) == ["first", "second"]
    assert all(seconds >= 0 for seconds in progress.timings_s.values())


def test_the_times_of_a_repeated_stage_add_up(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr("scalr_ray.jobs.progress.time.perf_counter", lambda: next(clock))
    progress = Progress()
    for _ in range(2):
        with progress.stage("again"):
            pass
    assert progress.timings_s == {"again": 3.5}


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_that_fails_is_not_shown_as_done(terminal):
    progress, written = shown(terminal=terminal)

    def fail_halfway() -> None:
        with progress.stage("doomed", total=3) as advance:
            advance(1)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert "✓" not in written.getvalue()
    assert progress.timings_s == {}


def test_into_a_file_go_whole_lines_only():
    progress, written = shown(terminal=False)
    with progress.stage("Generate", total=5) as advance:
        advance(5)
    progress.note("x" * 200)
    lines = written.getvalue().splitlines()
    assert lines[0].startswith("✓ Generate ")
    assert lines[1:] == ["  " + "x" * 200]
    assert "\x1b" not in written.getvalue()


def test_a_terminal_sees_how_far_a_counted_stage_is():
    progress, written = shown(terminal=True)
    with progress.stage("Generate", total=4) as advance:
        advance(3)
    text = written.getvalue()
    assert "3/4" in text
    assert "✓" in text


def test_names_that_look_like_markup_stay_as_they_are():
    progress, written = shown(terminal=False)
    with progress.stage("Read [/bold].parquet"):
        progress.note("[red]17[/red] and [/]")
    assert "Read [/bold].parquet" in written.getvalue()
    assert "[red]17[/red] and [/]" in written.getvalue()


def test_a_long_stage_tells_a_file_how_far_it_is(monkeypatch):
    clock = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr("scalr_ray.jobs.progress.time.monotonic", lambda: next(clock))
    progress, written = shown(terminal=False)
    with progress.stage("Generate", total=4000) as advance:
        for _ in range(3):
            advance(1000)
    lines = written.getvalue().splitlines()
    assert lines[0] == "  Generate: 2,000 of 4,000, 50/s, 40 s left"
    assert len(lines) == 2


def test_a_terminal_sees_how_fast_a_counted_stage_is():
    progress, written = shown(terminal=True)
    with progress.stage("Generate", total=4) as advance:
        for _ in range(4):
            advance(1)
    assert "/s" in written.getvalue()
