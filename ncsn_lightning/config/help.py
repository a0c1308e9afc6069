"""What `--help` prints: a sentence for every group, every key and every default of a command.

The sentences are collected from where the things themselves are defined: an option's is the first sentence of its
class, a key's is the description of the argument in the class's docstring or the comment beside the key in `conf/`.
Sources are read and not imported, so that help answers at once. Groups, and keys of other packages' classes, have no
such place and are described here.
"""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from .plain import NODE, config_folder

GROUPS = {
    "callbacks": "what measures, draws, saves and watches while a network trains",
    "distribution": "the target: what the data follow, with its exact density and score at every noise level",
    "evaluation": "what is measured of the samples and of the score at the end of a training",
    "experiment": "settings that belong together, each file with its question as the first comment",
    "levels": "the density from which training draws its noise levels σ",
    "logger": "where the numbers and pictures of a training go, besides metrics.csv",
    "network": "the layers of the network",
    "network/embedding": "how the noise level is given to the network",
    "objective": "what the score is fitted to at noisy points",
    "optimizer": "the optimiser that changes the weights",
    "paths": "where everything is written",
    "sampler": "how samples walk from the prior to the data",
    "schedule": "the ladder of noise levels down which a sampler walks",
    "score": "the parametrisation: how a score is made of the network's output",
    "sweep": "values to be swept over with -m, from a file",
    "trainer": "Lightning's trainer, and the kind of machine that it uses",
    "weighting": "λ(σ), how much the loss at each noise level counts",
}
"""What each group of options chooses."""

KEYS = {
    "evaluation.samples.metrics.sliced_wasserstein2.num_angles": "how many directions points are projected on",
    "evaluation.samples.metrics.coverage_gap.neighbours": "a draw is covered by a sample nearer than its k-th draw",
    "evaluation.likelihood.seed": "the seed of the draws of the target whose likelihood is measured",
    "evaluation.likelihood.solver.steps": "steps of the Runge-Kutta rule from the data to the prior; at least 8",
    "evaluation.split.num_levels": "the number of levels at which the error is split into its parts",
    "evaluation.split.resolution": "the most cells along the longer side of the grid on which the error is split",
    "distribution.angle": "an angle in radians: how far a curve turns, or at what angle branches part",
    "distribution.arms": "how many arms the pinwheel has",
    "distribution.cell_size": "the side of a cell, in data units",
    "distribution.modes": "how many modes there are",
    "distribution.noise": "the standard deviation of the noise about the curve, before zooming",
    "distribution.offset": "the coordinate of each mode's mean along either axis, up to its sign, in data units",
    "distribution.radial_std": "the standard deviation along an arm, before zooming",
    "distribution.radius": "the radius of the circle on which the modes lie, in data units",
    "distribution.rings": "how many rings there are",
    "distribution.start": "the angle at which the curve begins, in radians",
    "distribution.stop": "the angle at which the curve ends, in radians",
    "distribution.tangential_std": "the standard deviation across an arm, before zooming",
    "levels.tilt": "τ: training draws ln σ with a density that falls as σ to the power −τ",
    "num_seeds": "how many walks are taken, each with its own seed, for the standard errors",
    "sampler.predictor": "the sampler that steps from each level to the next, before the corrector",
    "sampler.signal_to_noise": "r, the ratio of drift to noise in a corrector's step",
    "sampler.steps_per_level": "steps of the dynamics at each noise level",
    "callbacks.figures.num_samples": "how many samples are drawn for pictures and metrics",
    "trainer.accelerator": "the kind of device, as Lightning calls it",
    "trainer.devices": "how many devices train together on one global batch",
    "trainer.strategy": "how several devices share the work, as Lightning calls it",
    "trainer.max_steps": "the number of optimiser steps of the training",
    "trainer.log_every_n_steps": "optimiser steps between two logged values of the training loss",
    "trainer.precision": "the precision of the numbers in the network, as Lightning calls it",
    "paths.root": "the folder of all runs and sweeps",
    "paths.folder": "the folder of this run; hydra.run.dir= chooses it",
    "project": "the project in W&B, the experiment in MLflow",
    "name": "what loggers call this run",
    "group": "the group of the jobs of a sweep in W&B; null for the sweep's name",
    "tags": "words by which the run is found in W&B",
    "seed": "the seed of all random numbers; the same seed gives the same run",
    "compile": "whether forward, backward and the optimiser's step are compiled as one function",
    "optimizer.lr": "the learning rate, after the warm-up and before the decay",
    "optimizer.betas": "decay rates of Adam's running means of the gradient and of its square",
    "optimizer.weight_decay": "the share of the weights that each step takes away, times the learning rate",
    "optimizer.momentum": "the share of the last step that the next one keeps",
    "optimizer.fused": "whether torch's one fused kernel makes the step",
    "dirpath": "where checkpoints go",
    "filename": "the name of the checkpoint's file, without .ckpt",
    "monitor": "the metric whose best value is kept",
    "enable_version_counter": "whether a second checkpoint of one name gets a number",
    "save_dir": "where the logger writes",
    "experiment_name": "the name under which MLflow files the run",
    "run_name": "what MLflow calls the run",
    "artifact_location": "where MLflow keeps pictures",
    "tracking_uri": "where MLflow keeps numbers",
    "logger.tensorboard.name": "the name of the folder in save_dir",
    "logger.tensorboard.version": "the name of the folder inside that one",
    "score_test": "the points at which the score is tested, the same for every job on a target",
    "evaluation.samples.metrics": "the metrics of the samples by their names; ~ before a key leaves its metric out",
    "run": "the run's folder, or one of its checkpoints",
    "n": "how many samples, or chains of a walk, are drawn",
    "out": "the file that the answer goes to; pictures go beside it",
    "sigma_min": "the lowest noise level, in data units; auto follows from the target's smallest scale",
    "sigma_max": "the highest noise level, in data units; auto is the target's diameter",
    "num_levels": "how many noise levels there are",
    "schedule.sigma": "the one noise level, in data units",
    "sigma_data": "the data's standard deviation in each dimension; auto is the target's",
    "p_mean": "the mean of ln σ, from the logarithm of sigma_data",
    "p_std": "the standard deviation of ln σ",
    "beta_min": "β of the chain's first step",
    "beta_max": "β of the chain's last step",
    "num_steps": "the number of steps of the chain, of which the ladder keeps num_levels",
    "offset": "s in the formula of the cosine, which keeps the first steps from being too small",
    "rho": "ρ: the levels are evenly spaced in the ρ-th root of σ",
    "power": "the exponent of σ in λ(σ)",
    "gamma": "γ, the ratio of signal to noise above which levels count less",
    "bandwidth": "the standard deviation of the random frequencies of ln σ",
    "dim": "how many numbers tell the network the noise level",
    "job_type": "the word by which W&B tells trainings from reports",
    "trainer.num_nodes": "how many machines train together",
}
"""Sentences for keys that no docstring and no comment explains; a key of one word is meant wherever it stands."""

LAST = """-m sweeps over key=1,2,3; --cfg job prints the configuration, --version this program's version.
`eval "$({program} -sc install=bash)"` turns completion by Tab on (bash, zsh, fish)."""


class Docs(NamedTuple):
    """What a class's docstring says of the class and of its arguments, and the names of its base classes."""

    sentence: str
    arguments: dict[str, str]
    bases: list[str]


def help_text(command: str, program: str, overrides: list[str]) -> str:
    """What `--help` prints: every group with its options, every key with its default, each with its sentence.

    Args:
        command: the name of its configuration, `train`.
        program: as the user calls it.
        overrides: of the command line; the keys of the options that they choose are shown.
    """
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose(command, overrides, return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    header = str(OmegaConf.to_container(config.hydra.help, resolve=False)["header"]).rstrip()  # type: ignore[index,call-overload]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    assert isinstance(choices, dict)
    assert isinstance(plain, dict)
    used = {str(group): choice for group, choice in choices.items() if str(group) in GROUPS}
    groups = [line for group in sorted(used) for line in _group_lines(group, used[group], plain)]
    keys = [line for path, value in _leaves(plain) for line in _entry(path, value, sentence(command, path, plain))]
    body = ["Groups, group=option:", *groups, "", "Keys, key=value, with their defaults:", *keys]
    return "\n".join([header, "", *body, "", LAST.format(program=program)])


def sentence(command: str, path: str, config: dict[Any, Any]) -> str:
    """What a key means; empty where no text explains it.

    Args:
        command: the name of its configuration, `train`.
        path: the dotted key.
        config: the plain configuration that holds the key.
    """
    *parents, name = path.split(".")
    node: Any = config
    for parent in parents:
        node = node[parent]
    value = node[name] if isinstance(node, dict) else None
    if path in KEYS:
        return KEYS[path]
    target = str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""
    if said := _comments(command).get(path) or _argument(target, name):
        return said.rstrip(".").replace("None", "null")
    if isinstance(value, str) and (found := NODE.match(value)):
        return f"that of {found[1]}"
    return KEYS.get(name, "")


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _group_lines(group: str, choice: Any, config: dict[Any, Any]) -> Iterator[str]:
    """The lines about a group: its chosen option, what the group and the option are, and all options."""
    node: Any = config
    for part in group.split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    target = str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""
    chosen = _first(_classes()[target].sentence) if target in _classes() else ""
    said = f"{GROUPS[group]}. {choice}: {chosen}" if chosen else GROUPS[group]
    yield from _entry(group, choice, said)
    yield from _folded(f"one of {', '.join(options(group))}")


def _entry(path: str, value: Any, said: str) -> Iterator[str]:
    """A key and its default, and below it its sentence."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    yield f"  {path}={shown}"
    yield from _folded(said)


def _folded(text: str) -> list[str]:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a configuration and their values."""
    for key, value in node.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        elif not str(key).startswith("_"):
            yield here, value


@cache
def _comments(command: str) -> dict[str, str]:
    """The comments behind the keys in the file of a command, by dotted key."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in (config_folder() / f"{command}.yaml").read_text(encoding="utf-8").splitlines():
        if not (match := re.match(r"^( *)([\w.]+):(.*)$", line)):
            continue
        depth = len(match[1]) // 2
        parents = [*parents[:depth], match[2]]
        if comment := re.search(r"  # (.+)$", match[3]):
            found[".".join(parents)] = comment[1]
    return found


@cache
def _classes() -> dict[str, Docs]:
    """The docstrings of all classes of this package by the classes' names, read from its sources."""
    found = {}
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                text = ast.get_docstring(node) or ""
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                found[node.name] = Docs(_paragraph(text), arguments(text), bases)
    return found


def arguments(text: str) -> dict[str, str]:
    """The description of each argument in a docstring: `a, b: text` under `Args:`, its further lines indented."""
    block = re.search(r"^(?:Args|Arguments):\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(block[1]).splitlines() if block else ():
        if head := re.match(r"^([\w, ]+): (.*)$", line):
            names = [name.strip() for name in head[1].split(",")]
            found |= dict.fromkeys(names, head[2].strip())
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _argument(name: str, argument: str) -> str:
    """What a class, or one of its bases, says of an argument; empty where none says anything."""
    docs = _classes().get(name)
    if docs is None:
        return ""
    said = docs.arguments.get(argument, "")
    if see := re.match(r"^see `(\w+)`", said):
        return _argument(see[1], argument)
    return said or next((found for base in docs.bases if (found := _argument(base, argument))), "")


def _paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _first(text: str) -> str:
    """The first sentence of a text, without the dollar signs of formulas."""
    return re.split(r"(?<=\.)\s|:\s|:$", text)[0].replace("$", "").rstrip(".")
