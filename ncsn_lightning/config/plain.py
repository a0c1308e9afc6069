"""The configuration as text: where it lies, what a run keeps of it, what names a result. Imports nothing slow."""

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

NO_RESULT = (
    *("config_hash", "figures", "group", "logger", "name", "options", "paths", "project", "resume", "run_id", "tags"),
    *("retry_failed", "sweep_name"),
    *("threads", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.enable_progress_bar", "trainer.profiler", "loop", "block_size"),
    *("callbacks.best", "callbacks.last", "callbacks.learning_rate", "callbacks.progress"),
    *("callbacks.monitor", "callbacks.figures.every_n_steps", "callbacks.figures.format"),
)
"""What can change no result: names and places, how much of a machine is used, what is saved and shown along the way.

A thread or a device more may round a sum differently, as another machine may; precision and compilation name a result
all the same, for they are chosen. Whatever is not listed counts, a callback of one's own too."""


FILES = ("distribution.path",)
"""Keys that name files whose contents are part of a result."""


def _per_level(budget: int, *, _root_: DictConfig) -> int:
    """`${per_level:1000}`: how many of so many evaluations a level of the ladder may have."""
    return round(budget / int(_root_.schedule.num_levels))


def _chosen_options() -> dict[str, str]:
    """`${chosen_options:}`: the option of every group, by the group's name; empty without a command line."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}


OmegaConf.register_new_resolver("per_level", _per_level, replace=True)
OmegaConf.register_new_resolver("chosen_options", _chosen_options, replace=True)


NO_SETTING = (
    *("callbacks", "evaluation", "fast_loop", "figures", "group", "logger", "name", "options", "paths", "project"),
    *("resume", "retry_failed", "run_id", "sweep_name", "tags"),
)
"""What of a configuration no run is grouped or filtered by: parts of callbacks, and what loggers know already."""


def settings(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """What loggers group and filter runs by: options by their groups' names, and every value below as `group/key`.

    A part without an option, or whose class the command line names, goes by its class.

    Args:
        config: a plain configuration.
        overrides: the command line.
    """
    cfg = OmegaConf.create(config)
    named = {key: node for key, node in config.items() if key not in NO_SETTING}
    targets = {key: node["_target_"] for key, node in named.items() if isinstance(node, dict) and "_target_" in node}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    options = {group: option for group, option in config.get("options", {}).items() if group not in NO_SETTING}
    classes = {
        key: target.rpartition(".")[2]
        for key, target in targets.items()
        if key not in options or f"{key}._target_" in given
    }
    return {**options, **classes, **_values(cfg, named, "")}


def _values(cfg: DictConfig, node: dict[str, Any], path: str) -> dict[str, Any]:
    """The resolved values below a node by their paths; a part that stands elsewhere, `${schedule}`, has its own."""
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
    """The value of a dotted key in a plain configuration, with what it interpolates; `default` where there is none."""
    value = OmegaConf.select(OmegaConf.create(config), key, default=default)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class Refusal(ValueError):  # noqa: N818  (of the user's values; no error of the program)
    """A configuration that cannot run; one line for each wrong value."""


def config_folder() -> Path:
    """The `conf/` folder: inside the package where it was installed, else the repository's."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir())


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration without Hydra: what only Hydra can resolve is resolved, other interpolations stay.

    Raises:
        Refusal: something cannot be resolved, such as a variable that the environment lacks.
    """
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    config: dict[str, Any] = _without_resolvers(cfg, container, "")
    if "paths" in config:
        config["paths"]["root"] = os.path.expanduser(str(config["paths"]["root"]))
    return config


def composed(*overrides: str, folder: Path | str) -> dict[str, Any]:
    """The plain configuration of a training in `folder`, without a command line: for scripts, notebooks and tests."""
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
    """Write `config.yaml`, by which a run is gone on with, from wherever that is: files go by their whole names."""
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
    """Ten letters and digits that name everything in a plain configuration that can change the result.

    Automatic values count as `auto`: they follow from the target, which counts, and so does the content of its file,
    however that is named.
    The first is always a letter, for Hydra and spreadsheets take `9066e21528` for a number.
    """
    contents = {key: digest for key in FILES if (digest := _digest(config, key))}
    text = json.dumps({**_results_only(config, "", but=contents), **contents}, sort_keys=True, default=str)
    digits = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digits[0].translate(str.maketrans("0123456789", "ghijklmnop")) + digits[1:]


def _digest(config: dict[str, Any], key: str) -> str | None:
    """Of the content of the file that a key names; None where it names none."""
    group, _, name = key.partition(".")
    path = (config.get(group) or {}).get(name)
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest() if path else None
    except (OSError, TypeError):  # about which the distribution has more to say
        return None


def can_change_result(key: str) -> bool:
    """Whether a dotted key, or a group, is part of what `config_hash` names."""
    return not any(f"{key}.".startswith(f"{name}.") for name in NO_RESULT)


def _results_only(node: Any, path: str, *, but: Collection[str]) -> Any:
    if not isinstance(node, dict):
        return node
    paths = {key: f"{path}.{key}".lstrip(".") for key in node}
    kept = {key: here for key, here in paths.items() if can_change_result(here) and here not in but}
    return {key: _results_only(node[key], here, but=but) for key, here in kept.items()}


def packages(trust: str | list[str]) -> tuple[str, ...]:
    """What `trust=a`, `trust=a,b` or `trust=[a,b]` names."""
    names = re.findall(r"[\w.]+", trust) if isinstance(trust, str) else trust
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise Refusal(f"trust={trust}: give names of packages, trust=[a,b]")
    return tuple(names)


def read_config(folder: Path, *, named: str) -> dict[str, Any]:
    """What a run's `config.yaml` holds.

    Args:
        folder: of the run.
        named: the argument that names it, for what is said where the file is empty or damaged.

    Raises:
        Refusal: it is.
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
    """A remark that names the most similar word, or lists all (those `otherwise` given)."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(sorted(otherwise or words))}"
