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
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from scalr_ray.core.errors import ConfigError
from scalr_ray.core.events import IdType
from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.plain_yaml import read_yaml, shorten_value

CONFIG_NAME = "scalr.yaml"
ENV_PREFIX = "SCALR_"

# SCALR_TEST_* steers the test suite, SCALR_REPO the command line and SCALR_LOG the logs; none of
# them is configuration.
_ENV_RESERVED = ("SCALR_TEST_", "SCALR_REPO", "SCALR_LOG")

_UNSHOWN = ("database", "warehouse")
_SHOWN = 64  # characters of a name
_DATABASES = ("sqlite", "postgresql+psycopg")

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
DomainName = Annotated[str, Field(min_length=1, max_length=128)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


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
    that an item keeps a chance; `auto` weighs all time like any other look-back.
    """

    window_days: PositiveInt | Literal["auto"] = "auto"
    background: Annotated[float, Field(gt=0, le=1)] = 0.01


class NeuralSettings(_Section):
    """The neural translator: a causal transformer over the user's last `length` events.

    `features` names a Feast feature service whose user features are read as of each event;
    `item_features` one whose item features stand beside the item ids, and by which target items
    that nobody has touched yet can be proposed. `workers` is the number of Ray Train workers, or
    the least and the most; 0 trains in the calling process. With
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
    dropped; `noise_epsilon` adds noise to the counts that are left. Whoever has touched more than
    `most_source_items` or `most_target_items` items is no customer, and does not count there; what
    nobody else can move either is in `scalr_ray.learn.crowding`.
    """

    kind: Literal["frequency", "neural", "auto"] = "frequency"
    alphas: tuple[NonNegative, ...] = (0.0, 0.15, 0.3, 0.6, 1.0)
    shrinkages: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.1, 1.0, 5.0)
    event_weights: dict[str, NonNegative] = {}
    pair_half_life_days: Positive | None = None
    history_half_life_days: Positive | None = None
    min_users: PositiveInt = 1
    most_source_items: PositiveInt | None = 10_000
    most_target_items: PositiveInt | None = 1_000
    noise_epsilon: Positive | None = None
    neural: NeuralSettings = NeuralSettings()

    @model_validator(mode="after")
    def _has_zero(self) -> TranslatorSettings:
        if 0.0 not in self.alphas:
            raise ValueError("alphas must include 0.0, so that 'nothing transfers' can be chosen")
        return self


class CatalogueSettings(_Section):
    """Which target items may be proposed, by what a Feast feature service says of them.

    Attributes are read as of the generation time. An item of which nothing is known passes `only`,
    never; it is available, and not blocked.

    `only` names the allowed values of a feature. `same` pairs a user feature with an item feature
    that must be equal, say their markets; it needs `users`, a service of user features.
    `available_from` and `available_until` name times (from included, until excluded), and
    `blocked` a flag.
    """

    service: str | None = None
    only: dict[str, tuple[str | int, ...]] = {}
    users: str | None = None
    same: dict[str, str] = {}
    available_from: str | None = None
    available_until: str | None = None
    blocked: str | None = None

    @model_validator(mode="after")
    def _has_its_services(self) -> CatalogueSettings:
        asked = (self.only, self.same, self.available_from, self.available_until, self.blocked)
        if any(asked) and self.service is None:
            raise ValueError("name the feature service of the items as `service`")
        if self.same and self.users is None:
            raise ValueError("`same` needs the feature service of the users as `users`")
        return self


class ConsentSettings(_Section):
    """A user feature that must be true for a user to get events; who has none gets none."""

    service: str
    feature: str


class GenerationSettings(_Section):
    """How many synthetic events a user gets, how they are drawn, and which are refused.

    A user without target history gets `per_user` events; with `taper: count`, one with n target
    events gets `per_user * exp(-n / weights.decay_events)` of them. A `budget` lowers everybody's
    number alike until the batch has about so many. No batch gives a user more than `per_user_total`
    events, and one that adds to others no more than leads to so many published ones in all; without
    it, `per_user`.

    Items are drawn by `strategy: sample`, without replacement, from prior * lift^evidence, raised
    to 1 / `temperature` and cut to the likeliest that make up `top_p`; or the likeliest are taken,
    `top`. `evidence` may be larger than the alpha that ranks best: a trainer has a prior of its
    own, and what it lacks is the evidence. Where the catalogue is larger than `candidates`, only so
    many of the likeliest can be drawn; `index: faiss` finds them in a neural translator's vectors
    without looking at all.

    Candidates whose calibrated likelihood lies below `likelihood_floor` are refused, and so are
    those of an item beyond its first `per_item`. `without_evidence` says what becomes of users
    of whom the translator knows nothing. `negatives` are drawn from the prior for each event.
    `history_events` bounds what is read of a user and domain: the newest.
    """

    per_user: PositiveInt = 60
    per_user_total: PositiveInt | None = None
    taper: Literal["none", "count"] = "none"
    budget: PositiveInt | None = None
    strategy: Literal["sample", "top"] = "sample"
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    evidence: NonNegative = 1.0
    candidates: PositiveInt = 50_000
    index: Literal["exact", "faiss"] = "exact"
    likelihood_floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    per_item: PositiveInt | None = None
    without_evidence: Literal["draw", "refuse"] = "draw"
    negatives: Annotated[int, Field(ge=0)] = 0
    consent: ConsentSettings | None = None
    catalogue: CatalogueSettings = CatalogueSettings()
    history_events: PositiveInt = 10_000
    users_per_task: PositiveInt = 4096


class AlignmentSettings(_Section):
    """How the events are made to look like the target domain's.

    `by` is `popularity` or an item feature of `service`: items are put into `buckets` by it, and
    buckets of which the batch has more than its share are thinned. With `density_clip` each event
    also weighs as much as a classifier finds it likelier to be real than synthetic, at most so much
    and at least its inverse.
    """

    by: str | None = None
    service: str | None = None
    buckets: Annotated[int, Field(ge=2, le=1000)] = 10
    density_clip: Annotated[float, Field(gt=1)] | None = None

    @model_validator(mode="after")
    def _has_its_service(self) -> AlignmentSettings:
        if self.by not in (None, "popularity") and self.service is None:
            raise ValueError(f"name the feature service that has {self.by!r} as `service`")
        return self


class WeightSettings(_Section):
    """Weight of a synthetic event: a scale times four factors, each kept as a column.

    `history_weight` is exp(-n / `decay_events`) for a user with n target events as of the cut; with
    `decay_events: 0` only users without any get weight, because augmentation harms those who have
    some; `auto` chooses on the validation window. `likelihood_weight` is the likelihood over that
    of the prior, to the power `likelihood_power`, between 1/10 and 10. `age_weight` is halved per
    `age_half_life_days` between the event and the cut. `density_weight` is described under
    `alignment`. The scale is chosen among `scales` on the validation window; where the weights,
    those of the published events included, would then sum to more than `mass_frac` per real target
    event, it is lowered. Where the published ones alone do, no batch is generated.
    """

    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.03, 0.1)
    decay_events: NonNegative | Literal["auto"] = 0.0
    likelihood_power: NonNegative = 0.0
    age_half_life_days: Positive | None = None
    mass_frac: Positive | None = None


class IncrementSettings(_Section):
    """What `scalr run` does once a batch is published.

    The newest translator, also one that was trained by hand, is used for `retrain_days`; then a new
    one is trained. With `stale: keep` the events of its predecessors stay, and only users with new
    source events get more; with `replace` everybody gets new events, and the old batches are
    retired.
    """

    retrain_days: PositiveInt = 7
    stale: Literal["keep", "replace"] = "keep"


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
    hash) before the test cut are kept out of the store altogether. `titles` names a Feast feature
    service of items with a feature `title`, for the example users of a report.
    """

    validation_quantile: Fraction = 0.65
    test_quantile: Fraction = 0.80
    hide_users: Literal["none", "odd"] = "none"
    k: PositiveInt = 20
    seeds: PositiveInt = 3
    bootstrap: PositiveInt = 1000
    titles: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> EvaluationSettings:
        if self.validation_quantile >= self.test_quantile:
            raise ValueError("validation_quantile must lie below test_quantile")
        return self


class RetentionSettings(_Section):
    """What `scalr gc` removes: snapshots and files that nobody needs any more.

    Snapshots older than `snapshots_days` go, except the newest and those that saved training sets
    hold. Files that nothing names go once they are older than `orphans_hours`: younger ones may
    belong to somebody who is still writing.
    """

    snapshots_days: PositiveInt = 30
    orphans_hours: NonNegative = 24


class Resources(_Section):
    """What a local Ray session may use; a cluster that is there keeps its own."""

    cpus: PositiveInt = 2


class ScalrConfig(_Section):
    """Everything that `scalr.yaml` may say.

    `database` is the SQLAlchemy URL of registry, ledger and Iceberg catalog; without one they are
    in a SQLite file in `data_dir`. `warehouse` is where the Iceberg table lies: a folder, taken
    from the repository if relative, or `s3://bucket/prefix`; without one, in `data_dir`.
    """

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] = "scalr"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data_dir: str = "data"
    database: str | None = None
    warehouse: str | None = None
    ids: IdTypes = IdTypes()
    domains: Domains = Domains()
    prior: PriorSettings = PriorSettings()
    translator: TranslatorSettings = TranslatorSettings()
    generation: GenerationSettings = GenerationSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    weights: WeightSettings = WeightSettings()
    increment: IncrementSettings = IncrementSettings()
    gate: GateSettings = GateSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    retention: RetentionSettings = RetentionSettings()
    resources: Resources = Resources()

    @field_validator("database")
    @classmethod
    def _without_password(cls, url: str | None) -> str | None:
        return None if url is None else checked_database_url(url)

    @field_validator("warehouse")
    @classmethod
    def _known_kind(cls, place: str | None) -> str | None:
        scheme, found, _ = (place or "").partition("://")
        if found and scheme != "s3":
            raise ValueError("a warehouse is a folder or s3://bucket/prefix")
        if found and set("@?#") & set(place or ""):
            raise ValueError(
                "a warehouse is s3://bucket/prefix and nothing else; the environment gives "
                "credentials, endpoint and region"
            )
        return place

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON of every setting but those that cannot change a result."""
        without: dict[str, bool | set[str]] = {
            "data_dir": True,
            "database": True,
            "warehouse": True,
            "retention": True,
            "resources": True,
            "increment": True,
            "generation": {"users_per_task"},
            "evaluation": {"titles"},
        }
        return fingerprint(self.model_dump(mode="json", exclude=without))


def checked_database_url(url: str) -> str:
    """`url`, if it is one that SCALR works on and holds no secret.

    A password would be kept with every run and in Feast's registry; libpq finds it by itself.

    Raises:
        ValueError: it is of another kind of database, or has a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _DATABASES:
        raise ValueError(f"a database is one of {', '.join(_DATABASES)}")
    if parts.password is not None or "password=" in parts.query.lower():
        raise ValueError(
            "leave the password out of the database URL: PGPASSWORD or the file that PGPASSFILE "
            "names gives it"
        )
    return url


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
        raw = read_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is not there; point --repo at a folder that holds it") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error}); mend it") from error
    except ValueError as error:  # also of bytes that are no UTF-8
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


def settings_in(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that are settings of a repository."""
    return {
        name: text
        for name, text in sorted(environ.items())
        if name.startswith(ENV_PREFIX) and not name.startswith(_ENV_RESERVED)
    }


def _from_environment(environ: Mapping[str, str]) -> list[tuple[list[str], str]]:
    return [
        (name.removeprefix(ENV_PREFIX).lower().split("__"), text)
        for name, text in settings_in(environ).items()
    ]


def _assign(tree: dict[str, Any], keys: Sequence[str], text: str, origin: str) -> None:
    try:
        value = read_yaml(text)
    except ValueError as error:
        got = "the text" if keys[0] in _UNSHOWN else shorten_value(text)
        raise ConfigError(f"{origin}: {got} is not a YAML value") from error
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"{origin}: {key!r} is a value, not a section")
        tree = branch
    tree[keys[-1]] = value


def _first_problem(error: ValidationError, file: Path) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part)[:_SHOWN] for part in problem["loc"][:_SHOWN])
    if problem["type"] == "extra_forbidden":
        return f"{file}: unknown key {where!r}; remove it or correct its spelling"
    reason = problem["msg"].removeprefix("Value error, ")
    # A refused URL may hold a secret.
    got = "" if where.partition(".")[0] in _UNSHOWN else f" (got {shorten_value(problem['input'])})"
    return f"{file}: {where or 'file'}: {reason}{got}"
