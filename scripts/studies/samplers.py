"""Write the table of docs/samplers.md: every sampler's error on a Gaussian, in closed form and measured.

    python scripts/studies/samplers.py

Of the page only what stands between `<!-- table: gaussian -->` and `<!-- end -->` is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

import torch
from figures import samplers
from page import table_of
from reproductions.common import Counted
from torch import Tensor

from ncsn_lightning import ExactScore, GaussianMixture, Karras, Sampler, wasserstein2
from ncsn_lightning.core.atomic_files import replacing
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.samplers.closed_form import Errors, errors, sample_moments, smoothed, wasserstein

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
MARKS = re.compile(r"(<!-- table: gaussian -->\n).*?(<!-- end -->)", re.DOTALL)
N, SEEDS, STEPS, EXCESS = 20_000, 5, 10, 1.03
LADDER = Karras(sigma_min=0.05, sigma_max=8.0, num_levels=18)
W2_POINTS = 2000
"""Of all pairs of points POT finds the best; its cost grows with the cube of their number."""


class Scaled(ExactScore):
    """A score that is wrong by a constant factor, as its density is by a power."""

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return EXCESS * self.distribution.score(x, sigma)

    def log_density(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return EXCESS * self.distribution.log_prob(x, sigma)


def target() -> GaussianMixture:
    """One Gaussian off the origin, of deviations 1.2 and .3 along axes turned by 37°."""
    return GaussianMixture(
        torch.tensor([[1.5, -0.7]]),
        weights=torch.ones(1),
        variances=torch.tensor([[1.44, 0.09]]),
        directions=torch.tensor([[0.8, 0.6]]),
        scale=0.3,
    )


def rows() -> Iterator[list[str]]:
    gaussian, sigmas = target(), LADDER.sigmas
    for name, sampler in samplers("gaussian", steps=STEPS, denoise=False).items():
        walks = [list(sampler.walk(Scaled(gaussian), gaussian, sigmas, n=N, seed=seed))[-1] for seed in range(SEEDS)]
        cells = [
            _cost(sampler, gaussian, sigmas),
            *_closed_form(sampler, gaussian, sigmas),
            *_measured(gaussian, walks),
        ]
        yield [f"`{name}`", *cells]
    draws = [gaussian.sample(N, generator=keyed_generator(seed, "floor")) for seed in range(SEEDS)]
    yield ["exact draws", *[""] * (1 + len(Errors._fields)), *_measured(gaussian, draws)]


def _closed_form(sampler: Sampler, gaussian: GaussianMixture, sigmas: Tensor) -> list[str]:
    try:
        return [f"{value:.4f}" for value in errors(sampler, gaussian, sigmas, score=Scaled(gaussian))]
    except ValueError:  # no affine map
        return ["–"] * len(Errors._fields)


def _cost(sampler: Sampler, gaussian: GaussianMixture, sigmas: Tensor) -> str:
    score = Counted(ExactScore(gaussian))
    list(sampler.walk(score, gaussian, sigmas, n=1000, seed=0))
    return str(score.calls)


def _measured(gaussian: GaussianMixture, clouds: list[Tensor]) -> list[str]:
    """Of the last states of walks: the distance of their moments from the target's, and W₂ of some of them."""
    truth = smoothed(gaussian, 0.0)
    draws = [gaussian.sample(W2_POINTS, generator=keyed_generator(seed, "truth")) for seed in range(len(clouds))]
    return [
        _spread([wasserstein(sample_moments(x), truth) for x in clouds]),
        _spread([wasserstein2(x[:W2_POINTS], y) for x, y in zip(clouds, draws, strict=True)]),
    ]


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}"


def main() -> None:
    head = ["sampler", "evaluations", *Errors._fields, "measured", f"W₂ of {W2_POINTS}"]
    table = "\n".join(table_of(head, rows()))
    print(table)
    with replacing(PAGE) as path:
        path.write_text(MARKS.sub(lambda marks: f"{marks[1]}{table}\n{marks[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
