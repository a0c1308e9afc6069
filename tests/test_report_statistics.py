"""The statistics of a report, against closed forms and simulated truths."""

import itertools
import math

import numpy as np
import pytest

from ncsn_lightning.report import answer
from ncsn_lightning.report.bootstrap import paired_interval
from ncsn_lightning.report.grid import importance_shares, is_grid, variance_shares
from ncsn_lightning.report.idle import Span
from ncsn_lightning.report.importance import importances
from ncsn_lightning.report.variance import analysis_of_variance, complete_part
from ncsn_lightning.sweeps.folder import Job, Sweep


def sweep_of(tmp_path, values, *, factors=("a", "b"), states=None):
    """A sweep whose jobs measured what `values` says, by their levels and their seed."""
    jobs = []
    for place, value in values.items():
        overrides = dict(zip((*factors, "seed"), map(str, place), strict=True))
        state = (states or {}).get(place, "finished")
        name = "-".join(overrides.values())
        summary = {"status": state, "metrics": {"score_error": value}}
        jobs.append(Job(name, tmp_path / name, overrides, [], state, summary))
    keys = {key: list(dict.fromkeys(job.overrides[key] for job in jobs)) for key in (*factors, "seed")}
    command = "python scripts/train.py -m a=1,2"
    return Sweep(tmp_path, "s", None, command, keys, jobs, None, {})


def grid(shape, of):
    return {place: of(*place) for place in itertools.product(*map(range, shape))}


# Analysis of variance


def test_variance_of_known_effects():
    """y = a_i + b_j + c·i·j + r_k with centred parts: each share is its own sum of squares, by hand."""
    a, b, r = np.array([-1.0, 1.0]), np.array([-2.0, 0.0, 2.0]), np.array([-0.5, 0.5])
    cross = np.outer(a, b) * 0.25
    values = 7 + a[:, None, None] + b[None, :, None] + cross[:, :, None] + r[None, None, :]
    squares = {("a",): 12.0, ("b",): 32.0, ("a", "b"): (cross**2).sum() * 2, (): 3.0}
    total = sum(squares.values())
    found = {effect.factors: effect for effect in analysis_of_variance(values, ["a", "b"])}
    assert {key: effect.share * total for key, effect in found.items()} == pytest.approx(squares)
    noise = 3.0 / 6  # mean square of the seeds: 6 cells with one degree of freedom each
    assert found["a", "b"].chance * total == pytest.approx(2 * noise)
    assert [effect.factors for effect in analysis_of_variance(values, ["a", "b"])] == [("b",), ("a",), ("a", "b"), ()]


@pytest.mark.parametrize("shape", [(4, 6, 3), (2, 3, 4, 2), (5, 1), (3, 2, 2, 2, 5)])
def test_shares_sum_to_one_and_do_not_know_the_scale(shape):
    values = np.random.default_rng(1).standard_normal(shape)
    names = list("abcd"[: len(shape) - 1])
    found = analysis_of_variance(values, names)
    assert sum(effect.share for effect in found) == pytest.approx(1)
    assert all(effect.share >= 0 for effect in found)
    assert len(found) == 2 ** len(names)
    again = analysis_of_variance(1e6 + 30 * values, names)
    assert [effect.share for effect in again] == pytest.approx([effect.share for effect in found], abs=1e-6)


def test_an_effect_of_nothing_has_the_share_of_chance():
    """Over many grids of noise alone, the mean of the shares is what `chance` says of each."""
    draw = np.random.default_rng(2)
    grids = [analysis_of_variance(draw.standard_normal((3, 4, 5)), ["a", "b"]) for _ in range(400)]
    for factors in (("a",), ("b",), ("a", "b")):
        effects = [effect for found in grids for effect in found if effect.factors == factors]
        ratio = np.mean([e.share for e in effects]) / np.mean([e.chance for e in effects])
        assert ratio == pytest.approx(1, abs=0.12)


def test_equal_values_have_no_variance_and_one_seed_no_chance():
    assert analysis_of_variance(np.full((2, 2, 2), 0.3), ["a", "b"]) == []
    (main, seeds) = analysis_of_variance(np.array([[1.0], [2.0]]), ["a"])
    assert (main.share, seeds.share) == (1, 0)
    assert math.isnan(main.chance)


def test_the_complete_part_of_a_grid():
    present = np.ones((4, 6), dtype=bool)
    assert complete_part(present) == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    present[:, 2] = False
    present[3, 5] = False
    assert complete_part(present) == [[0, 1, 2, 3], [0, 1, 3, 4]]  # 16 values; without the row 15
    assert complete_part(np.zeros((2, 2), dtype=bool)) == [[], []]


def test_seeds_alone_are_no_grid(tmp_path):
    values = {(0,): math.nan, (1,): 1.0, (2,): 2.0}
    assert variance_shares(sweep_of(tmp_path, values, factors=()), "score_error") is None


def test_a_grid_with_holes_keeps_as_much_as_it_can(tmp_path):
    values = grid((3, 4, 3), lambda i, j, k: i + 0.1 * j + 0.01 * k)
    whole = variance_shares(sweep_of(tmp_path, values), "score_error")
    assert (whole["jobs"], whole["seeds"], whole["left_out"]) == (36, 3, {})
    # A seed lost here and there costs a seed of every cell; a level that always fails costs itself.
    lost = {(i, i, i): "failed" for i in range(3)}
    holed = variance_shares(sweep_of(tmp_path, values, states=lost), "score_error")
    assert (holed["jobs"], holed["seeds"], holed["left_out"]) == (24, 2, {})
    lost = {(1, j, k): "diverged" for j in range(4) for k in range(3)}
    holed = variance_shares(sweep_of(tmp_path, values, states=lost), "score_error")
    assert (holed["jobs"], holed["seeds"], holed["left_out"]) == (24, 3, {"a": ["1"]})
    lost = dict.fromkeys(values, "failed")
    assert variance_shares(sweep_of(tmp_path, values, states=lost), "score_error") is None


def test_the_variance_of_a_logarithm_is_that_of_ratios(tmp_path):
    """Effects that multiply have no interaction on the logarithmic scale, and one on the linear."""
    values = grid((3, 4, 2), lambda i, j, k: 2.0**i * 3.0**j * (1 + 1e-6 * k))
    found = variance_shares(sweep_of(tmp_path, values), "score_error")
    shares = {scale: {effect.factors: effect.share for effect in found[scale]} for scale in ("linear", "log")}
    assert shares["log"]["a", "b"] < 1e-9
    assert shares["linear"]["a", "b"] > 0.05
    weights = np.array([math.log(2) ** 2 * np.var([0, 1, 2]), math.log(3) ** 2 * np.var([0, 1, 2, 3])])
    assert [shares["log"][key,] for key in "ab"] == pytest.approx(list(weights / weights.sum()), abs=1e-6)
    negative = variance_shares(sweep_of(tmp_path, {p: v - 5 for p, v in values.items()}), "score_error")
    assert negative["log"] is None


# Paired bootstrap


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_interval_covers_the_truth_as_often_as_it_says(n):
    """19 times of 20, with three seeds too, where a bare percentile interval would manage 15."""
    differences = 0.3 + np.random.default_rng(n).standard_normal((n, 4000))
    low, high = paired_interval(differences)
    assert ((low <= 0.3) & (high >= 0.3)).mean() == pytest.approx(0.95, abs=0.015)
    assert (low <= differences.mean(0)).all()
    assert (high >= differences.mean(0)).all()


def test_with_many_seeds_the_interval_is_the_normal_one():
    differences = np.random.default_rng(0).standard_normal((400, 1))
    low, high = paired_interval(differences)
    assert float(high[0] - low[0]) == pytest.approx(2 * 1.96 * differences.std() / 20, rel=0.05)


def test_differences_without_spread():
    low, high = paired_interval(np.array([[0.0, 0.25], [0.0, 0.25], [0.0, 0.25]]))
    assert (list(low), list(high)) == ([0.0, 0.25], [0.0, 0.25])
    low, high = paired_interval(np.array([[0.5]]))
    assert (low[0], high[0]) == (-np.inf, np.inf)


# The answer


def test_seeds_that_move_all_configurations_alike_do_not_hide_a_difference(tmp_path):
    """The spread over seeds is a factor of ten, and pairs see ten hundredths all the same."""
    scale, jitter = [1.0, 2.0, 5.0, 10.0], [0.001, -0.001, 0.002, -0.002]
    better = {(0, 0, k): s * (1 + jitter[k]) for k, s in enumerate(scale)}
    worse = {(1, 0, k): s * 1.1 for k, s in enumerate(scale)}
    found = answer(sweep_of(tmp_path, better | worse))
    assert found.best.overrides == {"a": "0", "b": "0"}
    assert found.best.standard_error == pytest.approx(np.std(list(better.values()), ddof=1) / 2)
    assert found.ties == []
    best, other = found.comparisons
    assert not best.differs
    assert other.differs
    assert found.ratios
    assert other.effect == pytest.approx(1.1, abs=1e-5)
    assert 1.09 < other.low < 1.1 < other.high < 1.11


def test_errors_that_spread_by_factors_are_compared_by_ratios(tmp_path):
    """A hundred times worse with every seed is no tie, however wide the differences spread."""
    best = {(0, 0, k): value for k, value in enumerate([0.019, 0.021, 0.020])}
    worse = {(1, 0, k): value for k, value in enumerate([3.0, 22.0, 3.5])}
    found = answer(sweep_of(tmp_path, best | worse))
    assert found.ties == []
    assert found.comparisons[1].low > 1


def test_of_a_metric_that_may_be_negative_the_effect_is_a_difference(tmp_path):
    best = {(0, 0, k): -1.0 + s for k, s in enumerate([0.0, 1.0, 2.0])}
    worse = {(1, 0, k): -0.75 + s for k, s in enumerate([0.0, 1.0, 2.0])}
    found = answer(sweep_of(tmp_path, best | worse))
    assert not found.ratios
    assert found.comparisons[1].effect == pytest.approx(0.25)
    assert (found.comparisons[1].low, found.comparisons[1].high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_ties_cannot_be_told(tmp_path):
    same = {(i, 0, k): 0.5 + 0.1 * k for i in range(3) for k in range(3)}
    found = answer(sweep_of(tmp_path, same))
    assert len(found.ties) == len(found.twins) == 2
    assert "; 2 others cannot be told from it, 2 with the very same numbers\n" in str(found)
    same[1, 0, 0] += 0.2
    found = answer(sweep_of(tmp_path, same))
    assert (len(found.ties), len(found.twins)) == (2, 1)


def test_one_seed_tells_nothing(tmp_path):
    found = answer(sweep_of(tmp_path, {(0, 0, 0): 0.1, (1, 0, 0): 9.0}))
    assert len(found.ties) == 1
    assert str(found) == "best of 2: a=0 b=0\nscore_error 0.1 (one seed), which tells nothing apart"
    assert math.isnan(found.best.standard_error)


def test_without_a_common_seed_nothing_is_told(tmp_path):
    values = {(0, 0, 0): 0.1, (0, 0, 1): 0.1, (1, 0, 2): 9.0, (1, 0, 3): 9.1}
    best, other = answer(sweep_of(tmp_path, values)).comparisons
    assert best.configuration.overrides["a"] == "0"
    assert (other.seeds, other.low, other.high, other.differs) == (0, 0.0, math.inf, False)


def test_the_best_has_all_its_seeds(tmp_path):
    """A configuration that failed for a seed is not best for the seeds on which it did not."""
    values = grid((2, 1, 3), lambda i, j, k: 1.0 + i)
    lost = {(0, 0, 2): "diverged"}
    found = answer(sweep_of(tmp_path, values, states=lost))
    assert found.best.overrides["a"] == "1"
    last = found.comparisons[-1]
    assert (last.configuration.overrides["a"], last.seeds, last.effect) == ("0", 2, 0.5)
    early = dict.fromkeys([(0, 0, 2), (1, 0, 1), (1, 0, 2)], "waiting")
    assert answer(sweep_of(tmp_path, values, states=early)).best.overrides["a"] == "0"


def test_a_leader_with_fewer_seeds_is_provisional(tmp_path):
    """As it was seen: of twelve jobs seven were done, and the best configuration had one seed."""
    values = {(0, 0, k): 0.047 + 0.001 * k for k in range(3)} | {(0, 1, 0): 0.00793}
    waiting = {(0, 1, 1): 0.0, (0, 1, 2): 0.0, (1, 0, 0): 0.0}
    found = answer(sweep_of(tmp_path, values | waiting, states=dict.fromkeys(waiting, "waiting")))
    assert str(found) == (
        "leads 3, but provisionally, with 1 of its 3 seeds finished: a=0 b=1\n"
        "score_error 0.00793 (one seed), which tells nothing apart\n"
        "the only one whose seeds have all finished: a=0 b=0; score_error 0.048 ± 0.00058 (standard error, 3 seeds)"
    )


@pytest.mark.parametrize("case", range(20))
def test_the_answer_is_right_half_way(case, tmp_path):
    """On every prefix of a shuffled sweep nothing is ahead of the leader by its mean and by its pairs; most has gaps.

    Some jobs diverge; a configuration that does is behind all that do not.
    """
    draw = np.random.default_rng(case)
    values = grid((2, 3, 3), lambda i, j, k: float(np.exp(draw.normal(i - j, 0.5))))
    diverged = {place for place in values if draw.random() < 0.08}
    order = [list(values)[index] for index in draw.permutation(len(values))]
    for done in range(1, len(order) + 1):
        ended = {place: "diverged" if place in diverged else "finished" for place in order[:done]}
        found = answer(sweep_of(tmp_path, values, states={place: ended.get(place, "waiting") for place in values}))
        if found is None:
            assert "finished" not in ended.values()
            continue
        finished = [comparison.configuration for comparison in found.comparisons]
        assert found.comparisons[0].configuration is found.best
        has_diverged = {c.label for c in finished if any(job.state == "diverged" for job in c.jobs)}
        sound = [c for c in finished if c.label not in has_diverged] or finished
        assert found.best in sound
        assert found.best.mean == min(c.mean for c in sound)
        all_seeds = sum(place[:2] == tuple(map(int, found.best.overrides.values())) for place in ended)
        provisional = all_seeds < 3 or found.best.label in has_diverged
        assert ("provisionally" in str(found)) is provisional
        assert ("whose seeds have all finished" in str(found)) is (provisional and bool(found.complete))
        assert all(len(c.values) == 3 for c in found.complete)
    assert not provisional or len(has_diverged) == len(finished)


def test_a_key_without_effect_is_named_with_what_it_does_change(tmp_path):
    sweep = sweep_of(tmp_path, grid((2, 2, 2), lambda i, j, k: 0.1 + j + k / 7), factors=("schedule", "weighting"))
    for index, job in enumerate(sweep.jobs):
        job.metrics["density_tv"] = 0.09 + 0.33 * (job.overrides["schedule"] == "1")
        job.metrics["training_time"] = 7.0 + index
    (idle,) = answer(sweep).idle
    assert (idle.key, idle.spans) == ("schedule", [Span("density_tv", 0.09, pytest.approx(0.42))])
    assert str(answer(sweep)).endswith("\nschedule: no effect on score_error; density_tv 0.09 … 0.42")
    assert [idle.key for idle in answer(sweep, "density_tv").idle] == ["weighting"]
    assert str(answer(sweep, "density_tv").idle[0]).startswith("weighting: no effect on density_tv; score_error")


def test_the_ends_of_a_span_are_told_apart():
    assert str(Span("density_tv", 0.09, 0.4195)) == "density_tv 0.09 … 0.42"
    assert str(Span("off_support", 0.35712, 0.35733)) == "off_support 0.3571 … 0.3573"


def test_one_pair_that_differs_gives_a_key_its_effect(tmp_path):
    values = grid((2, 2, 2), lambda i, j, k: 0.1 + j + k)
    assert [idle.key for idle in answer(sweep_of(tmp_path, values)).idle] == ["a"]
    assert "a: no effect on score_error; none on anything else either" in str(answer(sweep_of(tmp_path, values)))
    values[1, 0, 1] *= 1 + 1e-12
    assert answer(sweep_of(tmp_path, values)).idle == []
    half = dict.fromkeys([place for place in values if place[0] == 1], "waiting")
    assert answer(sweep_of(tmp_path, values, states=half)).idle == []  # nothing can tell yet


def test_the_best_of_what_cannot_be_measured(tmp_path):
    values = {(0, 0, 0): math.nan, (1, 0, 0): 0.2, (2, 0, 0): math.inf}
    found = answer(sweep_of(tmp_path, values))
    assert found.best.overrides["a"] == "1"
    assert len(found.unmeasured) == 2
    assert answer(sweep_of(tmp_path, {(0, 0, 0): math.nan})) is None


def test_the_command_of_the_best_trains_all_its_seeds(tmp_path):
    sweep = sweep_of(tmp_path, grid((2, 1, 2), lambda i, j, k: i + k))
    assert answer(sweep).command == "python scripts/train.py -m a=0 b=0 seed=0,1"


# Points that are no grid


def search(n):
    draw = np.random.default_rng(3)
    points = [
        {"optimizer.lr": f"{10 ** draw.uniform(-4, -1):.3g}", "score": draw.choice(["raw", "karras"]), "x": str(i)}
        for i, _ in enumerate(range(n))
    ]
    values = [(math.log10(float(point["optimizer.lr"])) + 2.5) ** 2 for point in points]
    return points, values


def test_a_forest_finds_what_matters_and_names_what_may_not():
    points, values = search(60)
    found = {importance.key: importance for importance in importances(points, values)}
    assert found["optimizer.lr"].share > 0.8
    assert found["score"].share < 2 * found["score"].chance + 0.01
    assert importances(points, [1.0] * 60) == []


def test_a_search_is_no_grid(tmp_path):
    points, values = search(30)
    measured = {(p["optimizer.lr"], p["score"], 0): v for p, v in zip(points, values, strict=True)}
    sweep = sweep_of(tmp_path, measured, factors=("optimizer.lr", "score"))
    assert not is_grid(sweep)
    assert variance_shares(sweep, "score_error") is None
    assert importance_shares(sweep, "score_error")["shares"][0].key == "optimizer.lr"
    assert importance_shares(sweep_of(tmp_path, grid((2, 2, 2), lambda *p: sum(p))), "score_error") is None


def test_a_forest_of_few_points_says_nothing(tmp_path):
    points, values = search(8)
    measured = {(p["optimizer.lr"], p["x"], 0): v for p, v in zip(points, values, strict=True)}
    found = importance_shares(sweep_of(tmp_path, measured, factors=("optimizer.lr", "x")), "score_error")
    assert (found["shares"], found["note"]) == ([], "too few points for a forest: 8 of at least 10")
