"""The configuration as text: where it lies, what a run keeps of it, what names a result. Imports nothing slow."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .files import replacing

NODE = re.compile(r"^\$\{([\w.]+)\}$")
"""An interpolation of one whole node, `${schedule}`."""

NO_RESULT = (
    *("config_hash", "group", "logger", "name", "paths", "project", "resume", "run_id", "tags"),
    *("retry_failed", "sweep_name"),
    *("threads", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.enable_progress_bar", "trainer.profiler", "loop", "block_size"),
    *("callbacks.best", "callbacks.last", "callbacks.learning_rate", "callbacks.progress"),
    "callbacks.figures.every_n_steps",
)
"""What can change no result: names and places, how much of a machine is used, what is saved and shown along the way.

A thread or a device more may round a sum differently, as another machine may; precision and compilation name a result
all the same, for they are chosen. Whatever is not listed counts, a callback of one's own too."""


FILES = ("distribution.path",)
"""Keys that name files whose contents are part of a result."""


def _per_level(budget: int, *, _root_: DictConfig) -> int:
    """`${per_level:1000}`: how many of so many evaluations a level of the ladder may have."""
    return round(budget / int(_root_.schedule.num_levels))


OmegaConf.register_new_resolver("per_level", _per_level, replace=True)


class Refusal(ValueError):  # noqa: N818  (of the user's values; no error of the program)
    """A configuration that cannot run; one line for each wrong value."""


def config_folder() -> Path:
    """The `conf/` folder: inside the package where it was installed, else the repository's."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A composed configuration without Hydra: what only Hydra can resolve is resolved, other interpolations stay.

    Raises:
        Refusal: something cannot be resolved, such as a variable that the environment lacks.
    """
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    return _without_resolvers(cfg, container, "")


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
            return OmegaConf.select(cfg, path)
        except OmegaConfBaseException as error:
            raise Refusal(f"{path}={node}: {str(error).splitlines()[0]}") from error
    return node


def write_config(folder: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write `config.yaml`, by which a run is gone on with."""
    with replacing(folder / "config.yaml") as path:
        OmegaConf.save(OmegaConf.create({**config, "overrides": overrides}), path)


def config_hash(config: dict[str, Any]) -> str:
    """Ten letters and digits that name everything in a plain configuration that can change the result.

    Automatic values count as `auto`: they follow from the target, which counts, and so does the content of its file.
    The first is always a letter, for Hydra and spreadsheets take `9066e21528` for a number.
    """
    contents = {key: digest for key in FILES if (digest := _digest(config, key))}
    text = json.dumps({**_results_only(config, ""), **contents}, sort_keys=True, default=str)
    digits = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digits[0].translate(str.maketrans("0123456789", "ghijklmnop")) + digits[1:]


def _digest(config: dict[str, Any], key: str) -> str | None:
    """Of the content of the file that a key names; None where it names none."""
    group, _, name = key.partition(".")
    path = (config.get(group) or {}).get(name)
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
    except (OSError, TypeError):  # about which the distribution has more to say
        return None


def can_change_result(key: str) -> bool:
    """Whether a dotted key, or a group, is part of what `config_hash` names."""
    return not any(f"{key}.".startswith(f"{name}.") for name in NO_RESULT)


def _results_only(node: Any, path: str) -> Any:
    if not isinstance(node, dict):
        return node
    paths = {key: f"{path}.{key}".lstrip(".") for key in node}
    return {key: _results_only(node[key], here) for key, here in paths.items() if can_change_result(here)}


def packages(trust: str | list[str]) -> tuple[str, ...]:
    """What `trust=a`, `trust=a,b` or `trust=[a,b]` names."""
    return tuple(re.findall(r"[\w.]+", trust)) if isinstance(trust, str) else tuple(trust)


def nearest(word: str, words: list[str], *, prefix: str = "", otherwise: list[str] | None = None) -> str:
    """A remark that names the most similar word, or lists all (those `otherwise` given)."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(sorted(otherwise or words))}"
