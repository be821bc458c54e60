from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from neural_builds import DAY, TARGETS, translator, users_of

from scalr_ray.core.errors import ConfigError, DataError
from scalr_ray.translator.histories import Users
from scalr_ray.translator.neural.asking import Asked
from scalr_ray.translator.neural.batch import collate
from scalr_ray.translator.neural.candidates import Candidates
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.storage import load_neural, save_neural
from scalr_ray.translator.protocol import Translator, as_prior, log_likelihood, log_scores

CANDIDATES = Candidates(
    items=torch.arange(TARGETS),
    offsets=torch.zeros(TARGETS),
    moments=torch.zeros(1, dtype=torch.int64),
    log_prior=torch.zeros(1, TARGETS),
    ages=torch.zeros(1, TARGETS, dtype=torch.uint8),
    columns=torch.zeros(1, dtype=torch.int64),
    owned=torch.zeros(2, 0, dtype=torch.int64),
    eras=torch.zeros(1, dtype=torch.int64),
)


@pytest.fixture
def users() -> Users:
    return users_of(
        [
            ([(0, 1), (1, 2), (2, 5)], [(4, 3)]),
            ([], []),
            ([(3, 4)], []),
            ([(item % 6, item + 1) for item in range(12)], [(1, 3), (2, 9)]),
        ]
    )


def test_evidence_is_a_lift_under_the_prior(users):
    model = translator()
    evidence = model.evidence(users)
    assert evidence.shape == (4, 7)
    assert evidence.dtype == np.float32
    share = np.exp(model.log_prior)
    assert np.allclose((share * np.exp(evidence)).sum(axis=1), 1.0, atol=1e-5)
    assert np.abs(evidence[[0, 2, 3]]).max() > 0.1
    assert (evidence[1] == 0).all()


def test_other_users_in_the_batch_do_not_matter(users):
    model = translator()
    together = model.evidence(users)
    for row in range(len(users)):
        alone = model.evidence(users.take(np.array([row])))
        assert np.allclose(alone[0], together[row], atol=1e-5)
    back = model.evidence(users.take(np.array([3, 2, 1, 0])))
    assert np.allclose(back[::-1], together, atol=1e-5)


def test_only_the_last_tokens_are_read(users):
    model = translator(length=4)
    last = Asked.of(users, 4)
    assert np.diff(last.offsets).tolist() == [4, 0, 1, 4]
    longer = users_of([([(5, 0), (3, 0), (0, 1), (1, 2), (2, 5)], [(4, 3)])])
    assert np.allclose(model.evidence(longer)[0], model.evidence(users)[0], atol=1e-5)


def test_both_sides_stand_in_one_order_of_appearance():
    # The second source event happened on day 1 but came to be known after that of day 4.
    asked = Asked.of(users_of([([(0, 4), (1, 1), (2, 6)], [(3, 4), (5, 5)])]), 8)
    assert asked.sides.tolist() == [0, 0, 1, 1, 0]
    assert asked.tokens["token_item"].tolist() == [0, 1, 3, 5, 2]
    assert asked.origins.tolist() == [0, 1, 0, 1, 2]


def test_items_and_types_it_never_learned_are_read_as_unknown():
    evidence = translator().evidence(users_of([([(-1, 1), (2, 2)], [])]))
    assert np.isfinite(evidence).all()


def test_it_keeps_the_protocol(users):
    model: Translator = translator()
    tuned = model.tuned(alpha=0.5, temperature=2.0)
    scores = log_scores(tuned, users)
    expected = 0.5 * model.evidence(users) + model.log_prior
    assert np.allclose(scores, expected, atol=1e-6)
    assert np.allclose(log_scores(as_prior(tuned), users), model.log_prior)
    likelihood = np.exp(log_likelihood(tuned, users))
    assert np.allclose(likelihood.sum(axis=1), 1.0, atol=1e-5)
    assert likelihood[0, 4] == 0.0


def test_an_item_that_is_never_proposed_carries_no_weight(users):
    model = translator()
    prior = model.log_prior.copy()
    prior[0] = -np.inf
    evidence = replace(model, log_prior=prior).evidence(users)
    share = np.exp(prior) / np.exp(prior).sum()
    assert np.allclose((share * np.exp(evidence)).sum(axis=1), 1.0, atol=1e-5)


def test_triggers_are_the_rise_of_the_match_from_one_prefix_to_the_next(users):
    model = translator()
    row, item = np.array([0, 0, 3, 2, 1]), np.array([5, 6, 0, 1, 2])
    weights = model.triggers(users, row, item)
    candidate, position = users.source.of_rows(row)
    assert weights.shape == candidate.shape
    assert (weights >= 0).all()
    assert np.bincount(candidate, weights=weights, minlength=5)[[0, 1, 2, 3]].min() > 0
    for c in (0, 1, 2):
        expected = rises(model, users.take(row[c : c + 1]), int(item[c]))
        mine = weights[candidate == c]
        if expected.max() > 0:
            assert np.allclose(mine, np.maximum(expected, 0), atol=1e-4)
        else:
            assert (mine == 1.0).all()
    assert len(position) == len(weights)


def rises(model, user: Users, item: int) -> np.ndarray:
    """Brute force: the match with ever more tokens, the time since the last held as it is."""
    asked = Asked.of(user, model.net.shape.length)
    rows = asked.rows(user).to_pylist()[0]
    final = collate(asked.rows(user)).query_gaps
    matches = []
    with torch.inference_mode():
        for kept in range(len(rows["token_item"]) + 1):
            cut = {
                name: [values[:kept]] if name.startswith("token") else [values]
                for name, values in rows.items()
            }
            cut["query_prefix"] = [[kept]]
            schema = asked.rows(user).schema
            batch = replace(collate(pa.table(cut, schema=schema)), query_gaps=final)
            state = model.net.states(batch)
            vectors = model.net.item_vectors(torch.arange(7), None)
            ages = model._ages(user.as_of)[None]
            match = model.net.match(state, vectors, ages, torch.zeros(1, dtype=torch.int64))
            matches.append(float(match[0, item]))
    return np.diff(matches)[asked.sides == 0]


def test_without_any_rise_all_events_weigh_the_same(users):
    silent = translator()
    with torch.no_grad():
        silent.net.query.weight.zero_()
        silent.net.age.weight.zero_()
    assert silent.triggers(users, np.array([0, 3]), np.array([1, 2])).tolist() == [1.0] * 15


def test_no_candidates_have_no_triggers(users):
    none = np.empty(0, dtype=np.int64)
    assert translator().triggers(users, none, none).shape == (0,)


def test_user_features_speak_and_have_to_be_there(users):
    features = pa.table({"age": [20.0, 30.0, None, 50.0]})
    model = translator(user_features=features)
    with_features = replace(users, features=features)
    evidence = model.evidence(with_features)
    other = replace(users, features=pa.table({"age": [90.0, 30.0, None, 50.0]}))
    assert not np.allclose(model.evidence(other)[0], evidence[0])
    assert np.allclose(model.evidence(other)[3], evidence[3], atol=1e-5)
    assert np.abs(evidence[1]).max() > 0
    assert model.triggers(with_features, np.array([0]), np.array([1])).shape == (3,)
    with pytest.raises(DataError, match="trained with user features and got none"):
        model.evidence(users)


def test_a_new_item_is_scored_by_its_features(users):
    features = pa.table({"kind": ["a", "b", "b", "b", "c", "c", "a"]})
    model = translator(item_features=features)
    with torch.no_grad():
        model.net.target_table.weight.zero_()  # as if no item had been learned by its id
    evidence = model.evidence(users)
    # Items 1 to 3 are of one kind and of one age class as of day 30.
    assert np.allclose(evidence[:, 1], evidence[:, 2], atol=1e-5)
    assert np.allclose(evidence[:, 1], evidence[:, 3], atol=1e-5)
    assert not np.allclose(evidence[0, 1], evidence[0, 4])


def test_a_translator_survives_its_folder(users, tmp_path: Path):
    model = translator(
        item_features=pa.table({"kind": ["a", "b", "a", "b", "c", "c", "a"]}),
        user_features=pa.table({"age": [20.0, 30.0, None, 50.0]}),
    ).tuned(alpha=0.7, temperature=1.3)
    known = replace(users, features=pa.table({"age": [20.0, 30.0, None, 50.0]}))
    save_neural(model, tmp_path / "t")
    save_neural(model, tmp_path / "t")
    again = load_neural(tmp_path / "t")
    assert np.array_equal(again.evidence(known), model.evidence(known))
    assert (again.alpha, again.temperature, again.kind) == (0.7, 1.3, "neural")
    assert again.train_cutoff == datetime(2024, 1, 1, tzinfo=UTC)
    assert again.net.shape == model.net.shape
    assert again.target_items == model.target_items
    assert again.source_items == model.source_items
    assert again.event_types == model.event_types
    assert again.mix == model.mix
    assert again.log_prior.tobytes() == model.log_prior.tobytes()
    assert np.array_equal(again.first_seen, model.first_seen)
    assert np.array_equal(again.delays, model.delays)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t"]


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "target_items.parquet", "source_items.parquet"]
)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, damage: str):
    save_neural(translator(), tmp_path / "t")
    file = tmp_path / "t" / name
    content = file.read_bytes()
    file.unlink()
    if damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="run `scalr train` again"):
        load_neural(tmp_path / "t")


@pytest.mark.parametrize(
    "change", [{"format": 99}, {"kind": "frequency"}, {"shape": {}}, {"delays_us": None}]
)
def test_other_formats_are_refused(tmp_path: Path, change: dict):
    save_neural(translator(), tmp_path / "t")
    file = tmp_path / "t" / "translator.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match="run `scalr train` again"):
        load_neural(tmp_path / "t")


def test_weights_of_another_shape_are_refused(tmp_path: Path):
    save_neural(translator(), tmp_path / "t")
    file = tmp_path / "t" / "translator.json"
    settings = json.loads(file.read_text())
    settings["shape"]["width"] = 32
    file.write_text(json.dumps(settings))
    with pytest.raises(DataError, match="unreadable"):
        load_neural(tmp_path / "t")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="run `scalr train` again"):
        load_neural(tmp_path / "nowhere")


def test_heads_have_to_divide_the_width():
    with pytest.raises(ConfigError, match="no multiple"):
        NetShape(source_items=1, target_items=1, width=10, heads=4)


def test_autocast_to_bfloat16_stays_close(users):
    model = translator(width=32)
    exact = model.evidence(users)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.evidence(users)
    assert np.isfinite(rough).all()
    assert np.abs(rough - exact).max() < 0.1 * max(1.0, np.abs(exact).max())


def test_the_net_is_one_graph_for_the_compiler(users):
    model = translator()
    batch = collate(Asked.of(users, 16).rows(users))
    candidates = replace(CANDIDATES, moments=torch.zeros(4, dtype=torch.int64))
    compiled = torch.compile(model.net, backend="eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        assert torch.equal(compiled(batch, candidates), model.net(batch, candidates))


def test_padding_does_not_matter(users):
    model = translator()
    rows = Asked.of(users, 64).rows(users)
    batch = collate(rows)
    wide = {
        name: torch.nn.functional.pad(
            getattr(batch, name), (0, 0, 0, 21) if name == "values" else (0, 21)
        )
        for name in ("items", "sides", "types", "gaps", "values")
    }
    with torch.inference_mode():
        narrow, padded = model.net.states(batch), model.net.states(replace(batch, **wide))
    assert torch.allclose(narrow, padded, atol=1e-5)


def test_a_row_that_drops_its_own_tokens_is_as_if_it_had_none(users):
    rows = Asked.of(users, 16).rows(users)
    bare = replace(users, own=users_of([([], [])] * 4).own)
    dropped = collate(rows, drop_own=np.ones(4, dtype=bool))
    without = collate(Asked.of(bare, 16).rows(bare))
    assert torch.equal(dropped.items, without.items)
    assert torch.equal(dropped.query_positions, without.query_positions)
    assert torch.equal(dropped.query_gaps, without.query_gaps)
    assert dropped.owned.tolist() == collate(rows).owned.tolist()
    assert dropped.owned[:, 0].tolist() == [0, 4]
    assert users.as_of == 30 * DAY
