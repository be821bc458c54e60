"""The neural translator from the command line: trained on Ray, drawn from, published, measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from commands import call_scalr
from planted_logs import SMALL_SETTINGS, cut_of, planted_events, with_newcomers, write_log

from scalr_ray.core.layout import Layout
from scalr_ray.offline_store.cluster import ray_session
from scalr_ray.translator import load_translator

pytestmark = [
    pytest.mark.feast,
    pytest.mark.ray,
    pytest.mark.usefixtures("one_ray"),
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
    # Ray reads what it wrote of an earlier run with a deprecated call of pydantic.
    pytest.mark.filterwarnings("ignore:The `parse_obj` method is deprecated"),
]

DEFINITIONS = Path(__file__).parents[2] / "feature_repo"
SETTINGS = (
    *SMALL_SETTINGS,
    "translator.neural.features=user_features_v1",
    "translator.neural.item_features=item_features_v1",
    "translator.neural.width=32",
    "translator.neural.length=32",
    "translator.neural.batch_rows=64",
    "translator.neural.learning_rate=0.005",
)


def scalr(repo: Path, *arguments: str, settings: tuple[str, ...] = ()) -> dict:
    said = call_scalr(repo, "--json", *arguments, settings=(*SETTINGS, *settings))
    assert said.code == 0, said.err
    return said.json


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with ray_session(3):
        yield


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("neural")
    events = planted_events(users=600)
    log = write_log(with_newcomers(events), folder / "events.parquet")
    repo = folder / "repo"
    shutil.copytree(DEFINITIONS, repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    scalr(repo, "import", str(log))
    scalr(repo, "apply")
    return repo


def test_a_net_is_trained_drawn_from_published_and_measured(repo, tmp_path):
    as_of = cut_of(planted_events(users=600)).isoformat()
    trained = scalr(repo, "train", "--translator", "neural", "--as-of", as_of)
    measured = trained["metrics"]
    assert trained["kind"] == "neural"
    assert trained["version"].startswith("neural-")
    assert measured["transfers"] is True
    assert measured["z"] > 3
    assert measured["alpha"] > 0
    trainings = measured["trainings"]
    assert trainings["validation"]["workers"] == trainings["final"]["workers"] == 1
    assert trainings["validation"]["loss"][-1] < trainings["validation"]["loss"][0]
    folder = Path(trained["path"])
    assert sorted(path.suffix for path in folder.iterdir() if path.name != "trial.json") == [
        ".json", ".parquet", ".parquet", ".parquet", ".safetensors", ".safetensors",
    ]  # fmt: skip

    batch = scalr(repo, "generate", "--translator", trained["version"])
    assert batch["rows"] > 0
    scalr(repo, "gate")
    published = scalr(repo, "publish")
    assert published["batch_id"] == batch["batch_id"]
    report = scalr(repo, "evaluate", "--out", str(tmp_path / "report"))
    assert report["published"] is True
    ranked = {name: arm["hidden"]["ndcg_at_20"] for name, arm in report["rankers"].items()}
    assert ranked["translator"] > 1.5 * ranked["prior"]
    arms = {name: arm["hidden"]["ndcg_at_20"] for name, arm in report["arms"].items()}
    assert arms["synthetic"] > arms["real_only"]

    tried = scalr(
        repo, "tune", "--trials", "2", "--as-of", as_of, settings=("translator.neural.epochs=1",)
    )
    assert len(tried) == 2
    assert tried[0]["validation"] >= tried[1]["validation"]
    assert {"learning_rate", "width"} < tried[0]["settings"].keys()

    # The same again finds both trainings finished, and is the same translator.
    again = scalr(repo, "train", "--translator", "neural", "--as-of", as_of)
    assert (again["version"], again["created_at"]) == (trained["version"], trained["created_at"])
    runs = Layout.of(repo).training
    stages = sorted(path.name.rsplit("-", 1)[1] for path in runs.iterdir())
    assert stages == ["final", "tune", "validation"]
    translator = load_translator(folder)
    assert translator.kind == "neural"
    assert isinstance(translator.source_items.ids, pa.StringArray)
