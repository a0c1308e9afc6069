"""What of a command line names nothing: unknown groups, options and keys, each with the nearest that exists.

Hydra stops at the first of them and explains itself in several lines. This is asked only after it has refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from .configuration import Refusal, config_folder, nearest

LAUNCHERS = {
    "joblib": ("joblib", "joblib"),
    "slurm": ("submitit", "slurm"),
    "submitit_slurm": ("submitit", "slurm"),
    "submitit_local": ("submitit", "slurm"),
    "ray": ("ray", "ray"),
}
"""Hydra's launchers: the plugin that each needs, and the extra of this package that installs it."""


def check_launcher(arguments: list[str]) -> None:
    """Raise Refusal for a launcher whose plugin is not installed."""
    for argument in arguments:
        key, _, name = argument.partition("=")
        plugin, extra = LAUNCHERS.get(name, ("", ""))
        if key == "hydra/launcher" and plugin and not find_spec(f"hydra_plugins.hydra_{plugin}_launcher"):
            raise Refusal(f"{argument}: needs a plugin; install it with: pip install 'ncsn-lightning[{extra}]'")


def refused_overrides(command: str, arguments: list[str]) -> list[str]:
    """A line for each override of `command` that names nothing; empty where all do, or where options lie elsewhere."""
    if any(argument.startswith(("--config", "-c")) for argument in arguments):
        return []  # a folder of the user's own has options that are not known here: Hydra's own words must do
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        return [f"{error.override}: not understood; write key=value, and quote what the shell would take apart"]
    nameless = [override for override in parsed if _is_group(override) and not isinstance(override.value(), str)]
    lines = dict.fromkeys(f"{o.input_line}: an option is a name; for none write ~{o.key_or_group}" for o in nameless)
    if not any(argument.startswith(("-m", "--m", "hydra.mode=")) for argument in arguments):
        several = [override.input_line for override in parsed if override.is_sweep_override()]
        lines |= dict.fromkeys(f"{line}: several values; add -m to sweep over them" for line in several)
    choices = [_choices(override) for override in parsed if override not in nameless]
    for job in range(max(map(len, choices), default=0)):  # every choice of a sweep is seen once, not every combination
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            lines |= dict.fromkeys(_refused(command, [choice[min(job, len(choice) - 1)] for choice in choices]))
    return list(lines)


def _is_group(override: Override) -> bool:
    return (config_folder() / override.key_or_group).is_dir() and not (
        override.is_sweep_override() or override.is_delete() or isinstance(override.value(), dict)
    )


def _choices(override: Override) -> list[str]:
    """The overrides that a sweep makes of one, or itself."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if isinstance(interval := override.value(), IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _refused(command: str, overrides: list[str]) -> Iterator[str]:
    unknown = []
    while True:
        try:
            config = compose(command, overrides, return_hydra_config=True)
            break
        except (ConfigCompositionException, HydraException) as error:
            wrong = [override for override in overrides if _key(override) == _blamed(error)]
            if not wrong:
                yield " ".join(str(error).split())
                return
            if isinstance(error, MissingConfigException):
                yield f"{wrong[0]}: no such option; {nearest(_value(wrong[0]), list(error.options or []))}"
            elif "Could not append" in str(error):
                yield f"{wrong[0]}: there already; leave out the +"
            else:
                unknown.extend(wrong)
            overrides = [override for override in overrides if override not in wrong]
    keys = _keys(OmegaConf.to_container(config, resolve=False))
    for override in unknown:
        yield f"{override}: no such key; {_nearest(_key(override), keys)}"


def _blamed(error: Exception) -> str | None:
    """The key or group that Hydra's message is about."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return error.missing_cfg_file.rpartition("/")[0]
    found = re.search(r"Could not (?:override|delete|append)[^']*'([^'=]+)", str(error))
    return found[1] if found else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(override: str) -> str:
    return override.partition("=")[2]


def _nearest(key: str, keys: list[str]) -> str:
    """The same last word elsewhere, else the most similar neighbour, else the most similar of all."""
    if "." not in key and (same := [path for path in keys if path.rpartition(".")[2] == key]):
        return f"did you mean {same[0]}?"
    parent, dot, word = key.rpartition(".")
    neighbours = [path.removeprefix(parent + dot) for path in keys if path.rpartition(".")[0] == parent]
    if neighbours:
        return nearest(word, neighbours, prefix=parent + dot)
    return nearest(key, keys, otherwise=[path for path in keys if "." not in path])


def _keys(config: Any) -> list[str]:
    """The groups and dotted keys that a command line may name."""
    groups = config.pop("hydra")["runtime"]["choices"]
    every = dict.fromkeys([*groups, *_paths(config)])
    return [path for path in every if not path.startswith("hydra/") and not path.endswith("_")]


def _paths(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        here = f"{path}.{key}".lstrip(".")
        yield here
        yield from _paths(value, here)
