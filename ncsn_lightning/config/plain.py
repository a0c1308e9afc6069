"""The configuration as plain data: composed, written and read back, hashed to name a result. Imports nothing slow."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..core.atomic_files import replacing

NODE = re.compile(r"^\$\{([\w.]+)\}$")
"""An interpolation of one whole node, `${schedule}`."""

IRRELEVANT_KEYS = (
    *("config_hash", "figures", "group", "logger", "name", "options", "paths", "project", "resume", "run_id", "tags"),
    *("retry_failed", "sweep_name"),
    *("threads", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.enable_progress_bar", "trainer.profiler", "loop", "block_size"),
    *("callbacks.best", "callbacks.last", "callbacks.learning_rate", "callbacks.progress"),
    *("callbacks.monitor", "callbacks.figures.every_n_steps", "callbacks.figures.format"),
)
"""Keys that leave the result as it is: names and places, how much of a machine is used, what is saved and shown.

Another number of threads or devices may round a sum differently, but so may another machine. Precision and compilation
are not listed, because the user chooses them for the result. Every key that is not listed counts, also those of a
user's own callback."""

FILES = ("distribution.path",)
"""Keys that name files whose contents are part of a result."""


def _per_level(budget: int, *, _root_: DictConfig) -> int:
    """`${per_level:1000}`: a budget of evaluations, divided by the number of levels of the ladder."""
    return round(budget / int(_root_.schedule.num_levels))


def _chosen_options() -> dict[str, str]:
    """`${chosen_options:}`: the option of every group, by the group's name; empty without a command line."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}


OmegaConf.register_new_resolver("per_level", _per_level, replace=True)
OmegaConf.register_new_resolver("chosen_options", _chosen_options, replace=True)


UNGROUPED_KEYS = (
    *("callbacks", "evaluation", "fast_loop", "figures", "group", "logger", "name", "options", "paths", "project"),
    *("resume", "retry_failed", "run_id", "sweep_name", "tags"),
)
"""Keys by which loggers group and filter no runs: parts of callbacks, and facts that a logger has anyway."""


def settings(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The settings by which loggers group and filter runs: the option of each group, and each value as `group/key`.

    Where a group has no option, or the command line names a class in its place, the name of the class is given.

    Args:
        config: a plain configuration.
        overrides: the command line.
    """
    cfg = OmegaConf.create(config)
    named = {key: node for key, node in config.items() if key not in UNGROUPED_KEYS}
    targets = {key: node["_target_"] for key, node in named.items() if isinstance(node, dict) and "_target_" in node}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    options = {group: option for group, option in config.get("options", {}).items() if group not in UNGROUPED_KEYS}
    classes = {
        key: target.rpartition(".")[2]
        for key, target in targets.items()
        if key not in options or f"{key}._target_" in given
    }
    return {**options, **classes, **_values(cfg, named, "")}


def _values(cfg: DictConfig, node: dict[str, Any], path: str) -> dict[str, Any]:
    """The resolved values below a node by their paths, without references to other groups, such as `${schedule}`."""
    found: dict[str, Any] = {}
    for key, content in node.items():
        here = f"{path}.{key}".lstrip(".")
        value = OmegaConf.select(cfg, here)
        if isinstance(content, dict):
            found |= _values(cfg, content, here)
        elif not key.startswith("_") and not isinstance(value, DictConfig):
            resolved = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            found[here.replace(".", "/")] = resolved
    return found


def value_at(config: dict[str, Any] | DictConfig, key: str, *, default: Any = None) -> Any:
    """The value of a dotted key in a plain configuration, interpolations resolved; `default` where there is none."""
    value = OmegaConf.select(OmegaConf.create(config), key, default=default)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class Refusal(ValueError):  # noqa: N818  (the user's values are refused; the program has no error)
    """A configuration that cannot run; one line for each wrong value."""


def config_folder() -> Path:
    """The `conf/` folder: the one inside an installed package, else the repository's."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain data: resolvers such as `${now:…}` are resolved, references to keys stay.

    Raises:
        Refusal: a resolver fails, for example because the environment lacks a variable.
    """
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    config: dict[str, Any] = _without_resolvers(cfg, container, "")
    if "paths" in config:
        config["paths"]["root"] = os.path.expanduser(str(config["paths"]["root"]))
    return config


def composed(*overrides: str, folder: Path | str) -> dict[str, Any]:
    """The plain configuration of a training in `folder`, made without a command line, as scripts and notebooks need it.

    Args:
        overrides: as on a command line, `schedule=karras`.
        folder: of the run.
    """
    settings = ["name=composed", "tags=[]", f"paths.folder={folder}", *overrides]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return {**plain(compose("train", settings)), "run_id": Path(folder).name}


def _without_resolvers(cfg: DictConfig, node: Any, path: str) -> Any:
    if isinstance(node, dict):
        return {key: _without_resolvers(cfg, value, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_resolvers(cfg, value, f"{path}[{index}]") for index, value in enumerate(node)]
    if isinstance(node, str) and re.search(r"\$\{[\w.]+:", node):
        try:
            value = OmegaConf.select(cfg, path)
            return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            raise Refusal(f"{path}={node}: {str(error).splitlines()[0]}") from error
    return node


def write_config(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write `config.yaml`, from which a run is resumed, wherever that happens: files are named by absolute paths."""
    digests = {key: digest for key in FILES if (digest := _digest(config, key))}
    groups = {key.partition(".")[0]: {**config[key.partition(".")[0]]} for key in digests}
    for group, name in (key.split(".") for key in digests):
        groups[group][name] = str(Path(groups[group][name]).expanduser().absolute())
    with replacing(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create({**config, **groups, "digests": digests, "overrides": overrides}), path)


def changed_files(config: dict[str, Any]) -> list[str]:
    """The arguments of a `config.yaml` whose files have another content than when it was written."""
    now = {key: _digest(config, key) for key in config.get("digests", {})}
    return [f"{key}={value_at(config, key)}" for key, it in now.items() if it and it != config["digests"][key]]


def config_hash(config: dict[str, Any]) -> str:
    """Ten letters and digits: a hash of everything in a plain configuration that can change the result.

    It is taken before automatic values are filled in, for they follow from the target. A file counts by its content and
    not by its name. The first character is always a letter, because Hydra and
    spreadsheets would take `9066e21528` for a number.
    """
    contents = {key: digest for key in FILES if (digest := _digest(config, key))}
    text = json.dumps({**_results_only(config, "", but=contents), **contents}, sort_keys=True, default=str)
    digits = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digits[0].translate(str.maketrans("0123456789", "ghijklmnop")) + digits[1:]


def _digest(config: dict[str, Any], key: str) -> str | None:
    """A hash of the content of the file that a key names; None where there is no such file."""
    group, _, name = key.partition(".")
    path = (config.get(group) or {}).get(name)
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest() if path else None
    except (OSError, TypeError):  # the distribution will refuse the name with a better message
        return None


def can_change_result(key: str) -> bool:
    """Whether a dotted key, or a group, is part of what `config_hash` names."""
    return not any(f"{key}.".startswith(f"{name}.") for name in IRRELEVANT_KEYS)


def _results_only(node: Any, path: str, *, but: Collection[str]) -> Any:
    if not isinstance(node, dict):
        return node
    paths = {key: f"{path}.{key}".lstrip(".") for key in node}
    kept = {key: here for key, here in paths.items() if can_change_result(here) and here not in but}
    return {key: _results_only(node[key], here, but=but) for key, here in kept.items()}


def packages(trust: str | list[str]) -> tuple[str, ...]:
    """The packages that `trust=a`, `trust=a,b` or `trust=[a,b]` names.

    Raises:
        Refusal: the value is no list of names.
    """
    names = re.findall(r"[\w.]+", trust) if isinstance(trust, str) else trust
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise Refusal(f"trust={trust}: give names of packages, trust=[a,b]")
    return tuple(names)


def read_config(folder: Path, *, named: str) -> dict[str, Any]:
    """Read a run's `config.yaml`.

    Args:
        folder: of the run.
        named: the argument that names the run, with which the message of a refusal begins.

    Raises:
        Refusal: the file is damaged, empty, or lacks keys that every run has.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    except Exception:  # a damaged file can raise anything
        config = None
    if not isinstance(config, dict):
        raise Refusal(f"{named}: its config.yaml is damaged; {_RESTORE}")
    if not config:
        raise Refusal(f"{named}: its config.yaml is empty; {_RESTORE}")
    if missing := [key for key in ("config_hash", "paths", "seed", "trainer") if key not in config]:
        raise Refusal(f"{named}: its config.yaml lacks {', '.join(missing)}; {_RESTORE}")
    return {str(key): value for key, value in config.items()}


_RESTORE = "restore it from a copy, or train anew in another folder"


def nearest(word: str, words: list[str], *, prefix: str = "", otherwise: list[str] | None = None) -> str:
    """A remedy that names the most similar word, or lists all words where none is similar.

    Args:
        word: as the user wrote it.
        words: that exist.
        prefix: put before the most similar word.
        otherwise: listed in place of `words`.
    """
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(sorted(otherwise or words))}"
