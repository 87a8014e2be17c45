"""The arguments of the commands, in Python and on the command line."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields

import pytest

import sogclr
from sogclr.commands.arguments import REQUIRED, arguments_of, summary_of
from sogclr.commands.cli import COMMANDS, main
from sogclr.planning.settings import GROUPS
from sogclr.planning.settings_images import PretrainArguments
from sogclr.planning.settings_pairs import AlignArguments

ARGUMENTS = {"pretrain": PretrainArguments, "align": AlignArguments}
SETTINGS = {name: arguments_of(command) for name, command in COMMANDS.items()}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_signature_is_that_of_the_dataclass(name):
    signature = inspect.signature(getattr(sogclr, name))
    own = inspect.signature(ARGUMENTS[name])
    assert signature.parameters.keys() == own.parameters.keys()
    for field in fields(ARGUMENTS[name]):
        parameter = signature.parameters[field.name]
        assert parameter.kind == own.parameters[field.name].kind
        if field.name != "views":
            assert parameter.default == own.parameters[field.name].default
    assert [n for n, p in signature.parameters.items() if p.kind != p.KEYWORD_ONLY] == [
        "data",
        "out",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_documented(name):
    doc = inspect.getdoc(getattr(sogclr, name))
    for argument in SETTINGS[name]:
        assert argument.text, argument.name
        assert argument.text.endswith((".", ")")), argument.text
        assert f"\n    {argument.name}: " in doc
        assert argument.group in GROUPS
    assert doc.index("Args:") < doc.index("Returns:") < doc.index("Raises:")
    assert "Args:" not in summary_of(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_an_open_default_is_explained(name):
    """A reader of the help must learn what happens if an option is left out."""
    for argument in SETTINGS[name]:
        if argument.name != "encoder" and argument.default is None:
            derived = "Default:" in argument.text or "Required" in argument.text
            optional = argument.name in ("weights", "image_weights")
            assert derived or optional, (argument.name, argument.text)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_flat_and_no_none(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    shown = capsys.readouterr().out
    for argument in SETTINGS[name]:
        if argument.python_only:
            assert f"--{argument.name}" not in shown
        elif argument.positional and argument.default is not REQUIRED:
            assert f"[{argument.name.upper()}]" in shown
        elif argument.default is not REQUIRED and argument.name != "views":
            assert f"--{argument.name.replace('_', '-')} " in shown
    assert "None" not in shown
    assert "(default: )" not in shown
    assert "From Python" not in shown


def test_help_names_options_as_the_command_line_does(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    shown = capsys.readouterr().out
    assert "--gamma-min." in shown
    assert "`gamma_min`" not in shown
    titles = re.findall(r"^\W*(\w+) options\b", shown, flags=re.MULTILINE)
    assert titles == list(GROUPS[1:])


@pytest.mark.parametrize("width", [80, 120])
def test_help_flows_to_the_width_of_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main(["align", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(lines[2:4])
    assert "Settings that are left out" in text


def test_a_misspelt_option_is_answered_with_those_of_its_command(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["pretrain", "digits", "--out", "x", "--batch-sise", "3"])
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert "--batch-sise" in message
    assert "--batch-size INT" in message
    assert "sogclr pretrain --help" in message
    assert "align" not in message
    assert "audit" not in message


def test_a_misspelt_command_is_answered_with_the_commands(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["pretrian", "digits"])
    assert exit.value.code == 2
    message = capsys.readouterr().err
    assert "pretrian" in message
    assert all(name in message for name in COMMANDS)


def test_a_misspelt_argument_in_python_names_the_function():
    with pytest.raises(TypeError, match=r"^pretrain\(\) got an unexpected .* 'batch_sise'"):
        sogclr.pretrain("digits", "x", batch_sise=3)
    with pytest.raises(TypeError, match=r"^align\(\) missing a required argument: 'out'"):
        sogclr.align("digits")


def test_an_unknown_choice_in_python_is_refused():
    with pytest.raises(sogclr.UserError, match=r"^--method: 'simclrr' is unknown; give one of sog"):
        sogclr.pretrain("digits", "x", method="simclrr")
    with pytest.raises(sogclr.UserError, match=r"^--device: 'gpu' is unknown"):
        sogclr.align("digits", "x", device="gpu")


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"sogclr {sogclr.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere", "--out", "x"], "data: /nowhere does not exist"),
        (["digits", "--out", "x", "--memory-size", "-3"], "--memory-size: must not be negative"),
        (["digits", "--out", "x", "--queue-size", "3"], "--queue-size: goes with --method moco"),
        (["digits", "--out", "x", "--workers", "-1"], "--workers: must not be negative"),
        (["digits", "--out", "{run}"], "holds a run already; add --resume or name another --out"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(words, message, tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    words = ["pretrain", *(word.format(run=tmp_path) for word in words)]
    code = (
        "import sys\n"
        "from sogclr.commands.cli import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "finally:\n"
        "    print('HEAVY', sorted({'torch', 'numpy', 'timm', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout.strip() == "HEAVY []"


@pytest.mark.parametrize(
    ("command", "flag"), [("pretrain", "--encoder"), ("align", "--image-tower")]
)
def test_an_unknown_encoder_is_refused_before_the_data_is_read(command, flag, tmp_path, capsys):
    data = tmp_path / "broken.csv"
    data.write_text("no table and no image")
    with pytest.raises(SystemExit):
        main([command, str(data), "--out", str(tmp_path / "run"), flag, "resnet18x"])
    message = capsys.readouterr().err
    assert message.startswith(f"sogclr: {flag}: 'resnet18x' is unknown; nearest: resnet18")
