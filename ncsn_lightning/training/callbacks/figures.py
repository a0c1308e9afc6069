"""Draw samples with the averaged network, and figures that show what it has learnt."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ... import plotting
from ...core.atomic_files import replacing
from ...core.progress_bars import tracked
from ...core.randomness import keyed_generator
from ...core.signals import abandons
from ...core.validation import Count, Index, column, strict
from ...distributions.base import Distribution
from ...metrics.regions import off_support
from ...metrics.samples import SampleTest
from ...metrics.score_error import by_level
from ...models.scores import uncentred
from ...objectives.regression_targets import Objective, squared_error
from ...objectives.weightings import Learned
from ...plotting import Format
from ...samplers.base import Sampler
from ...samplers.ode import NotSolvedError
from ...schedules import Levels, Schedule
from ..block_callback import BlockCallback
from ..loggers import log_picture, log_table
from ..module import NCSN
from .measuring import MeasuringCallback, first, measured
from .progress import shows_bar
from .score_error import ScoreError
from .score_split import ScoreErrorParts

log = logging.getLogger(__name__)

TABLE_ROWS = 1000
"""How many of the samples go into the loggers' tables; `samples.npz` has all of them."""


class SamplesAndFigures(MeasuringCallback, BlockCallback):
    """Sample, measure the samples, and draw, every few steps and at the end.

    Every picture goes into `figures/`, where it replaces the one before, and to the loggers. The loggers also get each
    metric of the samples as `sample_quality/NAME`, beside its floor: what draws of the target itself score.

    The end adds the numbers of the summary: every metric of the samples and, under `floors`, its floor; for a learned
    weighting u(σ) and its optimum (nats). It also adds `samples.npz`, with two arrays `[n, 2]` in the data's own
    coordinates: `x`, and `truth`, as many draws of the target, the same in every run on it. They are float32, or
    float64 where float32 would merge points.

    Args:
        distribution, schedule, levels, objective: the run's; the distribution about its mean.
        sampler: walks down the schedule with the averaged score.
        sample_test: measures the samples.
        num_samples: how many chains are sampled.
        every_n_steps: optimiser steps from one set of pictures to the next.
        seed: the chains' seed.
        folder: the run's folder.
        format: png, pdf, svg, or several of them; a PNG is always made.
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
        format: Format | list[Format] = "png",
    ) -> None:
        super().__init__()
        self.distribution, self.schedule, self.levels, self.objective = distribution, schedule, levels, objective
        self.sampler, self.sample_test = sampler, sample_test
        self.num_samples, self.every_n_steps, self.seed = num_samples, every_n_steps, seed
        self.folder = Path(folder)
        self.formats: list[Format] = format if isinstance(format, list) else [format]
        self.data = distribution.uncentred
        self.drawn_at, self.owed = 0, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what the process before was stopped from drawing."""
        if self.owed and trainer.is_global_zero:
            self._show_along(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Draw every `every_n_steps` steps, except at the last one, after which `on_fit_end` draws."""
        step = trainer.global_step
        if step % self.every_n_steps or step in (self.drawn_at, trainer.max_steps) or not trainer.is_global_zero:
            return
        self.drawn_at = step
        self._show_along(trainer, pl_module)

    def _show_along(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Draw while training goes on; a stop abandons this, and the resumed run draws instead."""

        def draw() -> None:
            self._show(trainer, module)

        self.owed = abandons(draw)
        self.results = {}  # the summary has the numbers of the end alone

    def state_dict(self) -> dict[str, Any]:
        """Whether pictures are still to be drawn, because a stop has abandoned them."""
        return {"owed": self.owed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Learn from the run that is resumed whether it left pictures to be drawn."""
        self.owed = state_dict["owed"]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, keep the numbers for the summary, and save the samples."""
        if not trainer.is_global_zero:
            return
        if (samples := self._show(trainer, pl_module, later="measuring and drawing are")) is not None:
            self._save_samples(trainer, samples)

    def _show(self, trainer: L.Trainer, module: L.LightningModule, *, later: str = "") -> Tensor | None:
        """Sample, measure, and publish every picture; returns the samples, None where the sampler failed."""
        started = time.perf_counter()
        states, curves = self._walk(trainer, module, later=later), {}
        if states:
            self.results["sampling_time"] = time.perf_counter() - started
            curves = self._measure(states[-1], bar=shows_bar(trainer))
        pictures = chain(self._of_samples(states), self._figures(trainer, module))
        total = self._count(trainer, module, states)
        for name, picture in tracked(pictures, f"drawing {total} pictures", total=total, bar=shows_bar(trainer)):
            self._publish(trainer, name, picture)
        for logger in trainer.loggers if curves else ():  # after the pictures: if a stop abandons them, all is redone
            logger.log_metrics(curves, trainer.global_step)
        return states[-1] if states else None

    def _save_samples(self, trainer: L.Trainer, samples: Tensor) -> None:
        """Save the samples and as many draws of the target; give the loggers a table of the first ones."""
        truth = self.distribution.sample(self.num_samples, generator=keyed_generator(0, "truth"))
        x, truth = (self.data.placed(points) for points in (samples, truth))
        with replacing(self.folder / "samples.npz") as path:
            np.savez(path, x=x.numpy(), truth=truth.numpy())
        for logger in trainer.loggers:
            log_table(logger, "samples", ["x1", "x2"], x[:TABLE_ROWS].tolist(), trainer.global_step)

    def _of_samples(self, states: list[Tensor]) -> Iterator[tuple[str, Figure | bytes]]:
        """Pictures of the samples, and of the walk that led to them."""
        if states:
            levels, states = self.sampler.reached(self.schedule.sigmas), [self.data.placed(state) for state in states]
            yield "samples", plotting.plot_samples(self.data, states[-1])
            yield "filmstrip", plotting.plot_filmstrip(self.data, states, levels)
            yield "annealing", plotting.animate_annealing(self.data, states, levels)

    def _count(self, trainer: L.Trainer, module: L.LightningModule, states: list[Tensor]) -> int:
        """How many pictures there will be."""
        error, ours = first(trainer, ScoreError) is not None, isinstance(module, NCSN)
        learned = error and ours and isinstance(module.weighting, Learned)
        return 3 * bool(states) + 3 * error + (first(trainer, ScoreErrorParts) is not None) + ours + learned

    def _measure(self, samples: Tensor, *, bar: bool) -> dict[str, float]:
        """Put every metric of the samples into the results; returns each and its floor, for the loggers.

        Samples that cannot be measured, for example because some are not finite, do not end the run.
        """
        self.results["off_support"] = off_support(self.distribution, samples)
        self.results["not_finite"] = float((~samples.isfinite().all(-1)).double().mean())
        try:
            each, what = self.sample_test.each(samples), f"measuring {len(samples)} samples"
            metrics = dict(tracked(each, what, total=len(self.sample_test.metrics), bar=bar))
        except ValueError as error:
            log.warning("samples not measured: %s", error)
            return {}
        log.info(
            "samples: each metric, and in brackets its floor: what as many draws of the target have, ± the deviation "
            "of one draw\n%s",
            "\n".join(f"  {name} {metric}" for name, metric in metrics.items()),
        )
        self.results.update({name: metric.value for name, metric in metrics.items()})
        self.results["floors"] = {name: metric._asdict() for name, metric in metrics.items()}
        curves = {f"sample_quality/{name}": metric.value for name, metric in metrics.items()}
        floors = {f"sample_quality/{name}_floor": metric.floor for name, metric in metrics.items()}
        return {**curves, **floors}

    def _walk(self, trainer: L.Trainer, module: L.LightningModule, *, later: str = "") -> list[Tensor]:
        """The prior's draw and the state after every level, `[n, 2]` each; nothing where the sampler fails."""
        sigmas = self.schedule.sigmas.to(module.device)
        what, total = f"sampling {self.num_samples} chains", len(self.sampler.reached(self.schedule.sigmas))
        try:
            with measured(module) as score:
                walk = self.sampler.walk(score, self.distribution, sigmas, n=self.num_samples, seed=self.seed)
                states = tracked(walk, what, total=total, bar=shows_bar(trainer), later=later)
                return [state.cpu() for state in states]
        except NotSolvedError as error:  # the weights are worth keeping all the same
            log.warning("no samples: %s", error)
            return []

    def _figures(self, trainer: L.Trainer, module: L.LightningModule) -> Iterator[tuple[str, Figure]]:
        """The figures of the score, the schedule and the weighting, those for which the run has the callback."""
        if error := first(trainer, ScoreError):
            errors = error.errors(module)
            chosen = errors.sigmas[torch.linspace(1, len(errors.sigmas) - 1, 4).round().long()]
            with measured(module, on_cpu=True) as score:
                field = plotting.plot_score_field(self.data, uncentred(score, self.data), chosen.cpu())
            yield "score_field", field
            losses = plotting.LossLevels(
                errors.loss, errors.minimum, errors.error, errors.loss_stderr, errors.error_stderr
            )
            relative, stderr = errors.relative, errors.relative_stderr
            yield "score_error", plotting.plot_score_error(errors.sigmas, relative, stderr=stderr)
            yield "loss_levels", plotting.plot_loss_levels(errors.sigmas, losses)
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
        files = {"gif": picture} if isinstance(picture, bytes) else plotting.rendered(picture, self.formats)
        paths = {kind: self.folder / "figures" / f"{name}.{kind}" for kind in files}
        for kind, content in files.items():
            with replacing(paths[kind]) as temporary:
                temporary.write_bytes(content)
        for logger in trainer.loggers:
            log_picture(logger, name, paths.get("gif") or paths["png"], trainer.global_step)
