"""The commands `sample` and `evaluate`, once a configuration has been checked."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from .. import plotting
from ..config.build import Builder
from ..config.plain import value_at
from ..core.atomic_files import replacing
from ..core.progress_bars import Stages, on_terminal, tracked
from ..metrics.likelihood import CrossEntropy, Estimate, Likelihood, cross_entropy
from ..metrics.samples import SampleTest
from ..metrics.score_error import ScoreTest, by_level, curl
from ..metrics.split import ScoreShares, ScoreSplit
from ..models.scores import Score
from ..runs.load import Run
from .request import Request, score_of
from .tables import show
from .walks import Chains, Share, shares

log = logging.getLogger(__name__)

CURL_POINTS = 2000
"""The number of points at each level at which the curl is measured."""

FLOOR_DRAWS = 20
"""The number of draws of p_σ that give the floor of the distances."""


def sample(config: dict[str, Any]) -> Path:
    """Draw samples from a run into `out` (.npz with key `x`, or .csv), and a picture beside it.

    With `score=exact` the exact score of the run's target takes the network's place.

    Args:
        config: the plain configuration of the command.

    Returns:
        The file of samples.

    Raises:
        Refusal: a value is wrong; the message has a line for each.
    """
    request = Request(config)
    chains, data, out = request.chains, request.run.distribution, request.out
    assert out is not None
    what, total = f"sampling {chains.n} chains", len(chains.sampler.reached(chains.schedule.sigmas))
    walk = chains.walk(request.score, request.seed)
    *_, x = tracked(walk, what, total=total, bar=on_terminal(), later="a picture is")
    x = data.placed(x)
    with replacing(out) as path:
        if out.suffix == ".npz":
            np.savez(path, x=x.numpy())
        else:
            np.savetxt(path, x.numpy(), delimiter=",", header="x1,x2", comments="")
    _draw(request, plotting.plot_samples(data, x), out.stem)
    log.info("%d samples in %s, a picture in %s.%s", len(x), out, out.with_suffix(""), request.formats[0])
    return out


def evaluate(config: dict[str, Any]) -> dict[str, Any]:
    """Print how wrong a run's score is at each level, and which part of the method causes the error of its samples.

    The exact score under the run's sampler shows the sampler's error. The network under a sampler of nearly no error
    shows the network's error. A `ceiling`, the same recipe trained on exact targets, shows how much of that is due to
    the network's capacity. With `score=exact` the exact score takes the network's place. Figures are written beside the
    file of numbers.

    Args:
        config: the plain configuration of the command.

    Returns:
        The numbers, by their names.

    Raises:
        Refusal: a value is wrong; the message has a line for each.
    """
    request = Request(config)
    out = request.out
    parts = _parts(request.run, config)
    with Stages(_count(request, parts, config)) as stages:
        numbers, split = _measure(request, parts, config, stages)
        if out is not None:
            for name, figure in stages.over("drawing", _figures(request, numbers, split, parts.get("likelihood"))):
                _draw(request, figure, f"{out.stem}_{name}")
    show(numbers)
    log.info(_beside_the_run(request, config))
    if out is not None:
        with replacing(out) as path:
            path.write_text(json.dumps(_plain(numbers), indent=2) + "\n")
        log.info("numbers in %s, pictures in %s_*.%s", out, out.with_suffix(""), request.formats[0])
    return numbers


def _count(request: Request, parts: dict[str, Any], config: dict[str, Any]) -> int:
    """The number of steps of an evaluation, for its progress bar."""
    walks = config["num_seeds"] * len(_pairs(request, 0.0)) + 2 if "samples" in parts else 0
    single = ["score_test", *(name for name in ("split", "likelihood") if name in parts)]
    pictures = [name for name in ("samples", "samples", "split", "likelihood") if name in parts]
    return walks + len(single) + bool(request.ceiling) + len(pictures) * (request.out is not None)


def _measure(
    request: Request, parts: dict[str, Any], config: dict[str, Any], stages: Stages
) -> tuple[dict[str, Any], ScoreShares | None]:
    """All numbers of an evaluation, and the parts of the score error (None if they are not asked for)."""
    split = stages.run("parts of the score error", lambda: parts["split"](request.score)) if "split" in parts else None
    numbers = stages.run("score error", lambda: _score_numbers(request.score, parts["score_test"], split))
    if ceiling := request.ceiling:
        errors = stages.run("score error of the ceiling", lambda: parts["score_test"](score_of(ceiling)))
        numbers["ceiling_score_error_per_level"] = errors.per_level
    if "samples" in parts:
        seeds = range(request.seed, request.seed + config["num_seeds"])
        pairs = _pairs(request, parts["samples"].sigma)
        numbers["samples"] = {
            name: shares(parts["samples"], chains, score, stages.over(f"walks: {name}", seeds))
            for name, (score, chains) in pairs.items()
        }
        numbers["distances"] = stages.run("distances on the way", lambda: _distances(request, seeds))
        try:
            x = request.chains.draw(request.score, request.seed)
            target, sigma = request.target, parts["samples"].sigma
            numbers["cross_entropy"] = stages.run("cross-entropy", lambda: cross_entropy(target, x, sigma))
        except ValueError as error:  # the target has no density at this level, or hardly a sample is on its support
            log.info("no cross-entropy of the samples: %s", error)
    if "likelihood" in parts:
        estimates = stages.run("likelihood", lambda: parts["likelihood"](_double(request)))
        numbers["likelihood"] = estimates._asdict()
    return numbers, split


def _beside_the_run(request: Request, config: dict[str, Any]) -> str:
    """A line that says whether the score error is the one in the run's summary, and why."""
    if request.score is request.exact:
        return "score error of the exact score: the run's own number is that of its network"
    if other := [f"{key}={config[key]}" for key in (*_ENDS, "num_levels") if config[key] is not None]:
        return f"score error at other levels than the run's own ({' '.join(other)}): its summary has another number"
    return (
        "score error on the run's own points: its summary has the same number for the weights of its last step, up to "
        "the rounding of another device or precision"
    )


def _draw(request: Request, figure: Figure, name: str) -> None:
    """Write a figure beside `out`, in every format that is asked for."""
    assert request.out is not None
    for kind, content in plotting.rendered(figure, request.formats).items():
        with replacing(request.out.with_name(f"{name}.{kind}")) as path:
            path.write_bytes(content)


def _pairs(request: Request, sigma: float) -> dict[str, tuple[Score, Chains]]:
    """Pairs of a score and chains whose errors are the sampler's, the network's, its capacity's, and the total.

    Args:
        request: the run, and how it is sampled.
        sigma: the level at which samples are compared with p_σ, in data units.
    """
    this, near_exact = request.chains, request.chains.near_exact(sigma)
    pairs: dict[str, tuple[Score, Chains]] = {"truth, this sampler": (request.exact, this)}
    if request.score is not request.exact:
        pairs["network, near-exact sampler"] = request.score, near_exact
        if request.ceiling:
            pairs["on exact targets, near-exact sampler"] = score_of(request.ceiling), near_exact
        pairs["network, this sampler"] = request.score, this
    return pairs


def _distances(request: Request, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Distances from p_σ after every level: of the chains of each score, a row for each walk, and of draws of p_σ."""
    chains = request.chains
    scores = {"truth": request.exact, **({} if request.score is request.exact else {"network": request.score})}
    return {
        "sigma": chains.levels.tolist(),
        **{name: chains.distances(score, seeds).tolist() for name, score in scores.items()},
        "floor": chains.floors(range(FLOOR_DRAWS)).tolist(),
    }


def _figures(
    request: Request, numbers: dict[str, Any], split: ScoreShares | None, likelihood: Likelihood | None
) -> Iterator[tuple[str, Figure]]:
    """The figures of an evaluation, by the ends of their files' names."""
    if "samples" in numbers:
        samples = numbers["samples"]
        names = next(iter(samples.values()))
        bars = {name: {pair: plotting.Bar(*column[name][:4]) for pair, column in samples.items()} for name in names}
        yield "shares", plotting.plot_shares(bars)
        curves = {name: torch.tensor(values) for name, values in numbers["distances"].items()}
        yield "distances", plotting.plot_chain_distances(curves.pop("sigma"), curves.pop("floor"), curves)
    if split is not None:
        yield "split", plotting.plot_score_split(split.sigmas, split.gradient, split.divergence_free)
    if likelihood is not None:
        score, data = _double(request), request.run.distribution
        density = plotting.plot_model_density(
            data, lambda x: likelihood.log_prob(score, x - data.mean), likelihood.sigma_min
        )
        yield "density", density


def _parts(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """The objects that measure: the parts of the group `evaluation`, and the score test.

    The score is tested between the levels of the command line, else between those of the run's own test.
    """
    own = run.config["score_test"]
    ends = {end: config[end] if config[end] is not None else own[end] for end in _ENDS}
    levels = config["num_levels"] if config["num_levels"] is not None else own["num_levels"]
    if isinstance(samples := config["evaluation"].get("samples"), dict):
        sigma = value_at(run.config, "evaluation.samples.sigma", default=0.0)
        samples["sigma"] = sigma if samples["sigma"] is None else samples["sigma"]
    arguments = {name: f"${{{name}}}" for name in ("distribution", "num_levels", *ends)}
    points = {name: own[name] for name in ("num_points", "seed")}
    node = {"_target_": f"{ScoreTest.__module__}.ScoreTest", **points, **arguments}
    given = {"distribution": run.distribution, "schedule": run.schedule}
    builder = Builder({**config, **ends, "num_levels": levels, "score_test": node}, given=given)
    parts = {name: builder.build(f"evaluation.{name}", _PARTS.get(name, object)) for name in config["evaluation"]}
    parts["score_test"] = builder.build("score_test")
    if isinstance(parts.get("samples"), SampleTest):
        builder.attempt("", lambda: parts["samples"].check(config["n"]))
    builder.check()
    return parts


_ENDS = ("sigma_min", "sigma_max")
_PARTS: dict[str, type] = {"samples": SampleTest, "split": ScoreSplit, "likelihood": Likelihood}


def _score_numbers(score: Score, test: ScoreTest, split: ScoreShares | None) -> dict[str, Any]:
    """The score errors, their parts and the curl, at each level."""
    errors = test(score)
    curls = [curl(score, x[:CURL_POINTS], sigma) for x, sigma in zip(test.x, test.sigmas, strict=True)]
    numbers: dict[str, Any] = {
        "score_error": float(errors.relative.mean()),
        "score_error_standard_error": float(errors.mean_stderr),
        "score_error_per_level": errors.per_level,
        "score_error_standard_error_per_level": by_level(errors.sigmas, errors.relative_stderr),
        "num_points": test.x.shape[1],
        "curl_per_level": dict(zip(errors.per_level, curls, strict=True)),
    }
    if split is not None:
        numbers["score_error_gradient_per_level"] = split.gradient_per_level
        numbers["score_error_divergence_free_per_level"] = split.divergence_free_per_level
    return numbers


def _double(request: Request) -> Score:
    """The score in float64; the exact score needs no conversion."""
    if request.score is request.exact:
        return request.exact
    return score_of(replace(request.run, module=copy.deepcopy(request.run.module).double()))


def _plain(value: Any) -> Any:
    """Turn named tuples into dictionaries, as JSON needs them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return _plain(value._asdict()) if isinstance(value, Share | Estimate | CrossEntropy) else value
