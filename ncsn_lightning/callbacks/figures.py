"""Samples of the averaged network, and the figures that show what it has learnt."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import plotting
from ..arguments import Count, Index, column, strict
from ..distributions import Distribution
from ..files import replacing
from ..loggers import log_picture, log_table
from ..loops import BlockCallback
from ..metrics import SampleTest, by_level, off_support
from ..module import NCSN
from ..objectives import Objective, squared_error
from ..randomness import keyed_generator
from ..samplers import NotSolvedError, Sampler
from ..schedules import Levels, Schedule
from ..signals import abandons
from ..weightings import Learned
from .measuring import MeasuringCallback, first, measured
from .score_error import ScoreError
from .score_split import ScoreErrorParts

log = logging.getLogger(__name__)

TABLE_ROWS = 1000
"""Samples that go to the loggers' tables; all of them are in samples.npz."""


class SamplesAndFigures(MeasuringCallback, BlockCallback):
    """Sample and draw, every few steps and at the end.

    Along the way: the samples beside the target. At the end: `samples.npz` (keys `x`, and `truth`, as many draws of the
    target, the same in every run on it; `[n, 2]` float32) and every figure into `figures/`, and to the loggers. Of a
    learned weighting, u(σ) and its optimum (nats) go to the summary; of the samples every metric, and under `floors`
    what the truth would score.

    Args:
        distribution, schedule, levels, objective: of the run.
        sampler: walks down the schedule with the averaged score.
        sample_test: measures the samples.
        num_samples: chains.
        every_n_steps: optimiser steps between pictures along the way.
        seed: of the chains.
        folder: the run's folder.
    """

    @strict
    def __init__(
        self,
        *,
        distribution: Distribution,
        schedule: Schedule,
        levels: Levels,
        objective: Objective,
        sampler: Sampler,
        sample_test: SampleTest,
        num_samples: Count,
        every_n_steps: Count,
        seed: Index,
        folder: str,
    ) -> None:
        super().__init__()
        self.distribution, self.schedule, self.levels, self.objective = distribution, schedule, levels, objective
        self.sampler, self.sample_test = sampler, sample_test
        self.num_samples, self.every_n_steps, self.seed = num_samples, every_n_steps, seed
        self.folder, self.owed = Path(folder), False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step < trainer.max_steps and trainer.is_global_zero:
            self._show(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.owed and trainer.is_global_zero:
            self._show(trainer, pl_module)

    def _show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Samples along the way, which whoever stops the run does not wait for; a resumed one draws them."""

        def draw() -> None:
            if states := self._walk(module):
                self._publish(trainer, "samples", plotting.plot_samples(self.distribution, states[-1]))

        self.owed = abandons(draw)

    def state_dict(self) -> dict[str, Any]:
        return {"owed": self.owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.owed = state_dict["owed"]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        started = time.perf_counter()
        if states := self._walk(pl_module):
            self.results["sampling_time"] = time.perf_counter() - started
            self._keep(trainer, states)
        for name, figure in self._figures(trainer, pl_module):
            self._publish(trainer, name, figure)

    def _keep(self, trainer: L.Trainer, states: list[Tensor]) -> None:
        """Measure samples, save them, and draw them and how they came about."""
        samples, levels = states[-1], self.sampler.reached(self.schedule.sigmas)
        self.results["off_support"] = off_support(self.distribution, samples)
        self.results["not_finite"] = float((~samples.isfinite().all(-1)).double().mean())
        self._measure(samples)
        truth = self.distribution.sample(self.num_samples, generator=keyed_generator(0, "truth"))
        with replacing(self.folder / "samples.npz") as path:
            np.savez(path, x=samples.numpy(), truth=truth.float().numpy())
        for logger in trainer.loggers:
            log_table(logger, "samples", ["x1", "x2"], samples[:TABLE_ROWS].tolist())
        self._publish(trainer, "samples", plotting.plot_samples(self.distribution, samples))
        self._publish(trainer, "filmstrip", plotting.plot_filmstrip(self.distribution, states, levels))
        self._publish(trainer, "annealing", plotting.animate_annealing(self.distribution, states, levels))

    def _measure(self, samples: Tensor) -> None:
        """Every metric of the set into the summary; chains that left the plane are no reason to lose a run."""
        try:
            measured = self.sample_test.measure(samples)
        except ValueError as error:
            log.warning("samples not measured: %s", error)
            return
        log.info("samples: %s", ", ".join(f"{name} {metric}" for name, metric in measured.items()))
        self.results.update({name: metric.value for name, metric in measured.items()})
        self.results["floors"] = {name: metric._asdict() for name, metric in measured.items()}

    def _walk(self, module: L.LightningModule) -> list[Tensor]:
        """The prior's draw and the state after every level, `[n, 2]` each; none where the sampler finds no way."""
        sigmas = self.schedule.sigmas.to(module.device)
        try:
            with measured(module) as score:
                walk = self.sampler.walk(score, self.distribution, sigmas, n=self.num_samples, seed=self.seed)
                return [state.cpu() for state in walk]
        except NotSolvedError as error:  # no reason to lose a run
            log.warning("no samples: %s", error)
            return []

    def _figures(self, trainer: L.Trainer, module: L.LightningModule) -> Iterator[tuple[str, Figure]]:
        """Whatever can be drawn by what the training has."""
        if error := first(trainer, ScoreError):
            errors = error.errors(module)
            chosen = errors.sigmas[torch.linspace(1, len(errors.sigmas) - 1, 4).round().long()]
            with measured(module, on_cpu=True) as score:
                field = plotting.plot_score_field(self.distribution, score, chosen.cpu())
            yield "score_field", field
            yield "score_error", plotting.plot_score_error(errors.sigmas, errors.relative)
            yield "loss_levels", plotting.plot_loss_levels(errors.sigmas, errors.loss, errors.minimum)
        else:
            log.info("no pictures of the score: the callback score_error is left out")
        if parts := first(trainer, ScoreErrorParts):
            shares = parts.shares(module)
            yield "score_split", plotting.plot_score_split(shares.sigmas, shares.gradient, shares.divergence_free)
        if isinstance(module, NCSN):
            yield "schedule", self._schedule_figure(module)
            if isinstance(module.weighting, Learned) and error:
                yield "learned_weighting", self._learned_weighting(copy.deepcopy(module).cpu(), errors.sigmas.cpu())

    def _schedule_figure(self, module: NCSN) -> Figure:
        sigmas = self.schedule.sigmas
        grid = torch.logspace(float(sigmas[-1].log10()), float(sigmas[0].log10()), 400)
        with torch.no_grad():
            weight = copy.deepcopy(module.weighting).cpu()(grid)
        return plotting.plot_schedule(sigmas, sigma_grid=grid, weight=weight, density=self.levels.density(grid))

    @torch.no_grad()
    def _learned_weighting(self, module: NCSN, sigmas: Tensor) -> Figure:
        """u(σ) and its optimum ln E[σ² e / D] of the weights in training, on fresh points."""
        weighting = module.weighting
        assert isinstance(weighting, Learned)
        generator = keyed_generator(self.seed, "learned weighting")
        sigma = sigmas.unsqueeze(-1)
        x = self.distribution.sample(sigma.shape[0] * 1024, generator=generator).view(-1, 1024, 2)
        noise = torch.randn(x.shape, generator=generator)
        target = self.objective.target(x, sigma, noise, generator=generator)
        error = squared_error(module.model(x + column(sigma, x) * noise, sigma), target).mean(-1)
        u, optimum = weighting.u(sigmas), (sigmas.square() * error / weighting.dim).log()
        self.results["learned_weighting_per_level"] = by_level(sigmas, u)
        self.results["optimal_weighting_per_level"] = by_level(sigmas, optimum)
        return plotting.plot_learned_weighting(sigmas, u, optimum)

    def _publish(self, trainer: L.Trainer, name: str, picture: Figure | bytes) -> None:
        """Save a figure or an animation in the run's folder and hand it to the loggers."""
        path = self.folder / "figures" / f"{name}.{'gif' if isinstance(picture, bytes) else 'png'}"
        with replacing(path) as temporary:
            temporary.write_bytes(picture if isinstance(picture, bytes) else plotting.png(picture))
        for logger in trainer.loggers:
            log_picture(logger, name, path, trainer.global_step)
