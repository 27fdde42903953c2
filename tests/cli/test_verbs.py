"""The list of verbs says what the verbs say, and needs none of their modules."""

import inspect
import os
import subprocess
import sys

import pytest

from align.cli import VERBS, called

ALL = [verb for verbs in VERBS.values() for verb in verbs]
SAID = {verb: said for verbs in VERBS.values() for verb, (_, said) in verbs.items()}


@pytest.mark.parametrize("verb", ALL)
def test_a_verb_is_listed_with_its_own_first_words(verb):
    command = called(verb)
    assert command.name == verb
    assert " ".join(inspect.cleandoc(command.help or "").split()).startswith(SAID[verb].removesuffix("."))


def loaded(*arguments: str) -> set[str]:
    """The modules of align that a command imports."""
    code = (
        f"import sys\nsys.argv = ['align', *{arguments!r}]\nfrom align.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*(name for name in sys.modules if name.startswith('align.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_no_verb():
    assert loaded("--help") == {"align.cli", "align.errors"}


def test_a_verb_imports_no_other():
    modules = {module for verbs in VERBS.values() for module, _ in verbs.values()}
    found = {name.removeprefix("align.cli.") for name in loaded("plan", "quickstart")}
    assert found & modules == {"plan"}


def test_help_keeps_brackets():
    """An extra of a package is in square brackets, in which rich looks for styles."""
    code = "import sys\nsys.argv = ['align', 'run', '--help']\nfrom align.cli import main\nmain()"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert "align[vllm]" in shown.stdout


def test_verbs_that_train_nothing_do_not_speak_of_training(align):
    trains, asks = align("run", "--help").out, align("sample", "--help").out
    assert all(f"--{name}" in trains for name in ("processes", "checkpointing", "compile", "track", "threads"))
    assert not any(f"--{name}" in asks for name in ("processes", "checkpointing", "compile", "track"))
    assert "--threads" in asks and "auto|cpu|cuda" in asks
    assert "--prompt is missing" in align("sample", "toy/a", "--processes", "1").err  # it is taken all the same


def test_what_the_machine_refuses_is_said_without_a_traceback(align, recipe):
    (recipe.parent / "file").touch()
    wrong = align("run", "toy", "--store", "file")
    assert wrong.code == 1
    assert wrong.err == "file/toy/last.json: Not a directory. The store is --store, or ALIGN_STORE\n"
