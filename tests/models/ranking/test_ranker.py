"""The ranker: candidates do not see one another, and hidden memory leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.config import DAY_MS
from models.events import POLARITY
from models.model import build
from models.ranking.crosses import LowRankCross, pair_products
from models.ranking.match import match
from models.ranking.ranker import MemoryRanker
from tests.models.small import CATALOGUE, MODEL, nobody, random_side, rows_of

NUM_USERS, NUM_CANDIDATES = 5, 6


def ranker(seed: int = 1) -> MemoryRanker:
    torch.manual_seed(seed)
    net = build(CATALOGUE, MODEL)[1].eval()
    nn.init.normal_(net.item.id.weight)  # as if it had been trained
    return net


NET = ranker()
USER = random_side(NUM_USERS)
DRAW = torch.Generator().manual_seed(0)
PLACES = torch.randint(1, 9, (NUM_USERS, NUM_CANDIDATES), generator=DRAW)
POPULARITY = torch.rand(NUM_USERS, NUM_CANDIDATES, 3, generator=DRAW)
AFFINITY = torch.randn(NUM_USERS, NUM_CANDIDATES, generator=DRAW)
GIVEN = (PLACES, POPULARITY, AFFINITY)


@torch.no_grad()
def logits(user=USER, given=GIVEN):
    return NET(user, *given)


def close(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_many_candidates_at_once_are_each_candidate_alone():
    whole = logits()
    assert whole.shape == (NUM_USERS, NUM_CANDIDATES, len(MODEL.heads))
    for number in range(NUM_CANDIDATES):
        one = slice(number, number + 1)
        close(logits(given=[each[:, one] for each in GIVEN]), whole[:, one])
    assert whole.std(1).min() > 1e-3, "or this would show nothing"


def test_many_requests_at_once_are_each_request_alone():
    whole = logits()
    for row in range(NUM_USERS):
        alone = logits(rows_of(USER, [row]), [each[[row]] for each in GIVEN])
        close(alone, whole[[row]])


def test_candidates_in_another_order_have_the_same_logits():
    mixed = torch.randperm(NUM_CANDIDATES, generator=DRAW)
    close(logits(given=[each[:, mixed] for each in GIVEN]), logits()[:, mixed])


def test_padding_in_a_list_changes_nothing_for_the_others():
    padded = PLACES.clone()
    padded[:, -2:] = 0
    found = logits(given=(padded, POPULARITY, AFFINITY))
    close(found[:, :-2], logits()[:, :-2])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("number", range(3))
def test_all_that_is_said_of_a_candidate_counts_for_it_alone(number):
    changed = [each.clone() for each in GIVEN]
    changed[number][:, 2] = changed[number][:, 2] % 8 + 1
    found = (logits(given=changed) - logits()).abs().amax((0, 2))
    assert found[2] > 1e-3
    assert found[[0, 1, 3, 4, 5]].max() < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "item",
        "action",
        "age_days",
        "session",
        "life_item",
        "life_days",
        "long",
        "context",
        "now_days",
    ],
)
def test_everything_that_a_request_knows_counts(name):
    changed = getattr(USER, name).roll(1, 0)
    if name in ("now_days", "life_days"):
        changed = getattr(USER, name) + 30
    found = (logits(replace(USER, **{name: changed})) - logits()).abs().amax((1, 2))
    assert found[1:].max() > 1e-4


@pytest.mark.parametrize(
    ("level", "names"),
    [(0, ("recent",)), (1, ("sessions",)), (2, ("life_item", "long"))],
)
def test_each_level_of_memory_counts(level, names):
    levels = torch.ones(NUM_USERS, 3, dtype=torch.bool)
    levels[:, level] = False
    assert (logits(USER.keep(levels)) - logits())[1].abs().max() > 1e-5, names


def test_hidden_memory_is_as_no_memory_at_all():
    hidden = USER.keep(torch.zeros(NUM_USERS, 3, dtype=torch.bool))
    empty = replace(nobody([60] * NUM_USERS), context=USER.context)
    assert torch.equal(empty.now_days, USER.now_days)
    assert USER.recent[1:].any(1).all()
    close(logits(hidden), logits(empty))


def test_no_memory_is_no_nan_in_either_direction():
    net = ranker().train()
    user = replace(nobody([60, 60]), context=USER.context[:2])
    net(user, *(each[:2] for each in GIVEN)).sum().backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad.to_dense()).all(), name
    assert torch.isfinite(logits(user, [each[:2] for each in GIVEN])).all()


def matched(user, places):
    categories = NET.item.items.categories
    return match(user, places, categories=categories, half_lives=MODEL.features.match_half_lives)


def slow_match(user, row, place):
    """The match features of one candidate, interaction by interaction."""
    halves = [half / DAY_MS for half in MODEL.features.match_half_lives]
    kinds = CATALOGUE.categories[:, 0]
    liked, against, kin, ranks = [], [], [], set()
    for n in torch.nonzero(user.recent[row])[:, 0].tolist():
        item, age = int(user.item[row, n]), float(user.age_days[row, n])
        sign = POLARITY[user.action[row, n]]
        if sign > 0 and item == place:
            liked.append(age)
            ranks.add(int(user.session[row, n]))
        if sign < 0 and item == place:
            against.append(age)
        if sign > 0 and kinds[item] == kinds[place]:
            kin.append(age)
    counts = [
        np.log1p(sum(2 ** (-age / half) for age in ages))
        for ages in (liked, against, kin)
        for half in halves
    ]
    last = max((1 / (1 + np.log1p(age)) for age in liked), default=0.0)
    recent = [last, float(bool(liked)), float(0 in ranks), float(1 in ranks)]
    return [*counts, *recent, *slow_lifelong(user, row, place)]


def slow_lifelong(user, row, place):
    """The four lifelong counts of one candidate."""
    kinds, longest = CATALOGUE.categories[:, 0], max(MODEL.features.match_half_lives) / DAY_MS
    own, kin = [], []
    for item, age in zip(user.life_item[row].tolist(), user.life_days[row].tolist(), strict=True):
        if item == place:
            own.append(age)
        if item and kinds[item] == kinds[place]:
            kin.append(age)
    return [
        np.log1p(count)
        for ages in (own, kin)
        for count in (len(ages), sum(2 ** (-age / longest) for age in ages))
    ]


def test_the_lifelong_read_is_of_the_whole_ring_and_of_the_user_level():
    whole = random_side(40)
    short = replace(whole, **{name: getattr(whole, name)[:, -3:] for name in BY_INTERACTION})
    places = torch.arange(1, 9).expand(40, -1)
    assert (matched(whole, places)[..., :-4] != matched(short, places)[..., :-4]).any()
    assert torch.equal(matched(whole, places)[..., -4:], matched(short, places)[..., -4:])
    for level, read in enumerate((True, True, False)):
        levels = torch.ones(40, 3, dtype=torch.bool)
        levels[:, level] = False
        assert matched(whole.keep(levels), places)[..., -4:].any() == read


BY_INTERACTION = ("item", "action", "age_days", "session", "recent", "sessions")


def test_match_features_are_what_a_loop_counts():
    user, places = random_side(40), torch.arange(1, 9).expand(40, -1)
    found = matched(user, places)
    for row in range(40):
        for number, place in enumerate(range(1, 9)):
            expected = slow_match(user, row, place)
            np.testing.assert_allclose(found[row, number], expected, atol=1e-5)
    assert (found.amax((0, 1)) > 0).all(), "every feature occurs"


def test_the_unknown_item_matches_nothing():
    unknown = torch.zeros(NUM_USERS, 1, dtype=torch.long)
    assert not matched(USER, unknown).any()


def test_cross_layers_are_low_rank_products_with_the_first_input():
    layer = LowRankCross(4, 2)
    first, x = torch.randn(3, 4), torch.randn(3, 4)
    matrix = layer.up.weight @ layer.down.weight
    close(layer(first, x), first * (x @ matrix.T + layer.up.bias) + x)


def test_products_of_pairs_are_those_of_all_tokens_put_together():
    own, shared = torch.randn(2, 5, 3, 4), torch.randn(2, 2, 4)
    tokens = torch.cat([own, shared[:, None].expand(-1, 5, -1, -1)], 2)
    whole = tokens @ tokens.transpose(2, 3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    pairs += [(one, user) for one in range(3) for user in (3, 4)] + [(3, 4)]
    expected = torch.stack([whole[:, :, one, other] for one, other in pairs], 2)
    close(pair_products(own, shared), expected)


@torch.no_grad()
def test_vectors_kept_between_requests_are_made_anew_with_the_weights():
    net = ranker(seed=3)
    first = net(USER, *GIVEN)
    net.load_state_dict(ranker(seed=4).state_dict())
    close(net(USER, *GIVEN), ranker(seed=4)(USER, *GIVEN))
    assert (net(USER, *GIVEN) - first).abs().max() > 1e-3
    nn.init.normal_(net.item.id.weight)
    kept = net(USER, *GIVEN)
    with torch.enable_grad():
        close(net(USER, *GIVEN).detach(), kept)
