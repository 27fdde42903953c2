"""Names on the hub, asked and not answered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants, errors

from tests.recipe.conftest import HUB, content, differ, recipe, refused, remember_on_hub, values


def test_hub_names_are_pinned_to_the_commit_in_the_cache(no_network: list[str]) -> None:
    remember_on_hub("models--someone--model", "main", "a" * 40)
    remember_on_hub("datasets--someone--demos", "main", "b" * 40)
    made = recipe(HUB)
    assert (made.models["base"].revision, made.data["demos"].revision) == ("a" * 40, "b" * 40)
    before = made.keys(content)
    assert not no_network and not any(key.provisional for key in before.values())
    remember_on_hub("models--someone--model", "main", "c" * 40)
    assert differ(values(made), values(recipe(HUB))) == {"base", "sft", "reward", "dpo", "replies"}
    pinned = recipe(HUB.replace("someone/model", f"someone/model, revision: {'a' * 40}"))
    assert values(pinned) == values(made)


def test_without_an_answer_keys_are_provisional_and_the_hub_is_asked_once(no_network: list[str]) -> None:
    keys = recipe(HUB).keys(content)
    assert no_network == ["someone/model"]
    assert keys["base"].provisional.startswith("someone/model is not in the local Hugging Face cache and the hub does")
    assert all(keys[name].provisional for name in ("demos", "sft", "reward", "dpo", "replies"))
    assert not keys["tests"].provisional


def test_what_the_hub_says_it_does_not_have_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def repo_info(self: HfApi, repo: str, **options: object) -> None:
        raise errors.RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    assert refused(HUB)[0].startswith("r.yaml:4: models.base.path: the hub has no model 'someone/model'")
