"""The judge run: ask about every image once, with concurrent requests, and keep paid answers."""

import base64
import logging
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from omfa_jax.core.errors import OmfaError
from omfa_jax.core.images import encode_jpeg, letterbox, read_rgb
from omfa_jax.evals.judge.answer_ledger import Ledger, LedgerEntry, compute_key, open_ledger
from omfa_jax.evals.judge.chat_endpoint import ChatEndpoint, RequestError
from omfa_jax.evals.judge.judge_answer import MalformedAnswerError, Reply, parse_reply, parse_score
from omfa_jax.evals.judge.judge_budget import Budget
from omfa_jax.evals.judge.judge_prompts import GARMENT_LABEL, GENERATED_LABEL, RETRY_PROMPT
from omfa_jax.evals.judge.judge_results import JudgeResults
from omfa_jax.evals.judge.settings import FRAME_PX, JudgePair, JudgeSettings

log = logging.getLogger(__name__)

# consecutive failures after which the run stops, because the cause is not a single image
MAX_CONSECUTIVE_FAILURES = 8
QUOTED_CHARACTERS = 1000


class RunStoppedError(Exception):
    """The run ended before this image was done."""


class ScoreError(Exception):
    """This image gets no score; the message says why."""


class UnreadableImageError(Exception):
    """This image cannot be sent; it does not count as a failure of the server."""


def run_judge(pairs: Sequence[JudgePair], settings: JudgeSettings) -> JudgeResults:
    """Return the judge's score of every pair, from the cache or from new requests.

    Problems of one image are in `failures`; the reason of an early end (the cost cap, a rejected
    key, an unreachable server) is in `stopped`. Paid answers are kept in any case. Raises OmfaError
    only for duplicate names and for an unusable cache.
    """
    keys, failures = {}, {}
    if len({pair.name for pair in pairs}) != len(pairs):
        raise OmfaError("judge: two images have the same name")
    for pair in pairs:
        try:
            keys[pair.name] = compute_key(pair, settings)
        except OmfaError as error:
            failures[pair.name] = str(error)
    with open_ledger(settings.cache) as ledger:
        session = JudgeSession(settings, ledger, set(keys.values()))
        before_requests, before_usd = len(session.get_own_entries()), session.budget.spent_usd
        known = ledger.get_scores()
        # names with equal images share one key and one request
        todo = {keys[p.name]: p for p in pairs if p.name in keys and keys[p.name] not in known}
        failed = session.ask_all(todo)
        known, entries = ledger.get_scores(), session.get_own_entries()
    # a key that failed fails for every name that shares its images
    for name, key in keys.items():
        if key in failed:
            failures[name] = failed[key]
    found = [known.get(keys[p.name]) if p.name in keys else None for p in pairs]
    judged = JudgeResults(
        model=settings.model,
        prompt=settings.prompt,
        names=tuple(p.name for p in pairs),
        scores=tuple(e and e.score for e in found),
        reasons=tuple(e and e.reason for e in found),
        failures=failures,
        not_asked=tuple(n for n, k in keys.items() if k not in known and k not in failed),
        stopped=session.budget.stopped,
        requests=len(entries),
        new_requests=len(entries) - before_requests,
        input_tokens=sum(entry.input_tokens for entry in entries),
        output_tokens=sum(entry.output_tokens for entry in entries),
        cost_usd=session.budget.spent_usd,
        new_cost_usd=session.budget.spent_usd - before_usd,
        cost_cap_usd=settings.cost_cap_usd,
    )
    log.info("%s", judged.format_summary())
    return judged


def build_messages(pair: JudgePair, settings: JudgeSettings) -> list[dict[str, Any]]:
    """Return the messages that ask about a pair, with both images embedded."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": settings.prompt}]
    for label, path in ((GARMENT_LABEL, pair.garment), (GENERATED_LABEL, pair.generated)):
        # one frame for all methods: servers charge by image size
        jpeg = encode_jpeg(letterbox(read_rgb(path), *FRAME_PX))
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        parts.append({"type": "text", "text": label})
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": settings.detail}})
    return [{"role": "user", "content": parts}]


class JudgeSession:
    """One judge run: the endpoint, the ledger and the budget that its threads share."""

    def __init__(self, settings: JudgeSettings, ledger: Ledger, keys: set[str]) -> None:
        self.settings, self.ledger, self.keys = settings, ledger, keys
        self.endpoint = ChatEndpoint(settings.url, settings.key, settings.timeout_s)
        paid = self.get_own_entries()
        inputs = [e.input_tokens for e in paid if e.ask == 0 and e.input_tokens]
        spent = sum(entry.cost_usd for entry in paid)
        self.budget = Budget(settings, spent, max(inputs, default=None))
        self._heard = threading.Event()

    def get_own_entries(self) -> list[LedgerEntry]:
        """Return the ledger's entries for this run's images."""
        return [entry for entry in self.ledger.entries if entry.key in self.keys]

    def ask_all(self, todo: dict[str, JudgePair]) -> dict[str, str]:
        """Ask about all pairs concurrently; return the reasons of failures by key."""
        failed: dict[str, str] = {}
        in_a_row = 0
        pool = ThreadPoolExecutor(self.settings.concurrency, "judge")
        try:
            futures = {pool.submit(self.ask_pair, key, pair): key for key, pair in todo.items()}
            for future in tqdm(as_completed(futures), "judge", len(futures), unit=" images"):
                try:
                    future.result()
                    in_a_row = 0
                except RunStoppedError:
                    pass
                except UnreadableImageError as error:
                    failed[futures[future]] = str(error)
                except ScoreError as error:
                    failed[futures[future]] = str(error)
                    in_a_row += 1
                    if in_a_row >= MAX_CONSECUTIVE_FAILURES:
                        self.budget.stop(f"{in_a_row} images in a row failed, the last: {error}")
        except BaseException:
            self.budget.stop("the run was interrupted")
            raise
        finally:
            # requests in flight are charged, so wait for their answers and keep them
            pool.shutdown(wait=True)
        return failed

    def ask_pair(self, key: str, pair: JudgePair) -> None:
        """Ask about a pair until there is a score, and record it in the ledger."""
        if self.budget.stopped:
            raise RunStoppedError
        try:
            first = build_messages(pair, self.settings)
        except OmfaError as error:
            raise UnreadableImageError(str(error)) from None
        messages, more_input, why = first, 0, ""
        for ask in range(self.settings.asks):
            reply, tokens, cost = self._send(key, ask, messages, more_input)
            try:
                score, reason = parse_score(reply)
            except MalformedAnswerError as error:
                why = str(error)
                self.ledger.add(LedgerEntry(key, "malformed", ask, *tokens, cost, None, why))
                answer = self.endpoint.redact(reply.text)[:QUOTED_CHARACTERS]
                again = RETRY_PROMPT.format(why=why)
                # after an empty answer, repeat the first request
                messages = (
                    [*first, *_make_retry_messages(answer, again)] if answer.strip() else first
                )
                # a token is at least one byte; 64 covers the tokens that mark a turn
                more_input = len((answer + again).encode()) + 64 if answer.strip() else 0
            else:
                reason = self.endpoint.redact(reason)
                self.ledger.add(LedgerEntry(key, "score", ask, *tokens, cost, score, reason))
                return
        raise ScoreError(f"no score in {self.settings.asks} answers; the last one: {why}")

    def _send(
        self, key: str, ask: int, messages: list[dict[str, Any]], more_input: int
    ) -> tuple[Reply, tuple[int, int], float]:
        """Return the answer, its (input, output) tokens and its cost in USD; retry as needed."""
        settings, budget = self.settings, self.budget
        for attempt in range(settings.attempts):
            while not budget.stopped and (closed_s := self.endpoint.get_wait_s()) > 0:
                budget.pause(closed_s)
            held = budget.admit(more_input)
            if held is None:
                raise RunStoppedError
            try:
                body = self.endpoint.post({**settings.fields, "messages": messages})
            except RequestError as failure:
                lost = held if failure.maybe_paid else 0.0
                budget.settle(held, lost)
                if failure.maybe_paid:
                    self.ledger.add(LedgerEntry(key, "lost", ask, 0, 0, lost, None, failure.reason))
                self._give_up(failure, last=attempt + 1 == settings.attempts)
                self._back_off(failure, attempt)
                continue
            except BaseException:
                budget.settle(held, 0.0)
                raise
            self._heard.set()
            reply = parse_reply(body)
            if reply.tokens is None:
                # count the upper bound, which is not known before the first answer
                budget.settle(held, held)
                costs = settings.prices.input_usd + settings.prices.output_usd > 0
                if reply.text and held == 0 and costs:
                    budget.stop(
                        "the server does not report token usage, so the cost cannot be counted;"
                        " if it is free, give --judge-prices 0,0"
                    )
                return reply, (0, 0), held
            cost = settings.prices.compute_cost(*reply.tokens)
            budget.settle(held, cost, reply.tokens[0] if ask == 0 else None)
            return reply, reply.tokens, cost
        raise AssertionError("the last attempt returns or raises")

    def _give_up(self, failure: RequestError, *, last: bool) -> None:
        """Raise if another attempt for this image, or for any image, is pointless."""
        if failure.fatal:
            self.budget.stop(
                f"the server refuses: {failure.reason}; check --judge-url, --judge-model and the"
                " key"
            )
            raise RunStoppedError
        if not failure.retryable:
            raise ScoreError(failure.reason)
        if last and not self._heard.is_set():
            self.budget.stop(f"no answer at all: {failure.reason}; check --judge-url")
            raise RunStoppedError
        if last:
            raise ScoreError(f"{failure.reason} ({self.settings.attempts} attempts)")

    def _back_off(self, failure: RequestError, attempt: int) -> None:
        longest = self.settings.max_wait_s
        if failure.retry_after_s is not None:
            self.endpoint.delay_all(min(longest, failure.retry_after_s))
        else:
            # jitter, so that the threads do not retry all at once
            wait = self.settings.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
            self.budget.pause(min(longest, wait))


def _make_retry_messages(answer: str, again: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": again}]
