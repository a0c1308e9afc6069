"""The commands `sample` and `evaluate`."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from .. import plotting
from ..building import Builder
from ..files import replacing
from ..likelihood import CrossEntropy, Estimate, Likelihood, cross_entropy
from ..metrics import SampleTest, ScoreShares, ScoreTest, curl
from ..module import HasScore
from ..runs import Run
from ..scores import Score
from .chains import Chains, Share, shares
from .question import Question
from .tables import show

log = logging.getLogger(__name__)

CURL_POINTS = 2000
FLOOR_DRAWS = 20


def sample(config: dict[str, Any]) -> Path:
    """Draw samples from a run into `out` (.npz with key `x`, or .csv), and a picture beside it.

    With `score=exact` the exact score of the run's target takes the network's place.
    """
    question = Question(config, counts=("n",), suffixes=(".npz", ".csv"))
    x, out = question.chains.draw(question.score, question.seed), Path(config["out"])
    with replacing(out) as path:
        if out.suffix == ".npz":
            np.savez(path, x=x.numpy())
        else:
            np.savetxt(path, x.numpy(), delimiter=",", header="x1,x2", comments="")
    _draw(question, plotting.plot_samples(question.run.distribution, x), out.stem)
    log.info("%d samples in %s, a picture in %s", len(x), out, out.with_suffix(".png"))
    return out


def evaluate(config: dict[str, Any]) -> dict[str, Any]:
    """Print how wrong a run's score is at each level, and whose fault it is what is wrong with its samples.

    The truth under the run's sampler shows what the sampler gets wrong, the network under a sampler of nearly no error
    what the network gets wrong; a `ceiling`, the same recipe trained on exact targets, tells what of that is the
    network's capacity. With `score=exact` the truth takes the network's place. Figures go beside the file of numbers.
    """
    question = Question(config, counts=("n", "num_seeds", "num_levels"), suffixes=(".json",))
    parts = _parts(question.run, config)
    split = parts["split"](question.score) if "split" in parts else None
    numbers = _score_numbers(question.score, parts["score_test"], split)
    if question.ceiling:
        numbers["ceiling_score_error_per_level"] = parts["score_test"](question.ceiling.score).per_level
    if "samples" in parts:
        seeds = range(question.seed, question.seed + config["num_seeds"])
        pairs = _pairs(question, parts["samples"].sigma)
        numbers["samples"] = {
            name: shares(parts["samples"], chains, score, seeds) for name, (score, chains) in pairs.items()
        }
        numbers["distances"] = _distances(question, seeds)
        try:
            x = question.chains.draw(question.score, question.seed)
            numbers["cross_entropy"] = cross_entropy(question.run.distribution, x, parts["samples"].sigma)
        except ValueError as error:  # no density there, or hardly a point on its support
            log.info("no cross-entropy of the samples: %s", error)
    if "likelihood" in parts:
        numbers["likelihood"] = parts["likelihood"](_double(question))._asdict()
    show(numbers)
    if question.out is not None:
        with replacing(question.out) as path:
            path.write_text(json.dumps(_plain(numbers), indent=2) + "\n")
        for name, figure in _figures(question, numbers, split, parts.get("likelihood")).items():
            _draw(question, figure, f"{question.out.stem}_{name}")
        log.info("numbers in %s, pictures in %s_*.png", question.out, question.out.with_suffix(""))
    return numbers


def _draw(question: Question, figure: Figure, name: str) -> None:
    """Write a figure beside `out`, in every format that is asked for."""
    assert question.out is not None
    for kind, content in plotting.rendered(figure, question.formats).items():
        with replacing(question.out.with_name(f"{name}.{kind}")) as path:
            path.write_bytes(content)


def _pairs(question: Question, sigma: float) -> dict[str, tuple[Score, Chains]]:
    """Scores under samplers, down to a level: the sampler's share, the network's, its capacity's, and the total."""
    this, near_exact = question.chains, question.chains.near_exact(sigma)
    pairs: dict[str, tuple[Score, Chains]] = {"truth, this sampler": (question.exact, this)}
    if question.score is not question.exact:
        pairs["network, near-exact sampler"] = question.score, near_exact
        if question.ceiling:
            pairs["on exact targets, near-exact sampler"] = question.ceiling.score, near_exact
        pairs["network, this sampler"] = question.score, this
    return pairs


def _distances(question: Question, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """How far the chains of each score are from p_σ after every level, a row a walk; and draws of p_σ, a row a draw."""
    chains = question.chains
    scores = {"truth": question.exact, **({} if question.score is question.exact else {"network": question.score})}
    return {
        "sigma": chains.levels.tolist(),
        **{name: chains.distances(score, seeds).tolist() for name, score in scores.items()},
        "floor": chains.floors(range(FLOOR_DRAWS)).tolist(),
    }


def _figures(
    question: Question, numbers: dict[str, Any], split: ScoreShares | None, likelihood: Likelihood | None
) -> dict[str, Figure]:
    figures = {}
    if "samples" in numbers:
        samples = numbers["samples"]
        names = next(iter(samples.values()))
        bars = {name: {pair: plotting.Bar(*column[name][:4]) for pair, column in samples.items()} for name in names}
        figures["shares"] = plotting.plot_shares(bars)
        curves = {name: torch.tensor(values) for name, values in numbers["distances"].items()}
        figures["distances"] = plotting.plot_chain_distances(curves.pop("sigma"), curves.pop("floor"), curves)
    if split is not None:
        figures["split"] = plotting.plot_score_split(split.sigmas, split.gradient, split.divergence_free)
    if likelihood is not None:
        score = _double(question)
        figures["density"] = plotting.plot_model_density(
            question.run.distribution, lambda x: likelihood.log_prob(score, x), likelihood.sigma_min
        )
    return figures


def _parts(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """The score test, between the run's own levels or those of the command line, and the parts of the evaluation."""
    ends = {end: config[end] if config[end] is not None else run.config["score_test"][end] for end in _ENDS}
    if samples := config["evaluation"].get("samples"):
        own = OmegaConf.select(OmegaConf.create(run.config), "evaluation.samples.sigma", default=0.0)
        samples["sigma"] = own if samples["sigma"] is None else samples["sigma"]
    arguments = {name: f"${{{name}}}" for name in ("distribution", "num_levels", *ends)}
    node = {"_target_": f"{ScoreTest.__module__}.ScoreTest", "num_points": 10000, **arguments}
    given = {"distribution": run.distribution, "schedule": run.schedule}
    builder = Builder({**config, **ends, "score_test": node}, given=given)
    parts = {name: builder.build(f"evaluation.{name}") for name in config["evaluation"]}
    parts["score_test"] = builder.build("score_test")
    if isinstance(parts.get("samples"), SampleTest):
        builder.attempt("", lambda: parts["samples"].check(config["n"]))
    builder.check()
    return parts


_ENDS = ("sigma_min", "sigma_max")


def _score_numbers(score: Score, test: ScoreTest, split: ScoreShares | None) -> dict[str, Any]:
    """Errors, their parts and the curl, at each level."""
    errors = test(score)
    curls = [curl(score, x[:CURL_POINTS], sigma) for x, sigma in zip(test.x, test.sigmas, strict=True)]
    numbers: dict[str, Any] = {
        "score_error": float(errors.relative.mean()),
        "score_error_per_level": errors.per_level,
        "curl_per_level": dict(zip(errors.per_level, curls, strict=True)),
    }
    if split is not None:
        numbers["score_error_gradient_per_level"] = split.gradient_per_level
        numbers["score_error_divergence_free_per_level"] = split.divergence_free_per_level
    return numbers


def _double(question: Question) -> Score:
    """The run's score in float64; the truth is exact as it is."""
    if question.score is question.exact:
        return question.exact
    module = copy.deepcopy(question.run.module).double()
    assert isinstance(module, HasScore)
    return module.score


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return _plain(value._asdict()) if isinstance(value, Share | Estimate | CrossEntropy) else value
