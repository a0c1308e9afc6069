"""A search for the best point of a space: Optuna proposes some points, is told their values, and proposes again.

A trial is one point, trained once for each seed; its value is the mean score error. If a job diverged the trial has no
value and counts as pruned, which is worse than any value. If a job failed the trial stays open, and the next command
tries the job again. Everything else is as in a grid, `sweep.json` and the report included.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from rich.console import Console

from ..config.plain import Refusal, can_change_result
from .folder import Job
from .optuna_study import Journal, demand_optuna, distribution, ends, text
from .planning import OF_THE_SWEEP, Planned, Planner, choices
from .runner import JobRunner, Rounds
from .terminal import print_line

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SEED = "seed"
"""The key whose values repeat a trial."""


class Search:
    """A search in a sweep's folder.

    Args:
        arguments: overrides, each with a value, a list of values or a range.
        planner: of the command.
        runner: is given the jobs of all trials.
        n_trials: the number of trials that the study should have in the end.
        n_jobs: the number of jobs that are trained before Optuna proposes again, rounded up to whole trials.
        retry_failed: whether failed jobs are tried again.

    Raises:
        Refusal: there is nothing to search, or the study in the folder has another setting.
    """

    def __init__(
        self,
        arguments: list[str],
        planner: Planner,
        runner: JobRunner,
        *,
        n_trials: int,
        n_jobs: int,
        retry_failed: bool,
    ) -> None:
        demand_optuna()
        self.planner, self.runner = planner, runner
        self.overrides = planner.parse(arguments)
        self.swept = [key for key, override in self.overrides.items() if override.is_sweep_override()]
        self.space = {key: distribution(self.overrides[key]) for key in self.swept if key != SEED}
        if not self.space:
            raise Refusal("hydra.sweeper.n_trials: nothing to search; give a key interval(…), range(…) or choice(…)")
        self.seeds = len(choices(self.overrides[SEED])) if SEED in self.swept else 1
        self.n_trials, self.at_once, self.retry_failed = n_trials, math.ceil(n_jobs / self.seeds), retry_failed
        self.journal = Journal(runner.folder, self.space, _setting(self.overrides))
        self._jobs: dict[int, list[Planned]] = {}
        self._begun: set[int] = set()

    def rounds(self, console: Console) -> Rounds:
        """What is left of the search; prints what each trial gave."""
        trials = self._add(self.journal.trials())
        done = sum(trial.state.is_finished() for trial in trials)
        opening = f"search of {self.n_trials} trials of {self.seeds} jobs, {done} trials done before"
        sample = self._sample(is_new=not done) if done < self.n_trials else []
        total = max(self.n_trials, len(trials)) * self.seeds
        return Rounds(opening, sample, total, self._names(console), well=("finished", "diverged"), whole=False)

    def jobs(self, trial: FrozenTrial) -> list[Planned]:
        """The jobs of a trial, one for each seed."""
        if trial.number not in self._jobs:
            self._jobs[trial.number] = self._at({key: text(value) for key, value in trial.params.items()})
        return self._jobs[trial.number]

    def _sample(self, *, is_new: bool) -> list[Planned]:
        """A few jobs to be checked at the start.

        In some, every parameter takes both its ends, or all its choices. In a new search there are others beside each
        of them, in which one parameter alone takes another value; they show whether it makes a difference.
        """
        values = {key: [text(value) for value in ends(found)] for key, found in self.space.items()}
        longest = max(map(len, values.values()))
        corners = [{key: found[min(i, len(found) - 1)] for key, found in values.items()} for i in range(longest)]
        beside = [{**corner, key: _other(found, corner[key])} for corner in corners for key, found in values.items()]
        jobs = [job for point in corners for job in self._at(point)]
        return jobs + [self._at(point)[0] for point in beside if is_new]

    def _at(self, point: dict[str, str]) -> list[Planned]:
        """The jobs of a point, given by its parameters' values, one for each seed."""
        overrides = [[f"{key}={point[key]}"] if key in point else choices(o) for key, o in self.overrides.items()]
        return [self.planner.job(list(line), swept=self.swept) for line in itertools.product(*overrides)]

    def _names(self, console: Console) -> Iterator[list[str]]:
        """The hashes of the jobs of each round; the last round has none, for then no trial is left."""
        tried: set[str] = set()  # two trials may be one point
        trials: list[FrozenTrial] | None = None
        while trials or trials is None:
            trials = self._next(console)
            self._begun |= {trial.number for trial in trials}
            names = dict.fromkeys(job.hash for trial in trials for job in self.jobs(trial))
            left = [name for name in names if name not in tried and self.runner.read(name).state not in self._settled]
            tried.update(left)
            yield left
        values = {trial.value: trial for trial in self.journal.trials() if trial.value is not None}
        if values:
            print_line(console, f"best: score error {min(values):.4g} at {_label(values[min(values)])}")

    @property
    def _settled(self) -> tuple[str, ...]:
        """The states of jobs that are not run again."""
        return ("finished", "diverged") if self.retry_failed else ("finished", "diverged", "failed")

    def _next(self, console: Console) -> list[FrozenTrial]:
        """Tell the study the values of ended trials; return the open trials of the last round, or of a new one."""
        with self.journal.held() as study:
            trials = self._add(self.journal.whole(study))  # another process may have begun some of them
            for index, trial in enumerate(trials):
                if not trial.state.is_finished() and (result := self._tell(study, trial)):
                    print_line(console, f"trial {index + 1} of {max(self.n_trials, len(trials))}: {result}")
            trials = self.journal.whole(study)
            round_end = math.ceil(len(trials) / self.at_once) * self.at_once
            if not self._waiting(trials) and round_end == len(trials):
                round_end += self.at_once
            return self._waiting(self._add(self.journal.propose(study, until=min(round_end, self.n_trials))))

    def _add(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Give the jobs of trials to the runner, and return the trials."""
        for trial in trials:
            self.runner.add(self.jobs(trial))
        return trials

    def _waiting(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """The open trials that this command has not begun yet."""
        return [trial for trial in trials if not trial.state.is_finished() and trial.number not in self._begun]

    def _tell(self, study: Study, trial: FrozenTrial) -> str:
        """Tell the study the value of a trial, and return it in words; empty while a job of the trial has not ended."""
        from optuna.trial import TrialState

        jobs = [self.runner.read(job.hash) for job in self.jobs(trial)]
        if any(job.state not in self._settled for job in jobs):
            return ""
        value = _value(jobs)
        if value is not None:
            study.tell(trial.number, value)
            return f"score error {value:.4g} at {_label(trial)}"
        failed = any(job.state == "failed" for job in jobs)
        study.tell(trial.number, state=TrialState.FAIL if failed else TrialState.PRUNED)
        return f"{'failed' if failed else 'diverged'} at {_label(trial)}"


def _other(values: list[str], value: str) -> str:
    """The one after `value`, in a circle."""
    return values[(values.index(value) + 1) % len(values)]


def _label(trial: FrozenTrial) -> str:
    return " ".join(f"{key}={text(found)}" for key, found in trial.params.items())


def _value(jobs: list[Job]) -> float | None:
    """The mean score error of jobs; None unless all of them finished and it is finite."""
    if any(job.state != "finished" for job in jobs):
        return None
    mean = math.fsum(float(job.metrics.get("score_error", math.nan)) for job in jobs) / len(jobs)
    return mean if math.isfinite(mean) else None


def _setting(overrides: dict[str, Override]) -> dict[str, str]:
    """The overrides on which a trial's value depends: their values by their keys, without blanks."""
    settings: dict[str, Any] = {
        key: str(override.input_line).partition("=")[2].replace(" ", "")
        for key, override in overrides.items()
        if override.key_or_group not in OF_THE_SWEEP and can_change_result(override.key_or_group)
    }
    return settings
