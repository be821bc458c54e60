"""The two towers: what a batch of users loses."""

from __future__ import annotations

import numpy as np
import torch
from ranker_cases import PRIOR, interactions, random_pairs
from torch.nn.functional import cross_entropy

from training.models.neural import Heads
from training.models.two_tower import TwoTowerNet

USERS, ITEMS = 9, 12


def test_users_lose_what_their_rows_lose_one_by_one():
    pairs = random_pairs(USERS, ITEMS, 40)
    random = np.random.default_rng(1)
    data = interactions(
        pairs,
        users=USERS,
        items=ITEMS,
        weights=random.random(40),
        synthetic=random.random(40) < 0.5,
    ).merged()
    heads = Heads(main=data.weights * ~data.is_synthetic, aux=data.weights * data.is_synthetic)
    torch.manual_seed(0)
    net = TwoTowerNet(USERS, ITEMS, 4)
    net.see(data, data, PRIOR)
    net.begin(data, heads)
    units = np.array([7, 2, 5])
    expected = torch.tensor(0.0)
    items = net.items(torch.arange(ITEMS), net.item_mass)
    for row in np.flatnonzero(np.isin(data.rows, units)):
        user = torch.from_numpy(data.rows[row : row + 1])
        vector = net.users(user, net.user_mass[user])
        item = torch.from_numpy(data.cols[row : row + 1])
        for head, weights, share in (
            (net.main, heads.main, net.main_share),
            (net.aux, heads.aux, net.aux_share),
        ):
            lost = cross_entropy(head(vector, items) + share, item)
            expected = expected + float(weights[row]) * lost
    torch.testing.assert_close(net.loss(data, units, heads), expected)
