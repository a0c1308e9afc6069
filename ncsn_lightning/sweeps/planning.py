"""From a command line to the jobs of a sweep: spanned, composed, and named by the hashes of their configurations."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..config.overrides import no_values
from ..config.plain import Refusal, can_change_result, config_hash, plain

OF_THE_SWEEP = ("sweep", "sweep_name", "retry_failed")
"""Keys by which a command line says something about the sweep as a whole."""


@dataclass(frozen=True)
class Planned:
    """One job that a command line asks for.

    Attributes:
        hash: of the configuration, as far as it can change the result.
        line: all overrides of the job, in the order of the command line.
        swept: keys in which the jobs of the command differ.
        config: its plain configuration.
    """

    hash: str
    line: list[str]
    swept: list[str]
    config: dict[str, Any]


class Planner:
    """Composes the jobs of one command line.

    Args:
        loader: composes configurations.
        master: the configuration of the whole sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._groups = set(master.hydra.runtime.choices)
        self._composed: dict[tuple[tuple[str, ...], ...], DictConfig] = {}

    def parse(self, arguments: list[str]) -> dict[str, Override]:
        """Overrides by their keys, in their order; of several with one key the last counts.

        Raises:
            Refusal: an override sweeps over no value, or over a key that can change no result.
        """
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
        swept = [override for override in overrides if override.is_sweep_override()]
        idle = [o.input_line for o in swept if o.key_or_group in OF_THE_SWEEP or not can_change_result(o.key_or_group)]
        lines = [f"{line}: changes no result, so all its jobs would be one" for line in idle]
        if lines := [*lines, *(line for override in swept if (line := no_values(override)))]:
            raise Refusal("\n".join(lines))
        return {override.get_key_element(): override for override in overrides}

    def swept(self, arguments: list[str]) -> list[str]:
        """The keys that `arguments` sweep over, in their order."""
        return [key for key, override in self.parse(arguments).items() if override.is_sweep_override()]

    def span(self, arguments: list[str]) -> list[Planned]:
        """The different jobs that `arguments` span, in their order.

        Raises:
            Refusal: an override sweeps over no value, over a continuum, or over a key that can change no result.
            HydraException: Hydra cannot compose a job.
        """
        overrides, keys = self.parse(arguments), self.swept(arguments)
        jobs: dict[str, Planned] = {}
        for line in itertools.product(*map(choices, overrides.values())):
            job = self.job(list(line), swept=keys)
            jobs.setdefault(job.hash, job)
        return list(jobs.values())

    def job(self, line: list[str], *, swept: list[str]) -> Planned:
        """The job of one list of overrides.

        Args:
            line: the overrides, each with one value.
            swept: keys in which this job differs from others.
        """
        config = self._plain(self.compose(line))
        return Planned(config_hash(config), line, swept, config)

    def compose(self, line: list[str]) -> DictConfig:
        """The configuration of one list of overrides, which the next call may change.

        Hydra takes a tenth of a second for a configuration, nearly all of it for the choice of groups. So the
        configuration of each choice of groups is cached, and only the plain values of a job are set anew in it. Hydra
        would set these last too.
        """
        overrides = OverridesParser.create().parse_overrides(line)
        late = self._late(overrides)
        early = tuple(text for text, override in zip(line, overrides, strict=True) if override not in late)
        places = (early, tuple(override.key_or_group for override in late))
        if places not in self._composed:
            self._composed[places] = self._load(list(early))
        config = self._composed[places]
        try:
            for override in late:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._load(line)  # Hydra refuses these overrides too, with its own message
        return config

    def value(self, line: list[str], key: str) -> str:
        """The value of a key, or the option of a group, in the configuration of a list of overrides."""
        config = self.compose(line)
        choices = config.hydra.runtime.choices
        return str(choices[key] if key in choices else OmegaConf.select(config, key))

    def _load(self, line: list[str]) -> DictConfig:
        config = self.loader.load_sweep_config(self.master, line)
        with open_dict(config):
            config.hydra.runtime.output_dir = ""  # only the process that runs the job knows it
            config.hydra.job.num = 0
        return config

    def _late(self, overrides: list[Override]) -> list[Override]:
        """The overrides that set a single value that no other override sets, contains or lies in."""
        values = [override for override in overrides if not self._chooses(override)]
        keys = [f"{override.key_or_group}." for override in values]

        def alone(key: str) -> bool:
            return [other for other in keys if other.startswith(key) or key.startswith(other)] == [key]

        simple = [o.type is OverrideType.CHANGE and not isinstance(o.value(), dict) for o in values]
        return [o for o, key, is_simple in zip(values, keys, simple, strict=True) if is_simple and alone(key)]

    def _chooses(self, override: Override) -> bool:
        """Whether an override chooses an option of a group, and sets no value in it."""
        return override.key_or_group in self._groups and not isinstance(override.value(), dict)

    def _plain(self, config: DictConfig) -> dict[str, Any]:
        """The plain configuration of a job; Hydra's resolvers read the job's own configuration meanwhile."""
        task = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        hydra = HydraConfig.instance()
        before = hydra.cfg
        try:
            hydra.set_config(config)
            return plain(task)
        finally:
            hydra.cfg = before


def choices(override: Override) -> list[str]:
    """All overrides that a sweep makes of one; an override without a sweep stays as it is.

    Raises:
        Refusal: the sweep is over a continuum.
    """
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        remedy = "give choice(…), range(…) or glob(…), or search with hydra.sweeper.n_trials=…"
        raise Refusal(f"{override.input_line}: no list of values; {remedy}")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
