"""What stands behind the references of a stage: artifacts, models and datasets, or tiny ones in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from align.config import Data, Endpoint, Model
from align.disk import sha256_of
from align.recipe.outside import mapped
from align.stage import Stage
from align.store import Artifact, Store
from align.worker.job import Input, Job


class Pending(KeyError):
    """A check asked for an input that is yet to be made: it goes no further now and is repeated before `run`."""


class Inputs(dict[str, Artifact | Model | Endpoint | Data]):
    """The inputs there are; asking for one of the others raises Pending."""

    def __missing__(self, name: str) -> Artifact:
        raise Pending(name)


def found(taken: Input, store: Store) -> Artifact | Model | Endpoint | Data | None:
    """The input itself; None where it is yet to be made."""
    return taken.model or taken.data or store.find(taken.key)


def known_as(key: str, thing: object) -> str:
    """What caches know an input by: its key, but not where another artifact of that key was there before."""
    before = thing.manifest.get("supersedes") if isinstance(thing, Artifact) else None
    return f"{key}-{before[:8]}" if before else key


def as_it_is(place: object, leaf: Any) -> Any:
    """Puts nothing in place of anything."""
    return leaf


def standing_in(job: Job, head: Literal["language", "score"]) -> Callable[[object, Any], Any]:
    """Puts tiny models and datasets in place of the real ones, wherever a stage names them."""
    from align.models.smoke import stand_in

    def swap(place: object, leaf: Any) -> Any:
        if isinstance(leaf, Path):
            return leaf
        leaf = Model(path=leaf.name) if isinstance(leaf, Endpoint) else leaf
        return stand_in(leaf, sha256_of(leaf.model_dump(mode="json"))[:32], job.base, Store(job.store), head)

    return swap


def lightened_for(stage: Stage, job: Job) -> Stage:
    """The stage with less to do. Models among its own fields, not referred to by name, are rewards."""
    from align.models.smoke import lightened

    return lightened(mapped(stage, standing_in(job, "score")))
