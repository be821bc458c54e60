"""What the torch rankers share: the loop over epochs, the four ways in for synthetic rows, state.

A net says what a batch loses and how it scores; nothing else differs between them. Batches follow
from (seed, phase, epoch) alone, so that training goes on from any epoch as if it had never stopped,
and gradients are summed over workers, so that their number changes nothing but rounding.

Weights multiply the losses of their rows. Adam forgets the scale of a gradient, so what a user or
an item has learnt also counts in proportion to m / (m + 1), m being the weight of all its rows:
with next to no weight behind it, it is next to unseen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalr_ray.core.errors import TrainingDiverged, UsageError
from training.models.base import (
    Checkpoint,
    Interactions,
    checked_codes,
    checked_way,
    deciding_rows,
    same_rows,
)
from training.models.popularity import PopularityConfig, log_popularity
from training.models.state import State

Synthetic = Literal["rows", "head", "pretrain", "fold-in"]
Weights = NDArray[np.float64]

# Added to the root of the second moment: gradients far below it move next to nothing. With Adam's
# usual 1e-8 noise in a gradient that should be zero would move a parameter as far as any.
_EPSILON = 1e-4
_UNTAKEN = 0.1  # rows that an item counts for beyond those that it has
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class NeuralConfig:
    """The settings that all torch rankers have.

    Attributes:
        prior: the popularity that is added to the scores; its `as_of` is the training cut.
        width: of the embeddings.
        epochs: of each phase.
        batch: users in a step, or rows of the pointwise ranker.
        learning_rate: of Adam.
        weight_decay: the multiple of its square that a parameter adds to the loss of a step.
        synthetic: "rows" trains on all rows alike; "head" lets synthetic rows train the trunk
            through a head of their own, which scores nothing; "pretrain" trains on them first,
            then on real rows alone; "fold-in" trains on real rows alone, and the synthetic ones
            then only say who the users without real rows are: no other score moves by a bit.
        prior_weight: multiple of the log prior in a score.
    """

    prior: PopularityConfig
    width: int = 32
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    synthetic: Synthetic = "rows"
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for name in ("width", "epochs", "batch", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie above 0")
        checked_way(self.synthetic, get_args(Synthetic))


class Net(nn.Module):
    """A net over `U` users and `I` items; its buffers are what scoring needs of the rows."""

    # Parameters (U, D) that have a row for each user; none where users are what they took.
    user_tables: ClassVar[tuple[str, ...]] = ()
    epoch = 0  # of the phase that is trained in
    user_mass: Tensor  # (U,) weight of a user's rows
    item_mass: Tensor  # (I,)
    log_prior: Tensor  # (I,)
    main_share: Tensor  # (I,) log of how much an item was taken in the rows of the main head
    aux_share: Tensor  # (I,) the same of the auxiliary head

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.register_buffer("user_mass", torch.zeros(users))
        for name in ("item_mass", "log_prior", "main_share", "aux_share"):
            self.register_buffer(name, torch.zeros(items))

    def see(self, data: Interactions, deciding: Interactions, prior: PopularityConfig) -> None:
        """Fill the buffers from the rows, what they say of items from the `deciding` ones."""
        self.user_mass.copy_(_mass(data.rows, data, len(self.user_mass)))
        self.item_mass.copy_(_mass(deciding.cols, deciding, len(self.item_mass)))
        self.log_prior.copy_(torch.from_numpy(log_popularity(data, prior)))

    def begin(self, data: Interactions, weights: Heads) -> None:
        """Learn the shares of a phase: what a user's vector adds is then beyond popularity."""
        for share, part in ((self.main_share, weights.main), (self.aux_share, weights.aux)):
            taken = np.bincount(data.cols, weights=part, minlength=len(share)) + _UNTAKEN
            share.copy_(torch.from_numpy(np.log(taken / taken.sum())))

    def units(self, data: Interactions, weights: Weights) -> NDArray[np.int64]:  # noqa: ARG002
        """What batches consist of: the rows that have `weights` (N,)."""
        return np.flatnonzero(weights)

    @abstractmethod
    def loss(self, data: Interactions, units: NDArray[np.int64], weights: Heads) -> Tensor:
        """The weighted loss of both heads, summed over the units."""

    @abstractmethod
    def score(self, codes: Tensor) -> Tensor:
        """The main head's score of every item, without the prior, (B, I); no code is `UNSEEN`."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """How much each row counts in the loss of the main and the auxiliary head, (N,) each."""

    main: Weights
    aux: Weights


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A number of epochs on some of the rows.

    Attributes:
        heads: which rows, in which head.
        rate: multiple of the learning rate.
        folds_in: the rest is held as it is, the shares of an earlier phase too: only the tables
            change, and there the rows of these users (U,) alone.
    """

    heads: Heads
    rate: float = 1.0
    folds_in: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of `world` workers, each of which does its part of every batch."""

    rank: int = 0
    world: int = 1

    def summed(self, parameters: list[nn.Parameter]) -> None:
        """Sum the gradients of all workers; those that a part did not touch count as zero."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.world > 1:
                torch.distributed.all_reduce(parameter.grad)


ConfigT = TypeVar("ConfigT", bound=NeuralConfig)


class NeuralRanker(Generic[ConfigT]):
    """A ranker around a net; see the module for what all of them share."""

    kind: ClassVar[str]

    def __init__(self, config: ConfigT, share: Share | None = None) -> None:
        self._config = config
        self._share = share or Share()
        self._net: Net | None = None
        self._progress: dict[str, Any] = {}
        self._moments: dict[str, Tensor] = {}

    @abstractmethod
    def _new_net(self, users: int, items: int) -> Net:
        """An untrained net, drawn from torch's generator."""

    def fit(
        self, interactions: Interactions, *, seed: int, checkpoint: Checkpoint | None = None
    ) -> None:
        """Train from scratch; `seed` decides weights and batches.

        Raises:
            DataError: there are no interactions to learn from.
            TrainingDiverged: the loss is no longer finite.
        """
        data = self._rows(interactions)
        deciding = deciding_rows(data, self._config.synthetic)
        deciding.refuse_empty()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._net = self._new_net(*interactions.shape)
        self._net.see(data, deciding, self._config.prior)
        self._progress = {"seed": seed, "phase": 0, "epoch": 0, "rows": interactions.digest()}
        self._moments = {}
        self._train(data, checkpoint)

    def resume(self, interactions: Interactions, *, checkpoint: Checkpoint | None = None) -> None:
        """Train the epochs that are left."""
        self._fitted()
        same_rows(interactions, self._progress["rows"])
        self._train(self._rows(interactions), checkpoint)

    def _rows(self, interactions: Interactions) -> Interactions:
        """What is learnt from."""
        data = interactions.merged()
        return data.for_fold_in() if self._config.synthetic == "fold-in" else data

    def scores(self, user_codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The score of every item plus the weighted log prior, (B, I)."""
        net = self._fitted()
        checked_codes(user_codes, len(net.user_mass))
        seen = torch.from_numpy(user_codes >= 0)
        scores = (self._config.prior_weight * net.log_prior).repeat(len(user_codes), 1)
        with torch.no_grad(), _one_thread():
            scores[seen] += net.score(torch.from_numpy(user_codes)[seen])
        return scores.numpy()

    def state(self) -> State:
        """The net, the optimiser's moments and how far training is."""
        tensors = {f"net.{name}": tensor for name, tensor in self._fitted().state_dict().items()}
        tensors |= {f"adam.{name}": tensor for name, tensor in self._moments.items()}
        return State(
            kind=self.kind,
            settings=self._config,
            tensors={name: tensor.numpy().copy() for name, tensor in tensors.items()},
            progress=dict(self._progress),
        )

    def restore(self, state: State) -> None:
        """Take net and moments over."""
        state.check(self.kind, self._config)
        tensors = {name: torch.from_numpy(array.copy()) for name, array in state.tensors.items()}
        users, items = len(tensors["net.user_mass"]), len(tensors["net.item_mass"])
        self._net = self._new_net(users, items)
        self._net.load_state_dict(_below("net.", tensors))
        self._moments = _below("adam.", tensors)
        self._progress = dict(state.progress)

    def _fitted(self) -> Net:
        if self._net is None:
            raise UsageError("fit the ranker before asking it for scores")
        return self._net

    def _train(self, data: Interactions, checkpoint: Checkpoint | None) -> None:
        net = self._fitted()
        phases = _phases(data, self._config.synthetic)
        if not net.user_tables:
            phases = [phase for phase in phases if phase.folds_in is None]
        with _one_thread():
            for number in range(self._progress["phase"], len(phases)):
                phase = phases[number]
                net.begin(data, phases[0].heads if phase.folds_in is not None else phase.heads)
                optimiser = self._optimiser(phase)
                for epoch in range(self._progress["epoch"], self._config.epochs):
                    self._epoch(data, phase, optimiser)
                    self._progress["epoch"] = epoch + 1
                    if epoch + 1 == self._config.epochs:  # the next phase has moments of its own
                        self._moments = {}
                        self._progress |= {"phase": number + 1, "epoch": 0}
                    if checkpoint:
                        checkpoint(self.state())

    def _epoch(self, data: Interactions, phase: Phase, optimiser: torch.optim.Adam) -> None:
        net, share, progress, heads = self._fitted(), self._share, self._progress, phase.heads
        net.epoch = progress["epoch"]
        units = net.units(data, heads.main + heads.aux)
        random = np.random.default_rng([progress["seed"], progress["phase"], progress["epoch"]])
        batches = np.array_split(
            random.permutation(units), max(1, -(-len(units) // self._config.batch))
        )
        batch_mass = (heads.main.sum() + heads.aux.sum()) / len(batches)
        trained = self._trained(phase)
        parameters = list(trained.values())
        with _only_trained(net, trained), _rows_held(parameters, phase.folds_in):
            for batch in batches:
                optimiser.zero_grad()
                loss = net.loss(data, batch[share.rank :: share.world], heads) / batch_mass
                loss.backward()
                share.summed(parameters)
                optimiser.step()
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise TrainingDiverged("the loss is no longer finite; lower the learning rate")
        self._moments = {
            f"{name}.{moment}": optimiser.state[parameter][moment]
            for name, parameter in trained.items()
            for moment in _MOMENTS
        }

    def _trained(self, phase: Phase) -> dict[str, nn.Parameter]:
        """What a phase changes, by name."""
        net = self._fitted()
        return {
            name: parameter
            for name, parameter in net.named_parameters()
            if phase.folds_in is None or name in net.user_tables
        }

    def _optimiser(self, phase: Phase) -> torch.optim.Adam:
        """Adam, with the moments that were kept, if any were."""
        config, trained = self._config, self._trained(phase)
        optimiser = torch.optim.Adam(
            trained.values(),
            lr=config.learning_rate * phase.rate,
            eps=_EPSILON,
            weight_decay=config.weight_decay,
        )
        if self._moments:
            for name, parameter in trained.items():
                optimiser.state[parameter] = _below(f"{name}.", self._moments)
        return optimiser


def shrunk(mass: Tensor) -> Tensor:
    """How much of what was learnt counts where `mass` lies behind it, in [0, 1), (…, 1)."""
    return (mass / (mass + 1.0)).unsqueeze(-1)


def _mass(codes: NDArray[np.int64], data: Interactions, size: int) -> Tensor:
    """(size,) the weight of the rows that have a code."""
    return torch.from_numpy(np.bincount(codes, weights=data.weights, minlength=size))


def _phases(data: Interactions, synthetic: Synthetic) -> list[Phase]:
    """What is trained on, one phase after the other."""
    weights, nothing = data.weights, np.zeros(len(data.weights))
    real, drawn = weights * ~data.is_synthetic, weights * data.is_synthetic
    if synthetic == "rows":
        return [Phase(heads=Heads(main=weights, aux=nothing))]
    if synthetic == "head":
        return [Phase(heads=Heads(main=real, aux=drawn))]
    if synthetic == "fold-in":
        newcomers = np.zeros(len(data.users), dtype=np.bool_)
        newcomers[data.rows[drawn > 0]] = True
        phases = [Phase(heads=Heads(main=real, aux=nothing))]
        if newcomers.any():
            phases.append(Phase(heads=Heads(main=drawn, aux=nothing), folds_in=newcomers))
        return phases
    phases = []
    if drawn.any():
        # Alone among themselves, only the ratios of their weights would count.
        rate = min(1.0, float(drawn.sum() / data.is_synthetic.sum()))
        phases.append(Phase(heads=Heads(main=drawn, aux=nothing), rate=rate))
    if real.any():
        phases.append(Phase(heads=Heads(main=real, aux=nothing)))
    return phases


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@contextmanager
def _only_trained(net: Net, trained: dict[str, nn.Parameter]) -> Iterator[None]:
    """No gradient of the other parameters is asked for."""
    others = [parameter for name, parameter in net.named_parameters() if name not in trained]
    for parameter in others:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad = True


@contextmanager
def _rows_held(tables: list[nn.Parameter], changing: NDArray[np.bool_] | None) -> Iterator[None]:
    """Rows that are not `changing` (U,) are at the end what they were; None changes all."""
    if changing is None:
        yield
        return
    held = torch.from_numpy(~changing)
    before = [table[held].detach().clone() for table in tables]
    yield
    with torch.no_grad():
        for table, rows in zip(tables, before, strict=True):
            table[held] = rows


@contextmanager
def _one_thread() -> Iterator[None]:
    """The result must not depend on the number of cores; workers are how more of them are used."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
