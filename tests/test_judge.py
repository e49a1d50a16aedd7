"""The judge against a real server on this machine that answers well, wrongly, or not at all."""

import base64
import email.utils
import io
import json
import socket
import time

import pytest
from judge_server import GOOD, KEY, Answer, quick, serving, some_pairs
from PIL import Image

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.judge.chat_endpoint import parse_retry_after
from omfa_jax.evals.judge.judge_answer import MalformedAnswerError, Reply, parse_score
from omfa_jax.evals.judge.judge_prompts import TRY_OFF, TRY_ON
from omfa_jax.evals.judge.judge_session import run_judge
from omfa_jax.evals.judge.settings import TokenPrices

FREE = TokenPrices(0.0, 0.0)


def test_a_good_server_is_asked_once_a_picture(tmp_path):
    pairs = some_pairs(tmp_path, 3)
    with serving(lambda n, _: Answer(json.dumps({"score": n, "reason": f"r{n}"}))) as server:
        judged = run_judge(pairs, quick(server.url, tmp_path / "c.jsonl", concurrency=1))
        again = run_judge(pairs, quick(server.url, tmp_path / "c.jsonl", concurrency=1))
    assert judged.names == ("00000", "00001", "00002") and judged.scores == (0, 1, 2)
    assert judged.reasons == ("r0", "r1", "r2") and judged.complete and not judged.stopped
    assert len(server.requests) == 3 and (again.scores, again.new_requests) == (judged.scores, 0)
    assert judged.cost_usd == pytest.approx(0.03) == again.cost_usd and again.new_cost_usd == 0
    assert (judged.input_tokens, judged.output_tokens) == (3000, 300)
    assert {h["path"] for h in server.headers} == {"/v1/chat/completions"}
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    content = server.requests[1]["messages"][0]["content"]
    assert content[0]["text"] == TRY_ON and server.requests[1]["temperature"] == 0
    for part, grey in ((content[2], 2), (content[4], 3)):  # the garment first
        data = base64.b64decode(part["image_url"]["url"].split(",")[1])
        picture = Image.open(io.BytesIO(data))
        assert picture.size == (768, 1024) and picture.getpixel((384, 512)) == (grey,) * 3


def test_the_cache_knows_pictures_prompt_and_model(tmp_path):
    pairs, cache = some_pairs(tmp_path, 2), tmp_path / "c.jsonl"
    twin = pairs[0].generated.with_name("twin.png")
    twin.write_bytes(pairs[0].generated.read_bytes())
    with serving(lambda n, _: Answer()) as server:

        def asked(pairs, **changed):
            before = len(server.requests)
            judged = run_judge(pairs, quick(server.url, cache, **changed))
            assert judged.complete
            return len(server.requests) - before

        twins = [pairs[0], type(pairs[0])("twin", pairs[0].garment, twin)]
        assert asked(twins) == 1, "the same contents under two names are one question"
        assert asked(pairs) == 1
        assert asked(pairs, setting="try_off") == 2 and asked(pairs, setting="unpaired") == 0
        assert server.requests[-1]["messages"][0]["content"][0]["text"] == TRY_OFF != TRY_ON
        assert asked(pairs, model="other") == 2 and asked(pairs, detail="low") == 2
        assert asked(pairs, extra={"seed": 1}) == 2 and server.requests[-1]["seed"] == 1
        pairs[0].generated.write_bytes(pairs[1].garment.read_bytes())
        assert asked(pairs) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"score": 7, "reason": "cut', "no JSON object"),
        ('{"score": 11, "reason": ""}', "not from 0 to 10"),
        ('{"score": -0.1}', "not from 0 to 10"),
        ('{"score": NaN}', "not from 0 to 10"),
        ('{"score": "7"}', "not a number"),
        ('{"score": true}', "not a number"),
        ('{"score": null}', "not a number"),
        ("I would say 7 out of 10.", "no JSON object"),
        ('either {"score": 2} or {"score": 9}', "several"),
        ("[7]", "no JSON object"),
        ("", "empty"),
    ],
)
def test_a_malformed_answer_is_refused(text, why):
    with pytest.raises(MalformedAnswerError, match=why):
        parse_score(Reply(text, "stop", None))


def test_an_object_among_words_is_an_answer():
    for text in (GOOD, f"```json\n{GOOD}\n```", f"Here {{you}} go: {GOOD} Bye."):
        assert parse_score(Reply(text, "stop", None)) == (7.5, "the collar is too wide")


BAD = {
    "words": Answer("7 of 10"),
    "range": Answer('{"score": 70}'),
    "cut": Answer('{"score": 7', finish="length"),
    "null": Answer(None),
    "empty choices": Answer(body=b'{"choices": [], "usage": {"prompt_tokens": 1000}}'),
    "html": Answer(body=b"<html>hello</html>"),
    "list": Answer(body=b"[]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_answer_is_asked_again_and_then_reported(tmp_path, kind):
    pairs = some_pairs(tmp_path, 2)
    with serving(lambda n, _: BAD[kind] if n < 2 else Answer()) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", concurrency=1)
        judged = run_judge(pairs, settings)
    assert judged.scores == (7.5, 7.5) and len(server.requests) == 4
    if kind in ("words", "range", "cut"):
        said, again = server.requests[1]["messages"][1:]
        assert said["content"] == BAD[kind].text and "could not be used" in again["content"]
    with serving(lambda n, _: BAD[kind] if n < 3 else Answer()) as server:
        settings = quick(server.url, tmp_path / "d.jsonl", concurrency=1)
        judged = run_judge(pairs, settings)
        assert judged.scores == (None, 7.5) and "no score in 3 answers" in judged.failures["00000"]
        assert judged.requests == 4 and not judged.stopped and not judged.complete
        assert run_judge(pairs, settings).complete, (
            "a failed image is asked about again in the next run"
        )


def test_transient_faults_are_retried_with_waits(tmp_path):
    moment = email.utils.formatdate(time.time() + 3600, usegmt=True)
    faults = [
        Answer("no", status=500),
        Answer("no", status=429, headers={"Retry-After": "0.3"}),
        Answer(drop="before"),
        Answer(drop="inside"),
        Answer("no", status=503, headers={"Retry-After": moment}),
    ]
    times = []

    def script(number, _):
        times.append(time.monotonic())
        return faults[number] if number < len(faults) else Answer()

    with serving(script) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", max_wait_s=0.5)
        judged = run_judge(some_pairs(tmp_path, 1), settings)
    assert judged.scores == (7.5,) and len(server.requests) == 6
    lines = map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines()[1:])
    assert [line["outcome"] for line in lines] == ["lost", "lost", "score"]
    assert times[2] - times[1] >= 0.3 and 0.5 <= times[5] - times[4] < 5
    assert 3500 < parse_retry_after(moment) <= 3600 and parse_retry_after("soon") is None


def test_a_limit_holds_for_all_threads_and_the_number_at_once_too(tmp_path):
    times = []

    def script(number, _):
        times.append(time.monotonic())
        if number == 5:
            return Answer("slow down", status=429, headers={"Retry-After": "1.5"})
        return Answer(wait_s=0.05)

    with serving(script) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", concurrency=3, prices=FREE)
        assert run_judge(some_pairs(tmp_path, 24), settings).complete
    assert server.most_open == 3
    # those that were on their way aside, nobody asks within the second and a half
    assert sum(times[5] < moment < times[5] + 1.5 for moment in times) <= 4


def test_attempts_come_to_an_end_and_other_pictures_go_on(tmp_path):
    def script(number, fields):
        bad = len(json.dumps(fields)) and 1 <= number <= 3
        return Answer("overloaded", status=500) if bad else Answer()

    with serving(script) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", concurrency=1, attempts=3)
        judged = run_judge(some_pairs(tmp_path, 3), settings)
    assert judged.scores == (7.5, None, 7.5)
    assert "HTTP 500" in judged.failures["00001"] and "3 attempts" in judged.failures["00001"]
    with serving(lambda n, _: Answer() if n == 0 else Answer("x", status=400)) as server:
        settings = quick(server.url, tmp_path / "d.jsonl", concurrency=1)
        judged = run_judge(some_pairs(tmp_path, 20), settings)
    assert len(server.requests) == 9 and "8 images in a row failed" in judged.stopped
    assert len(judged.failures) == 8 and len(judged.not_asked) == 11


@pytest.mark.parametrize("status", [401, 403, 404, 302, 307])
def test_what_no_retry_mends_ends_the_run_at_once(tmp_path, status):
    headers = {"Location": "http://127.0.0.1:9/"} if status < 400 else {}
    refusal = Answer(body=b'{"error": {"message": "no"}}', status=status, headers=headers)
    with serving(lambda n, _: refusal) as server:
        judged = run_judge(some_pairs(tmp_path, 5), quick(server.url, tmp_path / "c.jsonl"))
    assert len(server.requests) == 1 and f"HTTP {status}: no" in judged.stopped
    assert len(judged.not_asked) == 5 and not judged.failures


def test_no_server_at_all_is_said_after_the_first_picture(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    judged = run_judge(some_pairs(tmp_path, 5), quick(url, tmp_path / "c.jsonl"))
    assert "cannot be reached" in judged.stopped and judged.cost_usd == 0
    assert len(judged.not_asked) == 5


def test_a_slow_server_times_out_even_if_it_drips(tmp_path):
    slow = {1: Answer(wait_s=3.0), 2: Answer(drop="drip")}
    with serving(lambda n, _: slow.get(n, Answer())) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", timeout_s=1.5, concurrency=1)
        judged = run_judge(some_pairs(tmp_path, 2), settings)
    assert judged.complete and len(server.requests) == 4
    # the server may charge for what it was still working on
    assert judged.cost_usd == pytest.approx(0.04) and judged.requests == 4


def test_unreadable_pictures_and_caches_are_said(tmp_path):
    pairs = some_pairs(tmp_path, 4)
    pairs[0].garment.unlink()
    pairs[1].generated.write_bytes(b"no picture")
    with serving(lambda n, _: Answer()) as server:
        judged = run_judge(pairs, quick(server.url, tmp_path / "c.jsonl"))
        assert judged.scores == (None, None, 7.5, 7.5) and len(server.requests) == 2
        assert "No such file" in judged.failures["00000"]
        assert "not an image" in judged.failures["00001"]
        (tmp_path / "scores.json").write_text("{}\n")
        with pytest.raises(OmfaError, match="not a judge cache"):
            run_judge(pairs, quick(server.url, tmp_path / "scores.json"))
        with pytest.raises(OmfaError, match="same name"):
            run_judge([*pairs, pairs[0]], quick(server.url, tmp_path / "c.jsonl"))
