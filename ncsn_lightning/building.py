"""From a plain configuration to objects: every group once, shared by all that name it, every wrong value said at once.

The constructors are the schema. A node `{_target_: class, argument: value, …}` becomes the object, an argument
`${group}` is that group's object, `_partial_: true` leaves a function to be called later. This is Hydra's notation; its
own `instantiate` would stop at the first error and build a group anew for each of its users.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from .configuration import NODE
from .distributions import Distribution
from .networks import Embedding, Network
from .objectives import Objective, Weighting
from .samplers import Sampler
from .schedules import Levels, Schedule
from .scores import ScoreModel

Known = (
    Distribution,
    Schedule,
    Levels,
    Weighting,
    Objective,
    Embedding,
    Network,
    ScoreModel,
    Sampler,
    torch.optim.Optimizer,
    torch.nn.Module,
    L.Callback,
    L.LightningDataModule,
    Logger,
)


class Refusal(ValueError):
    """A configuration that cannot run; one line for each wrong value."""


class _Broken:
    """Stands for an object whose arguments were refused, so that the others are still checked."""


_BROKEN = _Broken()


class Builder:
    """Builds the groups of one configuration.

    Args:
        config: a plain configuration.
        trust: whose classes may be named: packages, or None for any (one's own command line).
    """

    def __init__(self, config: dict[str, Any], *, trust: tuple[str, ...] | None = None) -> None:
        self.config = OmegaConf.create(config)
        self.trust = trust
        self.built: dict[str, Any] = {}
        self.refused: dict[str, None] = {}

    def build(self, path: str) -> Any:
        """The object of the node at `path`, made once; a refused one is noted and stands in as broken."""
        if path not in self.built:
            self.built[path] = self._value(OmegaConf.select(self.config, path), path)
        return self.built[path]

    def refuse(self, line: str) -> None:
        """Note one wrong value."""
        self.refused[line] = None

    def check(self) -> None:
        """Raise all that was refused, a line each."""
        if self.refused:
            raise Refusal("\n".join(self.refused))

    def _value(self, node: Any, path: str) -> Any:
        if isinstance(node, DictConfig):
            arguments = {str(key): self._argument(node, str(key), path) for key in node}
            return self._call(arguments, node, path) if "_target_" in arguments else arguments
        if OmegaConf.is_list(node):
            return [self._value(item, path) for item in node]
        return node

    def _argument(self, node: DictConfig, key: str, path: str) -> Any:
        source = _source(node, key)
        return self._value(node[key], f"{path}.{key}") if source is None else self.build(source)

    def _call(self, arguments: dict[str, Any], node: DictConfig, path: str) -> Any:
        target = self._resolve(arguments.pop("_target_"), path)
        partial = arguments.pop("_partial_", False)
        if target is _BROKEN:
            return _BROKEN
        broken = {key for key, value in arguments.items() if value is _BROKEN}
        if partial:
            return self._partial(target, arguments, path)
        try:
            built = target(**arguments)
            return _BROKEN if broken else built
        except ValidationError as error:
            for item in error.errors():
                if not broken & set(map(str, item["loc"])):
                    argument = ".".join(map(str, item["loc"]))
                    self.refuse(_explain(_source(node, argument) or f"{path}.{argument}", item))
        except (TypeError, ValueError, OSError, AttributeError, RuntimeError) as error:
            if not broken:
                self.refuse(f"{path}: {_first_line(error)}")
        return _BROKEN

    def _partial(self, target: Any, arguments: dict[str, Any], path: str) -> Any:
        known = inspect.signature(target).parameters
        for key in arguments.keys() - known.keys():
            self.refuse(f"{path}.{key}: {target.__name__} has no such argument; it has {', '.join(known)}")
        return functools.partial(target, **arguments)

    def _resolve(self, name: str, path: str) -> Any:
        """The class that a node names, if it may be named."""
        if self.trust is not None and name.split(".")[0] not in {package.split(".")[0] for package in self.trust}:
            self.refuse(f"{path}._target_={name}: outside {', '.join(self.trust)}; nothing of it was loaded")
            return _BROKEN
        try:
            target = get_object(name)
        except (ImportError, AttributeError, ValueError) as error:
            self.refuse(f"{path}._target_={name}: {_first_line(error)}")
            return _BROKEN
        if self.trust is not None and not (_is_known(target) and _lies_in(target, self.trust)):
            self.refuse(f"{path}._target_={name}: no class of a known kind from {', '.join(self.trust)}")
            return _BROKEN
        return target


def _is_known(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, Known)


def _lies_in(target: type, packages: tuple[str, ...]) -> bool:
    return any(f"{target.__module__}.".startswith(f"{package}.") for package in packages)


def _source(node: DictConfig, key: str) -> str | None:
    """The path `a.b` of an argument that is given as `${a.b}`; None for one with a value of its own."""
    raw = OmegaConf.to_container(node, resolve=False).get(key)  # type: ignore[union-attr]
    match = NODE.match(raw) if isinstance(raw, str) else None
    return match[1] if match else None


def _explain(key: str, item: Any) -> str:
    """One line for one refused argument: key, value, remedy."""
    if item["type"] == "unexpected_keyword_argument":
        return f"{key}: no such argument; remove it"
    if item["type"] == "missing_keyword_only_argument":
        return f"{key}: missing; give it a value"
    message = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{key}={_short(item['input'])}: {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}…"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def fill_automatic(builder: Builder) -> None:
    """Put numbers in the place of every `auto` that the target determines.

    `sigma_max` is the data diameter (Song & Ermon 2020, Technique 1), `sigma_data` the data's deviation per dimension,
    `sigma_min` the smaller of .01 and a tenth of the target's smallest scale.
    """
    target = builder.build("distribution")
    if isinstance(target, _Broken):
        return
    automatic = {
        "sigma_max": lambda: target.diameter,
        "sigma_min": lambda: min(0.01, target.scale / 10),
        "sigma_data": lambda: target.sigma_data,
    }
    _fill(builder.config, automatic)


def _fill(node: DictConfig, automatic: dict[str, Any]) -> None:
    for key in node:
        raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[call-overload, index]
        if raw == "auto" and key in automatic:
            node[key] = float(f"{automatic[str(key)]():.6g}")
        elif isinstance(raw, dict):
            _fill(node[key], automatic)
