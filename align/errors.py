"""Everything align refuses, as one tree.

    AlignError                  base; `exit_code` is what the command line returns
    ├── RecipeError             the recipe or the command is wrong (exit 2); carries every problem found at once
    ├── DataError               a file or a row cannot be read as the record it should be
    ├── ContractError           two stages disagree: tokenizer, template, stop ids, weights
    ├── DependencyError         a package is missing, or its version lacks what is needed
    ├── StoreError              an artifact is missing, ambiguous, damaged or locked
    ├── EndpointError           a server gives no answer, refuses, or would cost more than the budget allows
    ├── CheckError              a stage's pre-flight found that its result could not be trusted
    ├── TrainingError           numbers went wrong while training: NaN, nothing moves, the reference is not the parent
    └── Interrupted             a signal stopped the run; it can be resumed (exit 130 or 143)

An error says where, what, and what would be right:

    stages.dpo.policy: no stage is called 'sfft'. Did you mean 'sft'?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class AlignError(Exception):
    """Base of every error that align raises on purpose."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe."""

    where: str
    """The path of the key, such as `stages.dpo.beta`."""
    what: str
    """What was found, what was expected, and the nearest right answer."""
    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{place}{self.where}: {self.what}" if self.where else f"{place}{self.what}"


class RecipeError(AlignError):
    """The recipe or the command line is wrong. Holds all problems, in the order of the file."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem] | str):
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataError(AlignError):
    """A file or a row cannot be read as the record it should be."""


class ContractError(AlignError):
    """A policy or reward model does not agree with the stage that made it or the stage that uses it."""


class DependencyError(AlignError):
    """A package is missing, or the installed version lacks what is needed."""


class StoreError(AlignError):
    """An artifact is missing, ambiguous, damaged or in use."""


class EndpointError(AlignError):
    """A server gives no answer, refuses, or would cost more than allowed; what was answered so far is kept."""


class CheckError(AlignError):
    """A stage's pre-flight found that its result could not be trusted."""


class TrainingError(AlignError):
    """Training numbers went wrong; the message names the step and, where known, the rows."""


class Interrupted(AlignError):
    """A signal stopped the run after a complete step; running the same command again goes on from there."""

    def __init__(self, signal: int, message: str = "interrupted"):
        self.exit_code = 128 + signal
        self.signal = signal
        super().__init__(message)


def suggestion(word: str, known: Iterable[str], quote: str = "'") -> str:
    """` Did you mean 'dpo'?` for the closest known name, or the names there are, or nothing.

    >>> suggestion("dop", ["dpo", "sft"])
    " Did you mean 'dpo'?"
    """
    known = list(known)
    close = [name for name in known if name.casefold() == word.casefold()]
    close = close or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {quote}{close[0]}{quote}?"
    return f" There are: {', '.join(sorted(known))}." if 0 < len(known) <= 25 else ""
