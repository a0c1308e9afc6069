"""Wrong overrides of a command line: unknown groups, options and keys, each with the nearest one that exists.

Hydra stops at the first of them and explains itself in several lines. So when Hydra has refused a command line, the
functions here find all of its wrong overrides and write one line for each.
"""

from __future__ import annotations

import os
import re
import shlex
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from .messages import one_line
from .plain import Refusal, config_folder, nearest

LAUNCHERS = {
    "joblib": ("joblib", "joblib"),
    "slurm": ("submitit", "slurm"),
    "submitit_slurm": ("submitit", "slurm"),
    "submitit_local": ("submitit", "slurm"),
    "ray": ("ray", "ray"),
}
"""Hydra's launchers, each with the plugin that it needs and the extra of this package that installs the plugin."""

WITH_VALUE = {
    "--config-dir": "-cd",
    "--config-path": "-cp",
    "--config-name": "-cn",
    "--cfg": "-c",
    "--package": "-p",
    "--experimental-rerun": "",
}
ALONE = {
    "--multirun": "-m",
    "--run": "-r",
    "--resolve": "",
    "--help": "-h",
    "--hydra-help": "",
    "--version": "",
    "--shell-completion": "-sc",
    "--info": "-i",
}
"""Hydra's own options and their short names: those that a value belongs to, and the others."""

SWEEPING = ("-m", "--m", "hydra.mode=M")
"""Beginnings of the arguments that ask for a sweep."""


def check_launcher(arguments: list[str]) -> None:
    """Raise Refusal for a launcher whose plugin is not installed."""
    for argument in arguments:
        key, _, name = argument.partition("=")
        plugin, extra = LAUNCHERS.get(name, ("", ""))
        if key == "hydra/launcher" and plugin and not find_spec(f"hydra_plugins.hydra_{plugin}_launcher"):
            raise Refusal(f"{argument}: needs a plugin; install it with: pip install 'ncsn-lightning[{extra}]'")


def expand_home(argument: str) -> str:
    """Replace a `~` that begins a value by the home folder, as a shell does not do inside `key=~/folder`.

    Hydra refuses a `~` that is not quoted. The path is quoted, since a folder's name may hold characters that Hydra
    reads otherwise.
    """
    if '"' in argument or "'" in argument or "=" not in argument:
        return argument

    def home(found: re.Match[str]) -> str:
        path = os.path.expanduser(found[0])
        return path if argument.startswith("-") or path == found[0] else _quoted(path)

    opening = r"(?<==)~[^,]*$|(?<=[=,\[(])~[^,\[\]()]*"  # one value, or one of several
    return re.sub(opening, home, argument)


def check_choices(command: str, arguments: list[str]) -> None:
    """Raise Refusal for a list of options where one makes the object: Hydra would mix them into something else."""
    for argument in arguments:
        group, _, value = argument.partition("=")
        options = config_folder().joinpath(group).glob("*.yaml") if re.fullmatch(r"\[.*,.*\]", value) else ()
        if any(re.search("^_target_:", path.read_text(), re.M) for path in options):
            sweep = f", or, to sweep over them, -m {group}={value[1:-1].replace(' ', '')}"
            raise Refusal(f"{argument}: takes one option; give one{sweep if command == 'train' else ''}")


def options_first(arguments: list[str]) -> list[str]:
    """The arguments with Hydra's own options before all overrides, for its parser takes them in no other order.

    Raises:
        Refusal: an option is none, or lacks the value that belongs to it.
    """
    options: list[str] = []
    overrides: list[str] = []
    left = iter(arguments)
    for argument in left:
        (options if argument.startswith("-") else overrides).append(argument)
        given, equals, value = argument.partition("=")
        if not argument.startswith("-") or (name := _option(given)) not in WITH_VALUE:
            continue
        if not equals:
            options.append(value := next(left, ""))
        if not value:
            raise Refusal(f"{given}: lacks its value; give {name}=…")
        if name == "--config-dir" and not os.path.isdir(value):
            raise Refusal(f"{given}={value}: no such folder; give one with options of your own")
        if name == "--cfg" and value not in ("job", "hydra", "all"):
            raise Refusal(f"{given}={value}: choose one of job, hydra, all")
    return [*options, *overrides]


def _option(given: str) -> str:
    """The long name of an option of Hydra's, which may be abbreviated."""
    known = {**WITH_VALUE, **ALONE}
    found = [name for name, short in known.items() if given in (name, short)]
    found = found or [name for name in known if given.startswith("--") and name.startswith(given)]
    if not found:
        raise Refusal(f"{given}: no such option; {nearest(given, list(known))}")
    return found[0]


def as_text(value: str) -> str:
    """A value without its quotes, read as Hydra reads it; a value without quotes stays as it is."""
    try:
        return str(OverridesParser.create().parse_override(f"x={value}").value()) if value[:1] in ("'", '"') else value
    except HydraException:
        return value


def check_no_sweep(command: str, arguments: list[str]) -> None:
    """Raise Refusal for a sweep of a command other than `train`, which writes one answer into one file."""
    if command != "train" and (flags := [argument for argument in arguments if argument.startswith(SWEEPING)]):
        raise Refusal(f"{flags[0]}: ncsn-{command} sweeps over nothing; {_call_for_each(command)}")


def refused_overrides(command: str, arguments: list[str]) -> list[str]:
    """A line for each wrong override of a command line that Hydra has refused.

    Args:
        command: `train`, `sample` or `evaluate`.
        arguments: of the command line.

    Returns:
        No lines where none of the overrides is wrong, or where the configuration is in a folder of the user's own.
    """
    if any(argument.startswith(("--config", "-c")) for argument in arguments):
        return []  # the options in the user's own folder are not known here, so that Hydra's message is shown
    multirun = any(argument.startswith(SWEEPING) for argument in arguments)
    parsed, lines = _parsed(arguments, multirun=multirun)
    if lines:
        return list(lines)
    nameless = [override for override in parsed if _is_group(override) and not isinstance(override.value(), str)]
    lines |= dict.fromkeys(f"{o.input_line}: an option is a name; for none write ~{o.key_or_group}" for o in nameless)
    for override in (override for override in parsed if override.is_sweep_override()):
        if line := no_values(override) or ("" if multirun else _several(command, override)):
            lines[line] = None
    choices = [_choices(override) for override in parsed if override not in nameless]
    for job in range(max(map(len, choices), default=0)):  # every choice of a sweep is seen once, not every combination
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            overrides = [choice[min(job, len(choice) - 1)] for choice in choices if choice]
            lines |= dict.fromkeys(_refused(command, overrides))
    return list(lines)


def _parsed(arguments: list[str], *, multirun: bool) -> tuple[list[Override], dict[str, None]]:
    """The overrides among the arguments as Hydra reads them, and a line for each that Hydra cannot read."""
    parsed: list[Override] = []
    lines: dict[str, None] = {}
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for argument in arguments:
            try:
                parsed += [] if argument.startswith(("-", "=")) else parser.parse_overrides([argument])
                is_read = not argument.startswith("=")
            except OverrideParseException:
                is_read = False
            if not is_read:
                lines[_not_understood(argument, multirun=multirun)] = None
    return parsed, lines


def refused_settings(error: Exception, arguments: list[str]) -> str:
    """A line about settings of Hydra's own with which it could not begin; empty where there are none."""
    settings = [argument for argument in arguments if re.match(r"[+~]*hydra[./](?!(run|sweep)\.dir=)", argument)]
    working = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not settings or any(name.startswith(("ncsn_lightning.sweeps", "ncsn_lightning.runs")) for name in working):
        return ""
    return (
        f"{' '.join(settings)}: Hydra cannot begin with this ({one_line(error)}); give another value, or leave it out"
    )


def no_values(override: Override) -> str:
    """A line about a sweep that has no value; empty for every other override."""
    if not override.is_discrete_sweep():
        return ""
    try:
        if any(True for _ in override.sweep_iterator()):
            return ""
    except ValueError as error:  # a range's step may be 0
        return f"{override.input_line}: no list of values ({error}); give a range such as range(0,3)"
    if not isinstance(override.value(), Glob):
        return f"{override.input_line}: holds no value; give a range that does, such as range(0,3)"
    options = override.config_loader.get_group_options(override.key_or_group) if override.config_loader else []
    remedy = f"choose of {', '.join(options)}" if options else "a glob is for groups; give values by commas"
    return f"{override.input_line}: matches no option; {remedy}"


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _call_for_each(command: str) -> str:
    """The remedy for several values given to a command that takes one."""
    return "call it once for each value" + (", with an out=… of its own" if command == "sample" else "")


def _several(command: str, override: Override) -> str:
    """A line about several values where there is no sweep."""
    line, value = str(override.input_line), override.value()
    remedy = "add -m to sweep over them" if command == "train" else _call_for_each(command)
    may_be_one = isinstance(value, ChoiceSweep) and value.simple_form and not (config_folder() / _key(line)).is_dir()
    texts = [item for item in value.list if isinstance(item, str | QuotedString)] if may_be_one else []  # type: ignore[union-attr]
    whole = _remedy(line, multirun=False) if texts else ""
    return f"{line}: several values; {remedy}" + (f", or {whole} for one value with a comma" if whole else "")


def _not_understood(argument: str, *, multirun: bool) -> str:
    """A line about an argument that Hydra cannot read, which says how to quote its value where that helps."""
    if re.search(r"=(choice|range|interval|glob|shuffle|sort|tag)\(\s*\)$", argument):
        return f"{argument}: holds no value; give one at least"
    if re.search(r"=,|,,|,$", argument):
        return f"{argument}: a value is missing beside a comma; leave the comma out"
    if re.search(r"=\W*[\[{]", argument) and any(argument.count(a) != argument.count(b) for a, b in ("[]", "{}")):
        return f"{argument}: not understood; close its brackets"
    if not argument.startswith("=") and (remedy := _remedy(argument, multirun=multirun)):
        return f"{argument}: not understood; for the value as it stands write {remedy}"
    return f"{argument}: not understood; write key=value, and quote what the shell would take apart"


def _remedy(argument: str, *, multirun: bool) -> str:
    """The argument as one writes it in a shell, its value quoted for Hydra; empty where Hydra cannot read the key."""
    key, equals, value = argument.partition("=")
    quoted = f"{key}=" + ",".join(map(_quoted, value.split(",") if multirun else [value]))
    try:
        OverridesParser.create().parse_override(quoted)
    except HydraException:
        return ""
    return shlex.quote(quoted) if equals else ""


def _is_group(override: Override) -> bool:
    """Whether an override chooses one option of a group."""
    return (config_folder() / override.key_or_group).is_dir() and not (
        override.is_sweep_override() or override.is_delete() or isinstance(override.value(), dict)
    )


def _choices(override: Override) -> list[str]:
    """The overrides that a sweep makes of one, of an interval its two ends; an override without a sweep is kept."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if isinstance(interval := override.value(), IntervalSweep):
        return [f"{override.get_key_element()}={end}" for end in (interval.start, interval.end)]
    return (
        [] if no_values(override) else [f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()]
    )


def _refused(command: str, overrides: list[str]) -> Iterator[str]:
    """A line for each override that Hydra refuses: it is left out, and Hydra asked again, until Hydra refuses none."""
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
            elif str(error).startswith("Error merging"):
                yield f"{wrong[0]}: {str(error.__cause__ or error).splitlines()[0]}; give another value"
            elif "Could not append" in str(error):
                yield f"{wrong[0]}: there already; leave out the +"
            else:
                unknown.extend(wrong)
            overrides = [override for override in overrides if override not in wrong]
    keys = _keys(OmegaConf.to_container(config, resolve=False))
    for override in unknown:
        yield from _unknown(override, keys)


def _unknown(override: str, keys: list[str]) -> Iterator[str]:
    """Lines about an override of which the key, or a key inside the value, does not exist."""
    key, value = _key(override), OverridesParser.create().parse_override(override).value()
    if isinstance(value, dict) and key in keys:
        for inside in (f"{key}.{path}" for path in _paths(value)):
            if inside not in keys:
                yield f"{override}: no such key {inside}; {_nearest(inside, keys)}"
        return
    group, options = key.partition(".")[0], ", ".join(_options_with(key))
    if options and not any(path.startswith(f"{group}.") for path in keys):
        yield f"{override}: no {group} is chosen here; say {group}=… too, one of {options}"
    else:
        added = f"; an option of Lightning's Trainer is added by +{override}" if group == "trainer" else ""
        has_it = f"; {group}={options} has it" if options else ""
        yield f"{override}: no such key; {_nearest(key, keys)}{has_it}{added}"


def _options_with(key: str) -> list[str]:
    """The options of the key's group that have this key."""
    group, _, name = key.partition(".")
    folder = config_folder() / group
    if not name or not folder.is_dir():
        return []
    found = {path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False) for path in folder.glob("*.yaml")}
    return sorted(option for option, content in found.items() if name in _paths(content))


def _blamed(error: Exception) -> str | None:
    """The key or group that Hydra's message is about; None where it names none."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return error.missing_cfg_file.rpartition("/")[0]
    found = re.search(r"(?:Could not (?:override|delete|append)[^']*'|Error merging override )([^'=]+)", str(error))
    return found[1] if found else None


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(override: str) -> str:
    return override.partition("=")[2]


def _nearest(key: str, keys: list[str]) -> str:
    """A remedy with the nearest key: one with the same last word, else the most similar neighbour, else of all keys."""
    if "." not in key and (same := [path for path in keys if path.rpartition(".")[2] == key]):
        return f"did you mean {same[0]}?"
    parent, dot, word = key.rpartition(".")
    neighbours = [path.removeprefix(parent + dot) for path in keys if path.rpartition(".")[0] == parent]
    if dot and neighbours:
        return nearest(word, neighbours, prefix=parent + dot)
    keys = [path for path in keys if path.startswith("hydra.") == key.startswith(("hydra.", "hydra/"))]
    return nearest(key, keys, otherwise=[path for path in keys if path.count(".") == key.startswith("hydra")])


def _keys(config: Any) -> list[str]:
    """The groups and dotted keys that a command line may name, Hydra's own last."""
    hydra = config.pop("hydra")
    groups = hydra.pop("runtime")["choices"]
    every = dict.fromkeys([*groups, *_paths(config), *_paths(hydra, "hydra")])
    return [path for path in every if not path.startswith("hydra/") and not path.endswith("_")]


def _paths(node: Any, path: str = "") -> Iterator[str]:
    """The dotted keys of a configuration, groups and their keys alike."""
    for key, value in node.items() if isinstance(node, dict) else ():
        here = f"{path}.{key}".lstrip(".")
        yield here
        yield from _paths(value, here)
