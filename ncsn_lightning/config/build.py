"""From a plain configuration to objects: each group is built once and shared, and all wrong values are said at once.

The constructors are the schema. A node `{_target_: class, argument: value, …}` becomes an object of the class, an
argument `${group}` becomes that group's object, and `_partial_: true` gives a function to be called later. This is
Hydra's notation. Hydra's own `instantiate` would stop at the first error, and build a group anew for each of its users.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError
from torch import nn

from ..distributions.base import Distribution
from ..objectives.regression_targets import Objective
from ..samplers.base import Sampler
from .moved import present_name
from .plain import FILES, NODE, Refusal, nearest

MODEL_KINDS = (nn.Module, Sampler, torch.optim.Optimizer)
"""The kinds of class from which a trained network is rebuilt."""

MODEL_TRUSTED = ("ncsn_lightning", "torch.optim")
"""Packages whose classes a trained network may name."""

REFUSALS = (TypeError, ValueError, OSError, AttributeError, RuntimeError)
"""The exceptions by which constructors say that their arguments are wrong."""


def training_kinds() -> tuple[type, ...]:
    """The kinds of class from which a training is rebuilt; a function, so that Lightning is imported only here."""
    import lightning as L
    from lightning.pytorch.loggers import Logger

    return (*MODEL_KINDS, Objective, L.Callback, L.LightningDataModule, Logger)


def _refusals() -> tuple[type[Exception], ...]:
    """`REFUSALS`, and Lightning's own exception if Lightning has been imported."""
    theirs = sys.modules.get("lightning.fabric.utilities.exceptions")
    return (*REFUSALS, theirs.MisconfigurationException) if theirs else REFUSALS


AUTOMATIC: dict[str, Callable[[Distribution], float]] = {
    "sigma_max": lambda target: target.extent,
    "sigma_min": lambda target: target.detail,
    "sigma_data": lambda target: target.sigma_data,
    "blur": lambda target: target.blur,
}
"""What `auto` stands for, by key: the diameter of the data (Song & Ermon 2020, Technique 1); the smaller of a hundredth
of the target's unit and a tenth of its smallest scale; the standard deviation of the data in each dimension (Karras et
al. 2022); and the standard deviation of the noise that the target itself contains. All are in data units."""


class _Broken:
    """Takes the place of an object whose arguments were refused, so that the other objects are still checked."""


_BROKEN = _Broken()


class Builder:
    """Builds the groups of one configuration.

    The node `distribution` gives the target in the coordinates of the data. An argument `${distribution}` gives the
    same target moved so that its mean is 0.

    Args:
        config: a plain configuration.
        trust: packages whose classes the configuration may name; None, for one's own command line, allows all.
        kinds: base classes of which a named class must be one if `trust` is given; by default those of a training.
        given: objects by their path, which take the place of the configuration's.

    Attributes:
        built: the objects by their path.
        refused: a line for each wrong value, in order.
        moved: the present name of each class that is named where it was before, by `path._target_=name`.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        trust: tuple[str, ...] | None = None,
        kinds: tuple[type, ...] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = OmegaConf.create(config)
        self.trust, self.kinds = trust, kinds
        self.built: dict[str, Any] = dict(given or {})
        self.refused: dict[str, None] = {}
        self.moved: dict[str, str] = {}

    def build(self, path: str, kind: type = object) -> Any:
        """The object of the node at `path`, made once.

        Where the object is refused or is no `kind`, a line is noted and a placeholder, which is no `kind`, is returned.
        """
        if path != "distribution" and self._origin(path) == self._origin("distribution"):
            return self.target
        path = self._origin(path)
        if path not in self.built:
            self.built[path] = self._build(path)
        built = self.built[path]
        if not isinstance(built, kind | _Broken):
            remedy = f"write a name in quotes, '{path}=\"{_short(built)}\"'" if kind is str else "choose another option"
            if any(base.__module__.startswith("pytorch_lightning") for base in type(built).__mro__):
                remedy = "import lightning in place of pytorch_lightning, which is another package to it"
            self.refuse(f"{path}={_short(built)}: should be a {kind.__name__}; {remedy}", broken=path)
            return _BROKEN
        return built

    @functools.cached_property
    def target(self) -> Any:
        """The distribution moved so that its mean is 0, as everything inside a run sees it."""
        distribution = self.build("distribution")
        return distribution.centred() if isinstance(distribution, Distribution) else distribution

    def build_members(self, path: str, kind: type) -> list[Any]:
        """The objects of a node that holds several by name, such as `callbacks`; none if there is no such node."""
        members = self.build(path, dict) if self.config.get(path) is not None else {}
        return [self.build(f"{path}.{name}", kind) for name in members] if isinstance(members, dict) else []

    def drop_unnamed(self, path: str, *, given: list[str]) -> list[str]:
        """Remove the arguments that the class of a node does not take, and return their keys.

        The nodes `module` and `data` are written for the package's own classes. So a user's own class may be named
        there without the arguments that only ours take; those that the command line gives stay, and may be refused.

        Args:
            path: of the node.
            given: the overrides of the command line.
        """
        node = self.config.get(path)
        target = (
            self._resolve(node["_target_"], path) if isinstance(node, DictConfig) and "_target_" in node else _BROKEN
        )
        if not isinstance(target, type):
            return []
        constructor: Any = target.__init__  # type: ignore[misc]
        inherited = constructor.__module__.startswith(("lightning.", "pytorch_lightning."))  # then it takes nothing
        takes: Mapping[str, inspect.Parameter] = {} if inherited else inspect.signature(target).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
            return []
        typed = {override.partition("=")[0].lstrip("+") for override in given}
        dropped = [key for key in map(str, node) if not key.startswith("_") and key not in takes]
        dropped = [key for key in dropped if f"{path}.{key}" not in typed]
        for key in dropped:
            del node[key]
        return dropped

    def refuse(self, line: str, *, broken: str | None = None) -> None:
        """Note a line about one wrong value.

        Args:
            line: the key, the value and a remedy.
            broken: the path of an object that counts as refused from now on, wherever it is used.
        """
        self.refused[line] = None
        if broken:
            self.built[broken] = _BROKEN

    def attempt(self, label: str, action: Callable[[], Any]) -> Any:
        """Return what `action` returns; if it raises, note `label` and the message, and return None."""
        try:
            return action()
        except _refusals() as error:
            self.refuse(f"{label}{first_line(error)}")
            return None

    @property
    def lines(self) -> list[str]:
        """A line for each wrong value, and one line for all classes that have moved."""
        if not self.moved:
            return [*self.refused]
        (label, first), *others = self.moved.items()
        more = f"; others have moved too, to {', '.join(dict.fromkeys(now for _, now in others))}" if others else ""
        remedy = "give the new names, or use the version that wrote the old ones"
        return [*self.refused, f"{label}: this class is now {first}{more}; {remedy}"]

    def check(self) -> None:
        """Raise a Refusal with all wrong values, if there are any."""
        if lines := self.lines:
            raise Refusal("\n".join(lines))

    def settled(self) -> dict[str, Any]:
        """The plain configuration with automatic values filled in and absolute paths of files."""
        settled = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(settled, dict)
        for group, key in (name.split(".") for name in FILES):
            if isinstance(name := settled.get(group, {}).get(key), str):
                settled[group][key] = os.path.abspath(os.path.expanduser(name))
        return {str(key): value for key, value in settled.items()}

    def _origin(self, path: str) -> str:
        """The path at which a value is written, after following all references `${…}`: the key a user would change."""
        *parents, key = re.split(r"[.\[]", path.replace("]", ""))
        try:
            node = OmegaConf.select(self.config, ".".join(parents)) if parents else self.config
            values: Any = OmegaConf.to_container(node, resolve=False)
            raw = values[int(key) if isinstance(values, list) else key]
        except (OmegaConfBaseException, LookupError, ValueError):  # there is no such node, which `_build` will refuse
            return path
        found = NODE.match(raw) if isinstance(raw, str) else None
        return self._origin(found[1]) if found else path

    def _build(self, path: str) -> Any:
        """Build the node at a path, its parts first; `_BROKEN` if anything in it is refused."""
        try:
            node = OmegaConf.select(self.config, path, default=_BROKEN, throw_on_missing=True)
        except MissingMandatoryValue:
            self.refuse(f"{path}: missing; give {path}=…")
            return _BROKEN
        except OmegaConfBaseException as error:
            self.refuse(f"{path}: {first_line(error)}")
            return _BROKEN
        if node is _BROKEN:
            self.refuse(f"{path}: missing, yet needed; leave it in")
        if isinstance(node, DictConfig) and not all(isinstance(key, str) for key in node):
            return OmegaConf.to_container(node, resolve=True)
        if isinstance(node, DictConfig):
            arguments = {key: self.build(f"{path}.{key}") for key in map(str, node)}
            return self._call(arguments, path) if "_target_" in arguments else arguments
        if OmegaConf.is_list(node):
            return [self.build(f"{path}[{index}]") for index in range(len(node))]
        return node

    def _call(self, arguments: dict[str, Any], path: str) -> Any:
        """Call the class that `_target_` names with the other arguments; note what the constructor refuses.

        A constructor is also called with broken arguments, so that it refuses the others; its refusal of a broken one
        is left out.
        """
        target = self._resolve(arguments.pop("_target_"), path)
        partial = arguments.pop("_partial_", False)
        if target is _BROKEN or self._unknown_arguments(target, arguments, path):
            return _BROKEN
        if partial:
            return self._partial(target, arguments, path)
        broken = {key for key, value in arguments.items() if _is_broken(value)}
        try:
            built = target(**arguments)
            return _BROKEN if broken else built
        except ValidationError as error:
            for argument, items in _by_argument(error).items():
                if argument.partition("[")[0] not in broken:
                    self.refuse(_explain(self._origin(f"{path}.{argument}"), items))
        except _refusals() as error:
            if not broken:
                self.refuse(self._relabel(first_line(error), arguments, path))
        return _BROKEN

    def _unknown_arguments(self, target: Any, arguments: dict[str, Any], path: str) -> bool:
        try:
            known = inspect.signature(target).parameters
        except (TypeError, ValueError):  # some callables have no signature
            return False
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            return False
        unknown = arguments.keys() - known.keys()
        for key in sorted(unknown):
            self.refuse(f"{path}.{key}={_short(arguments[key])}: no such argument; {nearest(key, list(known))}")
        return bool(unknown)

    def _partial(self, target: Any, arguments: dict[str, Any], path: str) -> Any:
        """A function to be called later; an argument whose default is a number must be a number too."""
        defaults = {key: parameter.default for key, parameter in inspect.signature(target).parameters.items()}
        wishes = {key: _wish(defaults.get(key), value) for key, value in arguments.items()}
        for key in (wrong := [key for key, wish in wishes.items() if wish]):
            self.refuse(f"{self._origin(f'{path}.{key}')}={_short(arguments[key])}: {wishes[key]}")
        return _BROKEN if wrong or _is_broken(arguments) else functools.partial(target, **arguments)

    def _relabel(self, message: str, arguments: dict[str, Any], path: str) -> str:
        """A constructor's message, which may begin with `argument=`, with the command line's key in its place."""
        argument, equals, rest = message.partition("=")
        known = equals and argument in arguments
        return f"{self._origin(f'{path}.{argument}')}={rest}" if known else f"{path}: {message}"

    def _resolve(self, name: Any, path: str) -> Any:
        """The class that a node names, or `_BROKEN`; nothing outside the trusted packages is even imported."""
        label = f"{path}._target_={name}"
        if self.trust is not None and not _lies_in(str(name), self.trust):
            package = str(name).partition(".")[0]
            self.refuse(
                f"{label}: outside {', '.join(self.trust)}, not loaded; trust={package} if you trust its author"
            )
            return _BROKEN
        try:
            target = pkgutil.resolve_name(str(name))
        except (AttributeError, ImportError, ValueError, TypeError) as error:
            if now := present_name(str(name)):
                self.moved[label] = now
            else:
                self.refuse(f"{label}: {first_line(error)}; {_remedy(str(name), error)}")
            return _BROKEN
        if self.trust is not None and not (
            isinstance(target, type)
            and issubclass(target, self.kinds or training_kinds())
            and _lies_in(target.__module__, self.trust)
        ):
            self.refuse(f"{label}: no class that may be named here, and not called; use a run of your own")
            return _BROKEN
        return target


def _remedy(name: str, error: Exception) -> str:
    """What to write for a name that cannot be resolved: the most similar class of the module, if there is a module."""
    if not isinstance(error, AttributeError) or not name.endswith(f".{error.name}"):
        return "give module.Class"
    return nearest(str(error.name), [word for word, _ in inspect.getmembers(error.obj, inspect.isclass)])


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _is_broken(value: Any) -> bool:
    """Whether an argument is broken or contains a broken one."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is _BROKEN or any(map(_is_broken, parts))


def _wish(default: Any, value: Any) -> str:
    """What a value should be, judged by the default in whose place it comes; empty where it is that."""
    if _is_broken(value):
        return ""
    if _is_number(default):
        return "" if _is_number(value) else "should be a finite number"
    if isinstance(default, tuple) and all(map(_is_number, default)):
        fits = isinstance(value, list | tuple) and len(value) == len(default) and all(map(_is_number, value))
        return "" if fits else f"give {len(default)} numbers, such as {list(default)}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _by_argument(error: ValidationError) -> dict[str, list[Any]]:
    """The refused items by argument, `name` or `name[index]`; an argument of a union type has one for each member."""
    items: dict[str, list[Any]] = {}
    for item in error.errors():
        name, *inside = item["loc"]
        label = f"{name}{''.join(f'[{part}]' for part in inside if isinstance(part, int))}"
        items.setdefault(label, []).append(item)
    return items


def _explain(key: str, items: list[Any]) -> str:
    """One line for one refused argument: key, value, remedy."""
    if items[0]["type"] == "missing_keyword_only_argument":
        return f"{key}: missing; give {key}=…"
    wishes = [item["msg"].removeprefix("Input ").removeprefix("Value error, ") for item in items]
    if key.rpartition(".")[2] in AUTOMATIC:
        wishes.append("auto")
    return f"{key}={_short(items[0]['input'])}: {' or '.join(wishes)}"


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | float | int | list | None) else type(value).__name__
    return text if len(text) < 60 else f"{text[:57]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def fill_automatic(builder: Builder) -> None:
    """Replace every `auto` that the target determines by its number."""
    known = isinstance(builder.build("distribution", Distribution), Distribution)
    _fill(builder, builder.config, "", builder.target if known else None)


def _fill(builder: Builder, node: DictConfig, path: str, target: Distribution | None) -> None:
    values: Any = OmegaConf.to_container(node, resolve=False)
    for key, raw in values.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(raw, dict):
            _fill(builder, node[key], here, target)
        elif raw == "auto" and key in AUTOMATIC:
            if target is None:
                builder.built[here] = _BROKEN
            else:
                node[key] = float(f"{AUTOMATIC[key](target):.6g}")
