"""What a relative score error does not tell: beside the exact score a field that moves no mass, and two that do."""

from __future__ import annotations

from math import hypot
from typing import Any

import torch
from lab import Lab
from page import table_of
from torch import Tensor

from ncsn_lightning import EightGaussians, Heun, Karras, Likelihood, RungeKutta, ScoreSplit, cross_entropy
from ncsn_lightning.core.randomness import keyed_generator
from ncsn_lightning.models.scores import Score
from ncsn_lightning.report.metrics import plus_minus

FIELDS = {
    "$s$, exact": (1.0, 0.0),
    "$s + .3\\,Js$, $J$ a quarter turn": (1.0, 0.3),
    "$1.03\\,s$": (1.03, 0.0),
    "$.97\\,s$": (0.97, 0.0),
}
TARGET = EightGaussians()
LADDER = Karras(sigma_min=0.01, sigma_max=20.0, num_levels=64)
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
N = 20_000


def reproduce(lab: Lab) -> list[str]:
    found = lab.measure({f"field_{i}": lambda f=factors: measured(*f) for i, factors in enumerate(FIELDS.values())})
    rows = [[name, *cells(answer)] for name, answer in zip(FIELDS, found.values(), strict=True)]
    return table_of(["score", "gradient part", "divergence-free part", "KL (nats)", "surplus (nats)"], rows)


def cells(answer: dict[str, Any]) -> list[str]:
    parts = (f"{answer[part]:.2g}" for part in ("gradient", "divergence_free"))
    return [*parts, plus_minus(*answer["kl"]), plus_minus(*answer["surplus"])]


def measured(stretch: float, rotation: float) -> dict[str, Any]:
    """The parts of a field's relative error, the target's divergence from what it generates, and the surplus."""
    score = field(stretch, rotation)
    parts = ScoreSplit(distribution=TARGET, **LADDER.ends, num_levels=10, resolution=512)(score).means
    likelihood = Likelihood(
        distribution=TARGET, schedule=LADDER, solver=RungeKutta(steps=64), prior="exact", num_points=N
    )
    return {**parts, "kl": list(likelihood(score).kl), "surplus": surplus(score)}


def field(stretch: float, rotation: float) -> Score:
    """`stretch` times the exact score, and `rotation` times the score turned by a right angle."""

    def score(x: Tensor, sigma: Tensor | float) -> Tensor:
        s = TARGET.score(x, sigma)
        return stretch * s + rotation * s @ TURN.to(s.dtype)

    return score


def surplus(score: Score, n: int = N) -> list[float]:
    """The mean of −log p over samples of Heun's method, less that over draws of the truth; and its standard error."""
    sigma = float(LADDER.sigmas[-1])
    start = TARGET.sample_noisy(n, float(LADDER.sigmas[0]), generator=keyed_generator(0, "start")).double()
    x = Heun(denoise=False)(score, start, LADDER.sigmas.double())
    truth = TARGET.sample_noisy(10 * n, sigma, generator=keyed_generator(0, "truth")).double()
    ours, theirs = (cross_entropy(TARGET, points, sigma).mean for points in (x, truth))
    return [ours.value - theirs.value, hypot(ours.error, theirs.error)]
