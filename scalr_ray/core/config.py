"""`scalr.yaml`: one strict file, resolved once, fingerprinted, stored with every run.

Precedence, lowest first: defaults, the file, `SCALR_*` environment variables
(`SCALR_PRIOR__WINDOW_DAYS=30`), `--set prior.window_days=30`. Unknown keys are refused wherever
they come from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scalr_ray.core.errors import ConfigError
from scalr_ray.core.events import IdType
from scalr_ray.core.fingerprint import fingerprint

CONFIG_NAME = "scalr.yaml"
ENV_PREFIX = "SCALR_"

# SCALR_TEST_* steers the test suite and SCALR_REPO the command line; neither is configuration.
_ENV_RESERVED = ("SCALR_TEST_", "SCALR_REPO")

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
DomainName = Annotated[str, Field(min_length=1, max_length=128)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class IdTypes(_Section):
    """The types of the id columns in every view."""

    user_id: IdType = "string"
    item_id: IdType = "string"


class Domains(_Section):
    """Where events are plentiful (`source`) and where they are sparse (`target`)."""

    source: tuple[DomainName, ...] = ("source",)
    target: DomainName = "target"

    @model_validator(mode="after")
    def _distinct(self) -> Domains:
        if not self.source:
            raise ValueError("name at least one source domain")
        if len(set(self.source)) != len(self.source):
            raise ValueError("a source domain is named twice")
        if self.target in self.source:
            raise ValueError(f"{self.target!r} is both source and target")
        return self


class PriorSettings(_Section):
    """Recent target-domain popularity: what an observer without cross-domain knowledge predicts.

    `window_days` is the look-back; `auto` weighs several of them by what they predict on the
    validation window. `background` is the weight of one older event against one recent event, so
    that an item keeps a chance.
    """

    window_days: PositiveInt | Literal["auto"] = 90
    background: Annotated[float, Field(gt=0, le=1)] = 0.01


class NeuralSettings(_Section):
    """The neural translator: a causal transformer over the user's last `length` events.

    `features` names a Feast feature service whose user features are read as of each event;
    `item_features` one whose item features stand beside the item ids. `workers` is the number of
    Ray Train workers, or the least and the most; 0 trains in the calling process. With
    `negatives: auto` small catalogues are compared in full and large ones by a sample.
    """

    features: str | None = None
    item_features: str | None = None
    length: PositiveInt = 64
    width: PositiveInt = 64
    layers: Annotated[int, Field(ge=0)] = 1
    heads: PositiveInt = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    drop_own: Annotated[float, Field(ge=0, le=1)] = 0.5
    epochs: PositiveInt = 20
    batch_rows: PositiveInt = 32
    learning_rate: Positive = 2e-3
    weight_decay: NonNegative = 0.01
    patience: PositiveInt = 3
    accumulate: PositiveInt = 1
    negatives: PositiveInt | Literal["auto"] = "auto"
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] | tuple[PositiveInt, PositiveInt] = 1


class TranslatorSettings(_Section):
    """How source events multiply evidence onto the prior.

    `frequency` counts users, `neural` learns a sequence model, `auto` fits both and keeps the one
    under which the validation window is likelier. `alphas` are exponents of the evidence and
    `shrinkages` pseudo-users per source item; both grids are tried on the validation window.

    What a pair of items counts is `event_weights[type]` of both events (1 where a type is not
    named) times a half per `pair_half_life_days` between them; what an event of the user speaks is
    halved per `history_half_life_days` of its age. Pairs of fewer than `min_users` users are
    dropped; `noise_epsilon` adds noise to the counts that are left.
    """

    kind: Literal["frequency", "neural", "auto"] = "frequency"
    alphas: tuple[NonNegative, ...] = (0.0, 0.15, 0.3, 0.6, 1.0)
    shrinkages: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.1, 1.0, 5.0)
    event_weights: dict[str, NonNegative] = {}
    pair_half_life_days: Positive | None = None
    history_half_life_days: Positive | None = None
    min_users: PositiveInt = 1
    noise_epsilon: Positive | None = None
    neural: NeuralSettings = NeuralSettings()

    @model_validator(mode="after")
    def _has_zero(self) -> TranslatorSettings:
        if 0.0 not in self.alphas:
            raise ValueError("alphas must include 0.0, so that 'nothing transfers' can be chosen")
        return self


class GenerationSettings(_Section):
    """How many synthetic events a user gets, how they are drawn, and which are refused.

    Items are sampled without replacement from prior * lift^evidence, raised to 1 / `temperature`.
    `evidence` may be larger than the alpha that ranks best: a trainer has a prior of its own, and
    what it lacks is the evidence. Candidates whose calibrated likelihood lies below
    `likelihood_floor` are refused.
    """

    per_user: PositiveInt = 60
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    evidence: NonNegative = 1.0
    likelihood_floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    users_per_task: PositiveInt = 512


class WeightSettings(_Section):
    """Weight of a synthetic event: `scale * exp(-history / decay_events)`.

    `history` is the number of target events the user has as of the cut. With `decay_events: 0` only
    users without any get weight, because augmentation harms those who have some. The grid in
    `scales` is tried on the validation window.
    """

    scales: tuple[Annotated[float, Field(gt=0)], ...] = (0.03, 0.1)
    decay_events: NonNegative = 0.0


class GateSettings(_Section):
    """What a batch must satisfy to be published.

    `max_psi` bounds the shift of item popularity against the prior, `max_mass_frac` the sum of
    sample weights per real target event. With `require_lift` the evidence must beat the prior on
    the validation window, and the downstream model of the trial must gain by the events: over real
    events alone, by at least `min_gain_nats` per event, and over a placebo.
    """

    max_psi: NonNegative = 2.0
    max_mass_frac: NonNegative = 2.0
    require_lift: bool = True
    min_gain_nats: NonNegative = 0.01


class EvaluationSettings(_Section):
    """The protocol: global time cuts, every target item ranked, the same users in every arm.

    The cuts are quantiles of the target domain's event times, floored to the day. `hide_users: odd`
    simulates sparsity: the target events of half of the users (odd integer ids; for strings, an odd
    hash) before the test cut are kept out of the store altogether.
    """

    validation_quantile: Fraction = 0.65
    test_quantile: Fraction = 0.80
    hide_users: Literal["none", "odd"] = "none"
    k: PositiveInt = 20
    seeds: PositiveInt = 3
    bootstrap: PositiveInt = 1000

    @model_validator(mode="after")
    def _ordered(self) -> EvaluationSettings:
        if self.validation_quantile >= self.test_quantile:
            raise ValueError("validation_quantile must lie below test_quantile")
        return self


class Resources(_Section):
    """What a local Ray session may use; a cluster that is there keeps its own."""

    cpus: PositiveInt = 2


class ScalrConfig(_Section):
    """Everything that `scalr.yaml` may say."""

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = "scalr"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data_dir: str = "data"
    ids: IdTypes = IdTypes()
    domains: Domains = Domains()
    prior: PriorSettings = PriorSettings()
    translator: TranslatorSettings = TranslatorSettings()
    generation: GenerationSettings = GenerationSettings()
    weights: WeightSettings = WeightSettings()
    gate: GateSettings = GateSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    resources: Resources = Resources()

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of every setting but those that cannot change a result."""
        return fingerprint(self.model_dump(mode="json", exclude={"data_dir", "resources"}))


def load_config(
    path: Path,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> ScalrConfig:
    """Read, merge and check the configuration.

    Args:
        path: the `scalr.yaml`, or the folder that holds it.
        overrides: `a.b=c` texts, later ones winning; values are read as YAML.
        environ: defaults to the process environment.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or a wrong value.
    """
    file = path / CONFIG_NAME if path.is_dir() else path
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is not there; point --repo at a folder that holds it") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    merged: dict[str, Any] = raw if isinstance(raw, dict) else {}
    if raw is not None and not isinstance(raw, dict):
        raise ConfigError(f"{file} must hold keys and values at its top level")
    for key, text in _from_environment(os.environ if environ is None else environ):
        _assign(merged, key, text, f"{ENV_PREFIX}{'__'.join(key).upper()}")
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign or not name:
            raise ConfigError(f"--set {override!r} is not of the form a.b=c")
        _assign(merged, name.split("."), text, f"--set {name}")
    try:
        return ScalrConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_first_problem(error, file)) from error


def _from_environment(environ: Mapping[str, str]) -> list[tuple[list[str], str]]:
    return [
        (name.removeprefix(ENV_PREFIX).lower().split("__"), text)
        for name, text in sorted(environ.items())
        if name.startswith(ENV_PREFIX) and not name.startswith(_ENV_RESERVED)
    ]


def _assign(tree: dict[str, Any], keys: Sequence[str], text: str, origin: str) -> None:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {text!r} is not a YAML value") from error
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"{origin}: {key!r} is a value, not a section")
        tree = branch
    tree[keys[-1]] = value


def _first_problem(error: ValidationError, file: Path) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{file}: unknown key {where!r}; remove it or correct its spelling"
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{file}: {where or 'file'}: {reason} (got {problem['input']!r})"
