"""Parsing the judge's answers; anything but one clear score is refused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omfa_jax.core.json_text import parse_json

# the prompts ask for at most 30 words
REASON_CHARACTERS = 500


class MalformedAnswerError(Exception):
    """An unusable answer; the message goes to the judge with the next request and to the report."""


@dataclass(frozen=True)
class Reply:
    """One answer of the server: the text, the finish reason, and the (input, output) tokens."""

    text: str
    finish: str | None
    tokens: tuple[int, int] | None


def parse_reply(body: bytes) -> Reply:
    """Return the first choice of a chat completion, with text "" if there is none."""
    try:
        content = parse_json(body)
    except (ValueError, RecursionError):
        return Reply("", "the response is not JSON", None)
    if not isinstance(content, dict):
        return Reply("", "the response is not a JSON object", None)
    choices = content.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        return Reply("", "the response has no choices", _tokens(content.get("usage")))
    text, finish = choice["message"].get("content"), choice.get("finish_reason")
    return Reply(
        text if isinstance(text, str) else "",
        finish if isinstance(finish, str) else None,
        _tokens(content.get("usage")),
    )


def _tokens(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    good = [n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    return (good[0], good[1]) if len(good) == 2 else None


def parse_score(reply: Reply) -> tuple[float, str]:
    """Return the score (0 to 10) and the reason.

    The JSON object may be inside a code fence or surrounded by text. Raises MalformedAnswerError
    for a bare number, several objects that disagree, or a score that is not a number from 0 to 10.
    """
    if not reply.text.strip():
        raise MalformedAnswerError(f"it was empty ({reply.finish or 'no reason given'})")
    found = [row for row in _iter_json_objects(reply.text) if "score" in row]
    if not found:
        cut = ": it was cut off" if reply.finish == "length" else ""
        raise MalformedAnswerError(f'the answer contains no JSON object with a "score"{cut}')
    for score in (row["score"] for row in found):
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise MalformedAnswerError("the score was not a number")
        if not 0 <= score <= 10:  # False for NaN too
            raise MalformedAnswerError("the score was not from 0 to 10")
        # a model may repeat its answer: equal scores are one
        if score != found[0]["score"]:
            raise MalformedAnswerError("it held several scores")
    score, reason = found[0]["score"], found[0].get("reason", "")
    reason = reason if isinstance(reason, str) else ""
    return float(score), " ".join(reason.split())[:REASON_CHARACTERS]


def _iter_json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, left to right."""
    # raw_decode, because a regular expression cannot match nested braces
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if isinstance(value, dict):
                yield value
        start = text.find("{", end)
