"""Constitutions: written principles by which a model criticises, revises and compares replies (arXiv:2212.08073)."""

from align.constitution.asking import (
    LETTERS,
    asked_to_compare,
    asked_to_conclude,
    asked_to_criticise,
    asked_to_decide,
    asked_to_reason,
    asked_to_revise,
    conclusion,
)
from align.constitution.files import FOLDER, ConstitutionField, files, find, read
from align.constitution.principles import Constitution, Principle, Transcript, drawn

__all__ = [
    "FOLDER",
    "LETTERS",
    "Constitution",
    "ConstitutionField",
    "Principle",
    "Transcript",
    "asked_to_compare",
    "asked_to_conclude",
    "asked_to_criticise",
    "asked_to_decide",
    "asked_to_reason",
    "asked_to_revise",
    "conclusion",
    "drawn",
    "files",
    "find",
    "read",
]
