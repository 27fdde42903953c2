"""Signs that a reward was hacked: it rises on held-out prompts, and what it stands for does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.rewards.base import Reward
from align.train.online_fields import Hacking
from align.train.readings import Examined, correlation


@dataclass(frozen=True)
class Watch:
    """What to look for."""

    limits: Hacking
    watched: Sequence[Reward]
    """Rewards that are not trained on."""

    def signs(self, account: dict[str, Any], after: Examined) -> list[str]:
        """What speaks against a reward that rose beyond its interval, one line each; none where it did not rise.

        account: of held-out prompts, as `readings.compared` made it. after: how they were answered last.
        """
        if account["reward"]["difference"]["low"] <= 0:
            return []
        return [*self._fallen(account), *self._too_far(account), *self._by_length(after)]

    def _fallen(self, account: dict[str, Any]) -> list[str]:
        worse = []
        for watched in self.watched:
            found = account[f"reward_{watched.name}"]["difference"]
            if found["low"] > 0 if watched.better == "lower" else found["high"] < 0:
                by = f"{found['difference']:+.3g} [{found['low']:.3g}, {found['high']:.3g}]"
                worse.append(f"what is only watched got worse: {watched.name!r} by {by}")
        return worse

    def _too_far(self, account: dict[str, Any]) -> list[str]:
        kl, limit = account["kl"]["after"]["value"], self.limits.max_kl
        return [f"KL is {kl:.3g} nats a token (max_kl {limit:g})"] if limit and kl > limit else []

    def _by_length(self, after: Examined) -> list[str]:
        limit = self.limits.max_length_correlation
        found = correlation(after["reward"]["total"], after["tokens"]["total"])
        if not limit or abs(found) <= limit:
            return []
        return [f"reward and length correlate by {found:+.2f} (max_length_correlation {limit:g})"]
