"""The study of a search: the points that were proposed and their values, in a file that outlives every process.

Optuna is called directly, because its plugin for Hydra cannot resume a study on disk: the released one
(hydra-optuna-sweeper 1.3) crashes on sqlite, and 1.4 is a release candidate. So a point of a search is trained by the
same jobs as a point of a grid, each with its folder named by a hash, its lease, its checkpoints and its summary.

The study is a journal, which Optuna and its dashboard read. It needs no locks of the file system, and a process that is
killed while writing loses at most one line. An interrupted search proposes the same points as an undisturbed one:

- the sampler of a trial is seeded by the study's name and the trial's number alone;
- only the process that holds the study's lease proposes, so that several processes may work on one search.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override

from ..config.plain import Refusal
from ..core import signals
from ..core.lease import take

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Journal:
    """A study on disk, `study/journal.log` in the sweep's folder.

    Args:
        folder: of the sweep; the study has its name.
        space: the distribution from which each parameter of a trial is drawn.
        setting: the overrides on which a trial's value depends, the ranges of the parameters included, by their keys.
    """

    def __init__(self, folder: Path, space: dict[str, BaseDistribution], setting: dict[str, str]) -> None:
        self.folder, self.name = folder / "study", folder.name
        self.space, self.setting = space, setting

    def trials(self) -> list[FrozenTrial]:
        """The trials at this moment, in the order in which they were proposed.

        Raises:
            Refusal: the study was made with another setting.
        """
        if not (self.folder / "journal.log").exists():
            return []
        return self.whole(self._open())

    @contextmanager
    def held(self) -> Iterator[Study]:
        """Wait until no other process holds the study, and hold it inside the `with` block.

        Raises:
            Stopped: the sweep is stopped.
            Refusal: the study was made with another setting.
        """
        while not (lease := take(self.folder)):
            signals.check()
            time.sleep(0.2)
        with lease:
            _mend(self.folder / "journal.log")
            study = self._open()
            if "setting" not in study.user_attrs:
                study.set_user_attr("setting", self.setting)
            yield study

    def propose(self, study: Study, *, until: int) -> list[FrozenTrial]:
        """All trials, after proposing new ones.

        Args:
            study: held by this process.
            until: how many trials there should be in all.
        """
        import optuna

        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if trial.params.keys() != self.space.keys():  # the process that proposed it was killed while writing it
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        for number in range(len(self.whole(study)), until):
            key = hashlib.sha256(f"{study.study_name} {number}".encode()).digest()
            study.sampler = optuna.samplers.TPESampler(seed=int.from_bytes(key[:4], "big"))
            study.ask(self.space)
        return self.whole(study)

    def whole(self, study: Study) -> list[FrozenTrial]:
        """The trials that have all their parameters, unlike one whose process was killed while writing it."""
        return [trial for trial in study.get_trials(deepcopy=False) if trial.params.keys() == self.space.keys()]

    def _open(self) -> Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.folder / "journal.log")))
        if studies := storage.get_all_studies():  # there is one, named after the folder, which may have been moved
            study = optuna.load_study(study_name=studies[0].study_name, storage=storage)
        else:
            study = optuna.create_study(study_name=self.name, storage=storage, load_if_exists=True)
        self._demand_same(study.user_attrs.get("setting", self.setting))
        return study

    def _demand_same(self, before: dict[str, str]) -> None:
        differing = [key for key in {**self.setting, **before} if self.setting.get(key) != before.get(key)]
        if differing:
            place = f"the study in {self.folder}"
            raise Refusal(
                "\n".join(
                    f"{_line(key, self.setting)}: {place} has {_line(key, before)}; begin another one with sweep_name=…"
                    for key in differing
                )
            )


def demand_optuna() -> None:
    """Raise Refusal where Optuna is not installed."""
    if not find_spec("optuna"):
        raise Refusal("hydra.sweeper.n_trials: needs Optuna; install it with: pip install 'ncsn-lightning[search]'")


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution for `lr=tag(log,interval(1e-4,1e-2))`, `n=range(1,9)` or `schedule=linear,karras`.

    Raises:
        Refusal: the interval or range is empty, or cannot be logarithmic.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_choice_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    try:
        if isinstance(value, IntervalSweep):
            low, high, step = value.start, value.end, {}
        else:
            points = sorted(value.range())
            low, high, step = points[0], points[-1], {"step": abs(value.step)}
        kind: Any = IntDistribution if isinstance(low, int) else FloatDistribution
        return kind(low, high, log="log" in value.tags, **step)
    except (ValueError, LookupError) as error:
        raise Refusal(f"{override.input_line}: {str(error).splitlines()[0]}") from error


def ends(found: Any) -> list[Any]:
    """The two ends of a distribution over numbers, or all choices of a categorical one."""
    from optuna.distributions import CategoricalDistribution

    return list(found.choices) if isinstance(found, CategoricalDistribution) else [found.low, found.high]


def text(value: Any) -> str:
    """A parameter's value on a command line; numbers have five digits, which are enough for a search."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _line(key: str, setting: dict[str, str]) -> str:
    return f"{key}={setting[key]}" if key in setting else f"no {key}"


def _mend(path: Path) -> None:
    """Remove the incomplete line that a full disk or a killed process left at the end of a journal."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
