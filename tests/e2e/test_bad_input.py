"""Bad input gets one line, exit code 2, and leaves what was there as it was, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_logs import bytes_below

from scalr_ray.cli.main import main
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def sound(rows: int = 40) -> dict[str, list]:
    """Rows of both domains for ten users."""
    return {
        "user_id": [f"u{at % 10}" for at in range(rows)],
        "item_id": [f"i{at}" for at in range(rows)],
        "domain": ["source" if at % 3 else "target" for at in range(rows)],
        "event_timestamp": [NOON + at * DAY for at in range(rows)],
    }


def written(folder: Path, columns: dict | pa.Table) -> Path:
    file = folder / "log.parquet"
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file)
    return file


def log_with(**changes) -> Callable[[Path], Path]:
    return lambda folder: written(folder, sound() | changes)


def log_without(name: str) -> Callable[[Path], Path]:
    kept = {key: values for key, values in sound().items() if key != name}
    return lambda folder: written(folder, kept)


def times(text: Callable[[datetime], object]) -> list[object]:
    return [text(moment) for moment in sound()["event_timestamp"]]


def mixed_zones(folder: Path) -> Path:
    east = timezone(timedelta(hours=1))
    texts = times(lambda moment: moment.isoformat())
    texts[1::2] = [moment.astimezone(east).isoformat() for moment in map(parsed, texts[1::2])]
    return written(folder, sound() | {"event_timestamp": texts})


def parsed(text: object) -> datetime:
    return datetime.fromisoformat(str(text))


def corrupt(folder: Path) -> Path:
    file = written(folder, sound())
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(bytes(content))
    return file


def cut_short(folder: Path) -> Path:
    file = written(folder, sound())
    file.write_bytes(file.read_bytes()[:-20])
    return file


def no_overlap(folder: Path) -> Path:
    columns = sound()
    pairs = zip(columns["domain"], columns["user_id"], strict=True)
    return written(folder, columns | {"user_id": [f"{domain}-{user}" for domain, user in pairs]})


def integer_ids(folder: Path) -> Path:
    count = range(40)
    return written(folder, sound() | {"user_id": [at % 10 for at in count], "item_id": list(count)})


def text_file(folder: Path) -> Path:
    file = folder / "log.parquet"
    file.write_text("user_id,item_id\n1,2\n")
    return file


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A log, what the line about it must say, and settings under which it is imported."""

    write: Callable[[Path], Path]
    says: tuple[str, ...]
    settings: tuple[str, ...] = ()
    columns: str = ""


BAD = {
    "missing_file": Bad(
        write=lambda folder: folder / "nowhere.parquet",
        says=("nowhere.parquet is not there", "check the path"),
    ),
    "folder": Bad(write=lambda folder: folder, says=("is a folder; name one Parquet file",)),
    "missing_column": Bad(
        write=log_without("item_id"),
        says=("'item_id' is missing", "--columns item_id=NAME"),
    ),
    "missing_domain_column": Bad(
        write=log_without("domain"), says=("'domain' is missing", "--columns domain=NAME")
    ),
    "mapped_to_nothing": Bad(write=log_with(), says=("'price' is missing",), columns="value=price"),
    "unknown_column_of_ours": Bad(
        write=log_with(), says=("--columns maps 'sku'",), columns="sku=item_id"
    ),
    "wrong_type_of_user": Bad(
        write=log_with(user_id=[0.5] * 40), says=("'user_id' is double", "cast it")
    ),
    "wrong_type_of_time": Bad(
        write=log_with(event_timestamp=[1] * 40), says=("'event_timestamp' is int64",)
    ),
    "wrong_type_of_domain": Bad(write=log_with(domain=[1] * 40), says=("'domain' is int64",)),
    "wrong_type_of_value": Bad(write=log_with(value=["x"] * 40), says=("'value' is string",)),
    "null_key": Bad(
        write=log_with(user_id=[None, *sound()["user_id"][1:]]),
        says=("'user_id' is null in 1 of 40 rows", "row 0", "drop these rows"),
    ),
    "null_time": Bad(
        write=log_with(event_timestamp=[*sound()["event_timestamp"][1:], None]),
        says=("'event_timestamp' is null", "row 39"),
    ),
    "naive_timestamps": Bad(
        write=log_with(event_timestamp=times(lambda moment: moment.replace(tzinfo=None))),
        says=("'event_timestamp'", "without a zone", "tz_localize"),
    ),
    "naive_text": Bad(
        write=log_with(event_timestamp=times(lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S}")),
        says=("'event_timestamp'", "without a zone"),
    ),
    "mixed_zones": Bad(write=mixed_zones, says=("'event_timestamp'", "mixes zones")),
    "unknown_source_domain": Bad(
        write=log_with(),
        says=("'music'", "there are 'source', 'target'"),
        settings=("domains.source=[music]",),
    ),
    "unknown_target_domain": Bad(
        write=log_with(), says=("'music'", "--target"), settings=("domains.target=music",)
    ),
    "no_overlapping_users": Bad(
        write=no_overlap, says=("no user_id has events both in source and in target",)
    ),
    "no_rows": Bad(
        write=lambda folder: written(folder, pa.table(sound()).slice(0, 0)),
        says=("has no rows",),
    ),
    "corrupt_parquet": Bad(write=corrupt, says=("cannot be read as Parquet; write it anew",)),
    "truncated_parquet": Bad(write=cut_short, says=("cannot be read as Parquet",)),
    "no_parquet": Bad(write=text_file, says=("cannot be read as Parquet",)),
    "other_id_types_than_configured": Bad(write=integer_ids, says=("'user_id' is int64", "ids")),
    "existing_but_different_table": Bad(
        write=integer_ids,
        says=("in the store: column 'user_id' is string, not int64", "data_dir"),
        settings=("ids.user_id=int64", "ids.item_id=int64"),
    ),
    "sides_swapped": Bad(
        write=log_with(),
        says=("holds events of domain", "import into another data_dir"),
        settings=("domains.source=[target]", "domains.target=source"),
    ),
}


def scalr(repo: Path, *arguments: str, settings: tuple[str, ...] = ()) -> int:
    return main(["--repo", str(repo), *(f"--set={text}" for text in settings), *arguments])


def line_of(shown: tuple[str, str]) -> str:
    """The one line on standard error."""
    out, err = shown
    assert out == ""
    assert err.startswith("scalr: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert len(err) < 700
    return err


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A repository with events, snapshots and a registry."""
    folder = tmp_path_factory.mktemp("filled")
    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    columns = sound()
    columns["event_timestamp"] = pa.array(columns["event_timestamp"], TIMESTAMP)
    assert scalr(repo, "import", str(written(folder, columns))) == 0
    assert scalr(repo, "apply") == 0
    return repo


@pytest.mark.parametrize("case", BAD)
def test_a_bad_log_is_not_imported(case, filled, tmp_path, capsys):
    bad = BAD[case]
    before = bytes_below(filled / "data")
    assert len(before) > 5
    mapped = ("--columns", bad.columns) if bad.columns else ()
    capsys.readouterr()
    code = scalr(filled, "import", str(bad.write(tmp_path)), *mapped, settings=bad.settings)
    line = line_of(capsys.readouterr())
    assert code == 2
    for part in bad.says:
        assert part in line
    assert bytes_below(filled / "data") == before


@pytest.mark.parametrize(
    "case", ["missing_file", "null_key", "naive_timestamps", "corrupt_parquet"]
)
def test_a_bad_log_leaves_a_new_repository_empty(case, tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    assert scalr(repo, "import", str(BAD[case].write(tmp_path))) == 2
    line_of(capsys.readouterr())
    assert not (repo / "data").exists()


DEMO_CASES = [
    name
    for name in BAD
    # A demo has a store of its own, with the ids of the log and the domains of the call.
    if name
    not in {
        "unknown_source_domain",
        "unknown_target_domain",
        "other_id_types_than_configured",
        "existing_but_different_table",
        "sides_swapped",
    }
]


def earlier_demo(folder: Path) -> Path:
    out = folder / "out"
    (out / "feature_repo").mkdir(parents=True)
    (out / ".scalr-demo").write_text("made by scalr demo")
    (out / "report.json").write_text("{}")
    return out


@pytest.mark.parametrize("case", DEMO_CASES)
def test_a_bad_log_leaves_an_earlier_demo_alone(case, tmp_path, capsys):
    bad, out = BAD[case], earlier_demo(tmp_path)
    (tmp_path / "logs").mkdir()
    before = bytes_below(out)
    file = bad.write(tmp_path / "logs")
    arguments = ["--events", str(file), "--source", "source", "--target", "target"]
    mapped = ["--columns", bad.columns] if bad.columns else []
    assert main(["demo", *arguments, *mapped, "--out", str(out)]) == 2
    line = line_of(capsys.readouterr())
    for part in bad.says:
        assert part in line
    assert bytes_below(out) == before


@pytest.mark.parametrize(
    ("options", "verb", "says"),
    [
        ([], ["--source", "music", "--target", "target"], "no row of column 'domain' is 'music'"),
        ([], ["--source", "source", "--target", "music"], "no row of column 'domain' is 'music'"),
        ([], ["--source", "source", "--target", "source"], "is both source and target"),
        ([], ["--source", "source,source", "--target", "target"], "named twice"),
        (["--set=seeed=1"], ["--source", "source", "--target", "target"], "unknown key 'seeed'"),
        (["--set=seed=x"], ["--source", "source", "--target", "target"], "seed"),
        (["--set=data_dir=/x"], ["--source", "source", "--target", "target"], "data_dir"),
    ],
)
def test_a_wrong_call_leaves_an_earlier_demo_alone(options, verb, says, tmp_path, capsys):
    out = earlier_demo(tmp_path)
    before = bytes_below(out)
    file = written(tmp_path, sound())
    assert main([*options, "demo", "--events", str(file), *verb, "--out", str(out)]) == 2
    assert says in line_of(capsys.readouterr())
    assert bytes_below(out) == before


@pytest.mark.parametrize("options", [["--set=seed=-1"], ["--set=world=1"]])
def test_a_wrong_setting_is_found_before_a_world_is_simulated(options, tmp_path, capsys):
    out = earlier_demo(tmp_path)
    before = bytes_below(out)
    assert main([*options, "demo", "--out", str(out)]) == 2
    line_of(capsys.readouterr())
    assert bytes_below(out) == before


@pytest.mark.parametrize("verb", ["train", "run"])
def test_no_events_before_the_cut(verb, filled, capsys):
    before = bytes_below(filled / "data")
    assert scalr(filled, verb, "--as-of", "1999-01-01") == 2
    *_, last = capsys.readouterr().err.splitlines()
    why = "there are no source events before the cut; import some, or move the cut later"
    assert last == f"scalr: {why}"
    assert bytes_below(filled / "data") == before


@pytest.mark.parametrize(
    ("settings", "why"), [((), "no outcome of "), (("prior.window_days=90",), "only ")]
)
def test_too_few_events_to_train_on(filled, capsys, settings, why):
    assert scalr(filled, "train", "--as-of", "2026-04-09", settings=settings) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"scalr: {why}")
    assert "import more events" in last


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeed: 3\n", "unknown key 'seeed'; remove it or correct its spelling"),
        ("gate: {max_pssi: 1}\n", "unknown key 'gate.max_pssi'"),
        ("seed: many\n", "seed: "),
        ("seed: [\n", "is not valid YAML"),
        ("- seed\n", "must hold keys and values"),
    ],
)
def test_a_wrong_configuration_file(text, says, filled, tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(filled, repo)
    (repo / "scalr.yaml").write_text(text)
    before = bytes_below(repo / "data")
    for verb in (["import", "x.parquet"], ["apply"], ["train"], ["runs"], ["doctor"]):
        assert scalr(repo, *verb) == 2
        line = line_of(capsys.readouterr())
        assert says in line
        assert "scalr.yaml" in line
    assert bytes_below(repo / "data") == before


def test_a_repository_that_is_not_there(tmp_path, capsys):
    assert scalr(tmp_path / "nowhere", "runs") == 2
    assert "point --repo at a folder that holds it" in line_of(capsys.readouterr())
    assert not (tmp_path / "nowhere").exists()


def test_a_table_of_synthetic_events_that_was_made_for_other_ids(filled, capsys):
    before = bytes_below(filled / "data")
    assert scalr(filled, "apply", settings=("ids.user_id=int64", "ids.item_id=int64")) == 2
    assert "was made for other events" in line_of(capsys.readouterr())
    assert bytes_below(filled / "data") == before


def test_definitions_that_feast_refuses(filled, tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(filled, repo)
    (repo / "services.py").write_text("raise ValueError('no such view')\n")
    assert scalr(repo, "apply") == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("scalr: feast apply failed in ")
    assert "no such view" in last


def test_a_damaged_part_in_the_store(filled, tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(filled, repo)
    (part,) = (repo / "data" / "events" / "target_events").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-30])
    before = bytes_below(repo / "data")
    assert scalr(repo, "import", str(written(tmp_path, sound(20)))) == 2
    line = line_of(capsys.readouterr())
    assert f"{part.name} in the store cannot be read; restore it" in line
    assert bytes_below(repo / "data") == before


def test_bad_rows_are_counted_and_set_aside_with_the_reason(tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    columns = sound()
    columns["available_at"] = list(columns["event_timestamp"])
    columns["item_id"][1] = ""
    columns["available_at"][2] = NOON - DAY
    for name, values in columns.items():
        columns[name] = [*values, values[0], values[5]]
    assert scalr(repo, "--json", "import", str(written(tmp_path, columns))) == 0
    import json

    told = json.loads(capsys.readouterr().out)
    assert (told["rows_read"], told["duplicates"], told["malformed"]) == (42, 2, 2)
    assert sum(told["imported"].values()) == 38
    aside = pq.read_table(told["refused_file"]).to_pylist()
    assert [(row["row"], row["reason"]) for row in aside] == [
        (1, "item_id is empty"),
        (2, "available_at lies before event_timestamp"),
        (40, "duplicate of an earlier row"),
        (41, "duplicate of an earlier row"),
    ]
    assert [row["user_id"] for row in aside] == ["u1", "u2", "u0", "u5"]


def test_the_count_of_bad_rows_is_told(tmp_path, capsys):
    repo = tmp_path / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    columns = {name: [*values, values[0]] for name, values in sound().items()}
    assert scalr(repo, "import", str(written(tmp_path, columns))) == 0
    told = capsys.readouterr().err
    assert "1 duplicate and 0 malformed rows were set aside in " in told
