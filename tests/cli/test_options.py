"""One spelling for one thing, in every command."""

import click
import pytest

from rsquant.cli import COMMANDS, group, main


def found(name):
    """A command; of a group, the one that runs where none is named."""
    command = group.get_command(click.Context(group), name)
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), "networks")
    return command


def options(name):
    command = found(name)
    return {p.name: p for p in command.params if isinstance(p, click.Option)}


def parsed(name, *arguments):
    command = found(name)
    return command.make_context(name, list(arguments)).params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_writes_json(name):
    assert options(name)["json_file"].opts == ["--json"]


@pytest.mark.parametrize("name", ["train", "eval", "export", "bench"])
def test_sizes_are_given_as_a_list_or_one_by_one(name):
    expected = (96, 80, 64)
    for arguments in (
        ["--resolutions", "96,80,64"],
        ["--resolution", "96", "--resolution", "80", "--resolution", "64"],
        ["--resolution", "96,80", "--resolutions", "64"],
    ):
        assert parsed(name, *arguments)["resolutions"] == expected
    assert parsed(name)["resolutions"] is None
    with pytest.raises(click.BadParameter, match="must be sizes in pixels like 96,80,64, got '9x'"):
        parsed(name, "--resolution", "96", "--resolution", "9x")
    with pytest.raises(click.BadParameter, match="must be at most 4096"):
        parsed(name, "--resolution", "99999")


@pytest.mark.parametrize(
    "name,parameter", [("eval", "images"), ("export", "count"), ("pack", "count")]
)
def test_images_is_how_many(name, parameter):
    assert parsed(name, "--images", "12")[parameter] == 12


def test_the_old_spelling_of_images_works_and_is_not_shown(capsys):
    assert parsed("eval", "--val-images", "12")["images"] == 12
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = capsys.readouterr().out
    assert "--images INTEGER" in shown and "--val-images" not in shown


def test_a_quantizer_registered_before_is_a_choice(monkeypatch):
    from rsquant.quantizers import registry

    with pytest.raises(click.BadParameter, match="'mine' is not one of 'lq'"):
        parsed("train", "--quantizer", "mine")
    monkeypatch.setitem(registry._KINDS, "mine", registry.kind("lq"))
    assert parsed("train", "--quantizer", "mine")["quantizer"] == "mine"


@pytest.mark.parametrize(
    "name,option",
    [
        ("train", "--grid"),
        ("train", "--block"),
        ("train", "--stem"),
        ("train", "--quantizer"),
        ("train", "--crop"),
        ("train", "--decay"),
        ("train", "--schedule"),
        ("train", "--distillation"),
        ("train", "--basis-updates"),
        ("eval", "--checkpoint"),
        ("export", "--checkpoint"),
        ("export", "--form"),
        ("pack", "--checkpoint"),
        ("pack", "--grid"),
    ],
)
def test_a_name_that_is_none_of_the_choices_is_refused_with_them(name, option):
    with pytest.raises(click.BadParameter, match=r"'nonsense' is not one of '"):
        parsed(name, option, "nonsense")


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--cascade", "--batch", "64"], "--batch: changes nothing with --cascade"),
        (["--cascade", "0.5", "--device", "cpu"], "--device: changes nothing with --cascade"),
        (["--cascade", "--workers", "0"], "--workers: changes nothing with --cascade"),
        (["--cascade", "--bits", "2/2"], "--bits: changes nothing with --cascade"),
        (["--cascade", "--checkpoint", "last"], "--checkpoint: changes nothing with --cascade"),
        (["--cascade", "--by-class"], "--by-class: changes nothing with --cascade"),
        (["--plot", "a.png"], "--plot: draws a --cascade"),
        (["--threads", "2"], "--threads: is of a packed file"),
    ],
)
def test_an_option_of_eval_that_would_change_nothing_is_refused(arguments, line, capsys):
    with pytest.raises(SystemExit) as end:
        main(["eval", *arguments])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"error: {line}") and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval"],
        ["info"],
        ["study", "x.yaml", "--list"],
        ["bench", "networks"],
        ["bench", "kernels"],
        ["predict", __file__],
    ],
)
def test_files_are_replaced_only_where_some_are_written(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--exist-ok"])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: --exist-ok: replaces files, and none is written; leave it out")


def test_no_peer_is_not_combined_with_peers(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "training", "--peers", "lsq,none"])
    assert capsys.readouterr().err.startswith("error: --peers: none is for no other")


@pytest.mark.parametrize("how", ["--all", "--single-file"])
def test_sizes_between_the_trained_ones_are_not_of_all(how, capsys):
    with pytest.raises(SystemExit):
        main(["export", how, "--interpolate"])
    error = capsys.readouterr().err
    assert error.startswith("error: --interpolate: all trained sizes are written; leave it out")
