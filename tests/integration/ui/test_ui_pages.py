"""The pages of `scalr ui`, asked for over HTTP of a server in its own process."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from commands import call_scalr
from planted_logs import bytes_below
from quick_repos import quick_repo
from served_pages import HOSTILE, HOSTILE_PATH, RUNS, Site, ask, served

BLOCKS = {"caption", "dd", "div", "dt", "h1", "h2", "li", "p", "td", "th"}


def page(site: Site, path: str) -> str:
    answer, content = ask(site.address, path)
    assert answer.status == 200, path
    return content


class Outline(HTMLParser):
    """What a page is made of: elements with their attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._unseen = False
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._unseen = tag in ("style", "title")
        self.text += " " * (tag in BLOCKS)

    def handle_endtag(self, tag):
        self._unseen = False
        self.text += " " * (tag in BLOCKS)

    def handle_data(self, data):
        self.text += "" if self._unseen else data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def words(content: str) -> str:
    return " ".join(Outline(content).text.split())


def test_each_page_is_built_to_be_read_by_anybody(site):
    titles = []
    for path in [*site.paths, "/nothing", "/runs/nothing"]:
        _, content = ask(site.address, path)
        made = Outline(content)
        assert made.of("html") == [{"lang": "en"}], path
        for tag in ("h1", "main", "header", "nav", "footer", "title"):
            expected = 2 if tag == "nav" and path.startswith("/runs?") else 1
            expected += tag == "nav" and path == "/runs"
            assert made.count(tag) == expected, (path, tag)
        assert made.count("caption") == made.count("table")
        assert all(head.get("scope") in ("col", "row") for head in made.of("th"))
        labelled = {label["for"] for label in made.of("label")}
        assert {field["id"] for field in made.of("input")} <= labelled
        first = next(attributes for tag, attributes in made.elements if tag == "a")
        assert first == {"class": "skip", "href": "#content"}
        ids = [attributes["id"] for _, attributes in made.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        assert made.count("script") == 0
        loaded = [tag for tag, attributes in made.elements if "src" in attributes]
        assert (loaded, made.count("link")) == ([], 0)
        titles.append(re.search("<title>(.*)</title>", content)[1])
    assert len(set(titles[:-2])) == len(site.paths)


def test_the_overview_tells_what_the_status_tells(site):
    told = call_scalr(site.repo, "--json", "status").json
    said = words(page(site, "/"))
    assert f"Next: {told['next_step'].replace('`', '')}" in said
    assert told["newest"]["batch_id"] == "b1"
    for text in (
        "12 rows",
        "accepted, 2 of 2 checks passed",
        "25.0 %",
        "12 in 1 batch, beside 36 observed",
        "neural-b2",
        "up to 2026-03-01 11:00:00 UTC",
        "GiB free",
        "batch <script>",
    ):
        assert text in said, text


def test_runs_are_leafed_through_newest_first(site):
    first, second = (page(site, path) for path in ("/runs", "/runs?page=2"))
    named = re.compile(r'<th scope="row"><a href="/runs/([^"]+)"')
    found = [named.findall(part) for part in (first, second)]
    assert len(found[0]) == 50
    assert found[0] + found[1] == [run.run_id for run in site.runs]
    assert len(site.runs) > RUNS
    assert 'href="/runs?page=2">Older' in first
    assert 'href="/runs?page=1">Newer' in second
    assert "Older" not in second


def test_a_run_tells_its_settings_and_what_came_of_it(site):
    said = words(page(site, f"/runs/{site.reported}"))
    for text in ("Stage evaluate", "State done", "increment.retrain_days 7", "verdict helps"):
        assert text in said, text
    generated = next(run for run in reversed(site.runs) if run.verb == "generate")
    said = words(page(site, f"/runs/{generated.run_id}"))
    assert "batch b1 was staged; it is published" in said
    assert "translator neural-b1 was recorded" in said


def test_a_batch_tells_its_verdict_and_leads_to_its_report(site):
    content = page(site, "/batches/b1")
    said = words(content)
    assert "State published since" in said
    assert "drift passed 0.3127 2 of <script>" in said
    assert f'href="/reports/{site.reported}"' in content
    assert "Saw of source up to 2026-03-01 11:00:00 UTC" in said
    assert "rejected since" in words(page(site, "/batches/b2"))
    said = words(page(site, "/translators/neural-b2"))
    assert "not to be used: trained on <script>" in said
    assert "z 2.5" in said


def test_an_event_is_traced_back_as_the_command_does(site):
    said = words(page(site, "/lineage?event=b1/0"))
    for text in ("Event, published", "user_id u0", "Batch b1, published", "Source event none"):
        assert text in said, text
    answer, content = ask(site.address, "/lineage?event=nothing")
    assert answer.status == 404
    assert "There is no synthetic event nothing, published, staged or in" in words(content)


def test_names_that_mean_harm_are_text(site):
    for path in [*site.paths, f"/lineage?event={quote(HOSTILE)}", f"/runs/{quote(HOSTILE)}"]:
        _, content = ask(site.address, path)
        assert "<script" not in content, path
        assert "alert('" not in content, path
    assert HOSTILE in words(page(site, HOSTILE_PATH))
    assert f'href="{HOSTILE_PATH}"' in page(site, "/batches")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/runs/nothing", "There is no run nothing; /runs lists those that there are."),
        ("/batches/nothing", "There is no batch nothing; /batches lists those that there are."),
        ("/translators/no", "There is no translator no; /translators lists those that there are."),
        ("/reports/nothing", "There is no run nothing; /runs lists those that there are."),
        ("/runs/a%00b", "There is nothing of that name."),
        (f"/runs/{'x' * 300}", "There is nothing of that name."),
        ("/runs?page=9", "There are not so many runs."),
        ("/runs?page=0", "There are not so many runs."),
        ("/batches?page=-1", "There are not so many batches."),
        ("/translators?page=x", "There are not so many translators."),
        ("/elsewhere", "There is no such page."),
    ],
)
def test_what_is_not_there_is_said_in_one_line(site, path, told):
    answer, content = ask(site.address, path)
    assert answer.status == 404
    assert f"Not found {told} Overview" in words(content)


def test_a_report_is_served_as_it_was_written_and_may_do_nothing(site):
    answer, content = ask(site.address, f"/reports/{site.reported}")
    assert (answer.status, content) == (
        200,
        (site.repo.parent / "report" / "report.html").read_text(encoding="utf-8"),
    )
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert policy.endswith("sandbox")
    assert "script-src" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../../../../etc/passwd",
        "/reports/..%2f..%2f..%2fetc%2fpasswd",
        "/reports/%2e%2e/report/report.html",
        "/reports//etc/passwd",
        "/reports/report/report.json",
        "/../scalr.yaml",
        "/style.css",
        "/pages/base.html",
    ],
)
def test_no_path_leads_to_a_file(site, path):
    answer, content = ask(site.address, path)
    assert answer.status == 404
    assert "root:" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(site, method):
    for path in ("/", "/runs", "/nothing", "/healthz"):
        answer, _ = ask(site.address, path, method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_heads_are_answered_without_a_body_and_health_in_a_word(site):
    answer, content = ask(site.address, "/batches/b1", method="HEAD")
    assert (answer.status, content) == (200, "")
    assert ask(site.address, "/healthz")[1] == "ok\n"
    assert ask(site.address, "/favicon.ico")[0].headers["Content-Type"] == "image/svg+xml"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "a b"])
def test_only_known_names_are_answered(site, name):
    for path in ("/", f"/reports/{site.reported}", "/healthz"):
        answer, content = ask(site.address, path, headers={"Host": name})
        assert answer.status == 421, name
        assert "SCALR" not in content
    for known in ("localhost:1", "LOCALHOST", "[::1]:8400", "127.0.0.1"):
        assert ask(site.address, "/healthz", headers={"Host": known})[0].status == 200


def test_every_answer_forbids_what_browsers_need_not_do(site):
    asked = [*site.paths, "/nothing", f"/reports/{site.reported}", "/healthz", "/favicon.ico"]
    answers = [ask(site.address, path)[0] for path in asked]
    answers.append(ask(site.address, "/", method="POST")[0])
    answers.append(ask(site.address, "/", headers={"Host": "evil.example"})[0])
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Set-Cookie"] is None
        assert answer.headers["Server"] is None


def test_looking_changes_nothing(site):
    before = bytes_below(site.repo.parent)
    for path in [*site.paths, "/lineage?event=b1/0", f"/reports/{site.reported}", "/healthz"]:
        assert ask(site.address, path)[0].status == 200
    assert bytes_below(site.repo.parent) == before


def test_an_empty_repository_is_shown_to_all_with_a_warning(tmp_path):
    repo = quick_repo(tmp_path)
    before = bytes_below(repo)
    with served(repo, "--host", "0.0.0.0") as (address, serving):  # noqa: S104 - what is tested
        assert address.startswith("http://0.0.0.0:")
        here = address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - what is tested
        assert "run scalr import FILE" in words(ask(here, "/")[1])
        assert "Nothing has been run yet." in ask(here, "/runs")[1]
        assert ask(here, "/runs/nothing")[0].status == 404
        assert ask(here, "/lineage?event=nothing")[0].status == 404
        assert ask(here, "/healthz")[1] == "ok, no ledger yet\n"
        for name, status in {"10.1.2.3:8400": 200, "evil.example": 421}.items():
            assert ask(here, "/healthz", headers={"Host": name})[0].status == status
    assert serving.returncode == 0
    assert bytes_below(repo) == before


def test_without_an_answer_of_the_ledger_pages_say_what_to_do_and_no_address(tmp_path):
    repo = quick_repo(tmp_path, "postgresql+psycopg://scalr@127.0.0.1:1/private")
    with served(repo, "--host", "0.0.0.0") as (address, serving):  # noqa: S104 - what is tested
        here = address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - what is tested
        for path in ("/", "/runs", "/batches/b1", "/lineage?event=x", "/healthz"):
            answer, content = ask(here, path)
            assert answer.status == 503
            assert "No answer from the ledger" in words(content)
            assert "scalr doctor says what to do" in words(content)
            assert "private" not in content
            assert "127.0.0.1" not in content
        serving.send_signal(signal.SIGINT)
        out, err = serving.communicate(timeout=60)
    assert (serving.returncode, out) == (0, "")
    warning, *reasons = err.splitlines()
    assert warning.startswith("scalr: there is no authentication")
    assert len(reasons) == 5
    assert all("does not answer" in line for line in reasons)


def test_what_cannot_be_served_is_said_in_one_line(tmp_path):
    repo = quick_repo(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = call_scalr(repo, "ui", "--port", port)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"scalr: cannot listen on 127.0.0.1 port {port} (Address already in use); choose another "
        "--port, or 0 for one that is free\n"
    )
    said = call_scalr(repo, "ui", "--host", "no.such.name.invalid", "--port", "0")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--host no.such.name.invalid is no name or address" in said.err
    said = call_scalr(tmp_path / "nothing", "ui", "--port", "0")
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_the_server_loads_neither_feast_nor_ray():
    script = (
        "import sys, scalr_ray.ui.serving;"
        "print(sorted({'feast', 'ray', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
