"""Settings of the judge: server, model, prices, limits, and the image pairs."""

import math
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.judge.judge_prompts import PROMPTS

# every image is sent at this (height, width), so that every request has the same number of input
# tokens, however the model counts them; that makes the cost cap exact
FRAME_PX = (1024, 768)


@dataclass(frozen=True)
class JudgePair:
    """One image to judge: its name, the garment that it should show, and the generated image."""

    name: str
    garment: Path
    generated: Path


@dataclass(frozen=True)
class TokenPrices:
    """USD per million tokens; (0, 0) for a free server."""

    input_usd: float
    output_usd: float

    def compute_cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return the cost in USD."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6


# list prices of November 2026 of the paper's judge; other models need --judge-prices
KNOWN_PRICES = {
    "gpt-4o-mini": TokenPrices(0.15, 0.60),
    "gpt-4o-mini-2024-07-18": TokenPrices(0.15, 0.60),
}


@dataclass(frozen=True)
class JudgeSettings:
    """How the judge is asked; raises OmfaError for invalid settings.

    `url` is the base of an OpenAI-compatible API (`.../v1`); `setting` is the scores file's and
    selects the prompt; `cache` is the file of paid answers. `cost_cap_usd` applies to the total
    cost of the images, earlier runs with the same cache included. `extra` overrides fields of the
    request; a value of None removes a field.
    """

    url: str
    model: str
    setting: str
    cache: Path
    prices: TokenPrices
    cost_cap_usd: float
    key: str = field(default="", repr=False)
    detail: str = "high"
    concurrency: int = 4
    asks: int = 3
    attempts: int = 6
    timeout_s: float = 120.0
    backoff_s: float = 1.0
    max_wait_s: float = 120.0
    max_tokens: int = 300
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what would otherwise fail after the first request, or leak the key."""
        try:
            parts = urllib.parse.urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or not self.url.isprintable() or " " in self.url:
            shown = self.url.split("@")[-1]
            raise OmfaError(f"--judge-url: expected http(s)://HOST/v1, got {shown!r}")
        if parts.username or parts.password or parts.query:
            raise OmfaError(
                "--judge-url must not contain a password or a query; give the key in the"
                " environment variable that --judge-key-env names"
            )
        if not self.model.strip():
            raise OmfaError("--judge-model: expected the name of a model, got nothing")
        # http.client would print the header, with the key, in its error
        if not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise OmfaError(
                "the judge's key contains a space or a character that HTTP headers do not allow"
            )
        if self.setting not in PROMPTS:
            raise OmfaError(f"judge: setting {self.setting!r} is not one of {', '.join(PROMPTS)}")
        if self.detail not in ("low", "high", "auto"):
            raise OmfaError(f"--judge-detail must be low, high or auto, got {self.detail!r}")
        for flag, value in (
            ("--judge-concurrency", self.concurrency),
            ("--judge-asks", self.asks),
            ("--judge-attempts", self.attempts),
            ("--judge-max-tokens", self.max_tokens),
        ):
            if value < 1:
                raise OmfaError(f"{flag} must be at least 1, got {value}")
        for flag, value in (
            ("--judge-cost-cap", self.cost_cap_usd),
            ("--judge-prices", self.prices.input_usd),
            ("--judge-prices", self.prices.output_usd),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise OmfaError(f"{flag} must be 0 or more, got {value}")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise OmfaError(f"--judge-timeout must be more than 0 s, got {self.timeout_s}")
        if self.output_bound is None and self.prices.output_usd > 0:
            raise OmfaError(
                "--judge-extra removes the limit on output tokens, so the cost cannot be capped:"
                ' add "max_completion_tokens" or "max_tokens"'
            )

    @property
    def prompt(self) -> str:
        """The prompt of the setting."""
        return PROMPTS[self.setting]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a request, without its messages."""
        ours = {"model": self.model, "temperature": 0, "max_tokens": self.max_tokens}
        return {name: v for name, v in {**ours, **self.extra}.items() if v is not None}

    @property
    def output_bound(self) -> int | None:
        """The limit on output tokens that the request sets, None without one."""
        limits = [self.fields[n] for n in LIMITS if n in self.fields]
        good = [n for n in limits if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        return min(good) if good else None


LIMITS = ("max_completion_tokens", "max_tokens")
