"""The judge's money and secrets: the cost cap, the key, and what a kill loses."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judge_server import KEY, Answer, quick, serving, some_pairs

from omfa_jax.core.errors import OmfaError
from omfa_jax.evals.judge.judge_session import run_judge
from omfa_jax.evals.judge.settings import TokenPrices

FREE = TokenPrices(0.0, 0.0)


def test_the_cost_stops_exactly_at_the_cap_and_a_higher_cap_goes_on(tmp_path):
    pairs, cache = some_pairs(tmp_path, 12), tmp_path / "c.jsonl"
    with serving(lambda n, _: Answer(wait_s=0.02)) as server:
        judged = run_judge(pairs, quick(server.url, cache, cost_cap_usd=0.07))
        assert len(server.requests) == 7 and judged.cost_usd == pytest.approx(0.07)
        assert "cost cap of $0.07" in judged.stopped and len(judged.not_asked) == 5
        assert len(judged.scores_by_name) == 7 and not judged.failures
        same = run_judge(pairs, quick(server.url, cache, cost_cap_usd=0.07))
        assert len(server.requests) == 7 and same.new_cost_usd == 0 and same.stopped
        more = run_judge(pairs, quick(server.url, cache, cost_cap_usd=0.0951))
        assert len(server.requests) == 9 and more.cost_usd == pytest.approx(0.09)
        rest = run_judge(pairs, quick(server.url, cache, cost_cap_usd=1))
        assert len(server.requests) == 12 and rest.complete and not rest.stopped
        none = run_judge(pairs, quick(server.url, tmp_path / "d.jsonl", cost_cap_usd=0))
        assert len(server.requests) == 12 and len(none.not_asked) == 12


def test_the_cap_holds_whatever_the_answers_cost(tmp_path):
    """Answers of all lengths, malformed and lost ones: never above, and no room left."""
    kinds = [
        Answer(tokens=(1000, 3), wait_s=0.01),
        Answer("hm", tokens=(1000, 90)),
        Answer(tokens=(1000, 100)),
        Answer(drop="before"),
        Answer(tokens=None),
    ]
    with serving(lambda n, _: kinds[n % 5]) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", cost_cap_usd=0.2, concurrency=5)
        judged = run_judge(some_pairs(tmp_path, 60), settings)
    assert 0.2 - 0.0131 < judged.cost_usd <= 0.2 and "cost cap" in judged.stopped
    lines = (tmp_path / "c.jsonl").read_text().splitlines()[1:]
    assert sum(json.loads(line)["cost_usd"] for line in lines) == pytest.approx(judged.cost_usd)
    assert len(server.answers) == len(lines)


def test_a_server_that_does_not_say_what_it_used_is_not_paid_blindly(tmp_path):
    with serving(lambda n, _: Answer(tokens=None)) as server:
        judged = run_judge(some_pairs(tmp_path, 4), quick(server.url, tmp_path / "c.jsonl"))
        assert len(server.requests) == 1 and "--judge-prices 0,0" in judged.stopped
        free = run_judge(some_pairs(tmp_path, 4), quick(server.url, tmp_path / "c", prices=FREE))
    assert free.complete and free.cost_usd == 0


def test_the_key_is_nowhere(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"score": 3, "reason": f"your key is {KEY}"})
    script = [
        Answer(echo),
        Answer(body=f"bad header Bearer {KEY}".encode(), status=400),
        Answer(body=json.dumps({"error": {"message": f"{KEY} is wrong"}}).encode(), status=401),
    ]
    settings = [None]
    with serving(lambda n, _: script[n]) as server:
        settings = quick(server.url, tmp_path / "c.jsonl", concurrency=1)
        judged = run_judge(some_pairs(tmp_path, 4), settings)
    assert len(server.requests) == 3 and "[key] is wrong" in judged.stopped
    seen = [judged, settings, caplog.text, *capfd.readouterr(), (tmp_path / "c.jsonl").read_text()]
    assert "[key]" in seen[0].reasons[0] and "[key]" in seen[0].failures["00001"]
    for place in seen:
        assert "secret" not in str(place) and "secret" not in repr(place)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from judge_server import quick, some_pairs
from omfa_jax.evals.judge.judge_session import run_judge
run_judge(some_pairs(Path(sys.argv[2]), 30), quick(sys.argv[3], Path(sys.argv[2]) / "c.jsonl"))
"""


def test_a_kill_costs_what_was_in_flight_and_no_more(tmp_path):
    cache = tmp_path / "c.jsonl"
    with serving(lambda n, _: Answer(wait_s=0.05)) as server:
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", KILLED, here, str(tmp_path), server.url]
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(server.requests) < 12:
            assert run.poll() is None
            time.sleep(0.01)
        with pytest.raises(OmfaError, match="another run is using"):
            run_judge(some_pairs(tmp_path, 30), quick(server.url, cache))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        time.sleep(0.2)
        sent = len(server.requests)
        with cache.open("ab") as file:
            file.write(b'{"key": "cut sho')  # what a kill inside a write leaves
        judged = run_judge(some_pairs(tmp_path, 30), quick(server.url, cache))
        assert judged.complete and len(server.requests) <= 30 + 4 and sent < 30
        assert run_judge(some_pairs(tmp_path, 30), quick(server.url, cache)).new_requests == 0
