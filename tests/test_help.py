"""What `--help` and `--version` say, of every command."""

import itertools

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from processes import run as script

from ncsn_lightning.config.help import GROUPS, _leaves, arguments, help_text, options, sentence
from ncsn_lightning.config.plain import config_folder
from ncsn_lightning.runs.summary import said_version

COMMANDS = ("train", "sample", "evaluate")
CHOICES = [(group, option) for group in GROUPS for option in options(group) if group not in ("sweep", "callbacks")]


@pytest.mark.parametrize("group", sorted({group for group, _ in CHOICES}))
def test_every_key_of_every_option_has_a_sentence(group):
    chosen = [option for of, option in CHOICES if of == group]
    commands = ["train", "evaluate"] if group == "evaluation" else ["train"]
    for command, option in itertools.product(commands, chosen):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = OmegaConf.to_container(compose(command, [f"{group}={option}"]))
        assert [path for path, _ in _leaves(config) if len(sentence(command, path, config)) < 8] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_key_with_its_default_and_every_group(command):
    text = help_text(command, f"ncsn-{command}", [])
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose(command))
    lines = text.splitlines()
    for path, value in _leaves(config):
        (place,) = [index for index, line in enumerate(lines) if line.startswith(f"  {path}=")]
        assert lines[place + 1].startswith("      "), path
        if isinstance(value, int | str) and not isinstance(value, bool):
            assert lines[place] == f"  {path}={value}"
    for group in ("sampler", "schedule", "score"):
        assert any(line.startswith(f"  {group}=") for line in lines)
    assert f'eval "$(ncsn-{command} -sc install=bash)"' in text
    assert max(map(len, lines)) <= 120


def test_every_folder_of_options_is_a_group_that_is_explained():
    folders = {str(path.parent.relative_to(config_folder())) for path in config_folder().rglob("*.yaml")} - {"."}
    assert {folder for folder in folders if not folder.startswith("hydra")} == set(GROUPS)


def test_an_option_is_shown_with_its_own_keys():
    text = help_text("train", "ncsn-train", ["sampler=heun", "weighting=edm", "optimizer.lr=0.5"])
    assert "  sampler=heun\n" in text
    assert "  sampler.denoise=" in text
    assert "sampler.step_ratio" not in text
    assert "  optimizer.lr=0.5\n" in text


def test_arguments_are_read_as_docstrings_have_them():
    text = (
        "One.\n\nArgs:\n    a, b: both,\n        on two lines.\n    c: see `Other`.\n\nRaises:\n    ValueError: no.\n"
    )
    assert arguments(text) == {"a": "both, on two lines.", "b": "both, on two lines.", "c": "see `Other`."}


@pytest.mark.parametrize("command", [*COMMANDS, "report"])
def test_the_version_is_this_programs(command):
    done = script(command, "--version")
    assert (done.returncode, done.stdout) == (0, f"{said_version()}\n")
    done = script(command, "--help")
    assert done.returncode == 0
    assert "Hydra 1" not in done.stdout


def test_completion_can_be_turned_on():
    done = script("train", "-sc", "install=bash")
    assert done.returncode == 0
    assert "complete" in done.stdout
