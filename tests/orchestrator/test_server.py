"""The service: who may ask, what it answers, how drivers start and end, what its pages say."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from orchestrator.budget import parse_budget
from orchestrator.cli import app as command
from orchestrator.client import Service, exit_code_of, follow, service_at, submit
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, EnvironmentUnusable, StateRefused
from orchestrator.executors.base import STOP_FILE
from orchestrator.journal import JOURNAL, LOCK, Journal
from orchestrator.operations import is_running
from orchestrator.outcome import Answer
from orchestrator.server import driving, heavy
from orchestrator.server.access import TOKEN_FILE, Access, open_token
from orchestrator.server.api import PREFIX, Shop
from orchestrator.server.files import given, listed
from orchestrator.server.gate import MAX_BODY
from orchestrator.server.listening import make_app, serve
from orchestrator.server.local_paths import relative_paths
from orchestrator.service import run_sweep
from orchestrator.session import RunReply
from orchestrator.setting import Setting
from orchestrator.submission import (
    has_driver,
    read_record,
    read_submission,
    take_driver_lock,
    write_record,
)

TOKEN = "t" * 40
BASE = "http://127.0.0.1:8765"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TEXT = """\
name: small
budget: {flops: 8e12}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11], sizes: 3, span: 2, tokens_per_parameter: 150}
"""


class Starter:
    """Holds the lock that a driver would inherit, instead of starting one."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.locks: list[int] = []

    def __call__(self, sweep_dir: Path, verb: str, lock: int) -> None:
        self.started.append((sweep_dir.name, verb))
        self.locks.append(os.dup(lock))

    def end(self) -> None:
        for lock in self.locks:
            os.close(lock)
        self.locks.clear()


@pytest.fixture
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.end()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the finished sweep is kept for the tests to copy."""
    return tmp_path_factory.mktemp("kept") / "small"


@pytest.fixture
def swept(make_setting: Callable[..., Setting], fake_executor: Any, kept: Path) -> Setting:
    """A finished sweep of three trials, without a report."""
    setting = make_setting(TEXT)
    if kept.exists():
        shutil.copytree(kept, setting.sweep_dir)
        return setting
    run_sweep(
        setting,
        make_executor=lambda: fake_executor,
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=10, interim=False, report=False),
    )
    shutil.copytree(setting.sweep_dir, kept)
    return setting


def at_once(work: str, **arguments: Any) -> dict[str, Any]:
    """Heavy work in this process."""
    return heavy.WORK[work](**arguments)


@pytest.fixture
def client(tmp_path: Path, starter: Starter) -> TestClient:
    """The service on the outputs folder, asked without a token unless a test says so."""
    shop = Shop(outputs=tmp_path / "outputs", work=at_once, start=starter)
    app = make_app(shop, Access(token=TOKEN))
    return TestClient(app, base_url=BASE, follow_redirects=False, raise_server_exceptions=False)


def code_of(answer: Any) -> str:
    document = answer.json()
    assert document["schema"] == "sweep.error/1"
    return str(document["faults"][0]["code"])


def messages(text: str) -> list[dict[str, Any]]:
    """The records of an event stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


# Who may ask


def test_no_route_answers_without_the_token(client: TestClient, swept: Setting) -> None:
    paths = client.get(f"{PREFIX}/openapi.json", headers=BEARER).json()["paths"]
    assert len(paths) >= 14
    asked = [(method, path) for path, methods in paths.items() for method in methods]
    for method, path in [*asked, ("get", f"{PREFIX}/openapi.json"), ("post", "/logout")]:
        filled = path.replace("{name}", "small").replace("{trial}", "L1")
        for headers in ({}, {"Authorization": "Bearer " + "x" * 40}, {"Cookie": f"sweep={TOKEN}"}):
            answer = client.request(method, filled, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert code_of(answer) == "SWP-6001"
    for page in ("/", "/sweeps/small", "/fresh.js"):
        answer = client.get(page)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


@pytest.mark.parametrize(
    ("host", "lets_in"),
    [
        ("127.0.0.1:8765", True),
        ("localhost:9999", True),
        ("[::1]:8765", True),
        ("stranger.example", False),
        ("127.0.0.1.stranger.example", False),
        ("10.0.0.7:8765", False),
        ("", False),
    ],
)
def test_only_this_machines_own_names_are_answered(
    client: TestClient, host: str, lets_in: bool
) -> None:
    answer = client.get(f"{PREFIX}/sweeps", headers={**BEARER, "Host": host})
    assert (answer.status_code == 200) == lets_in
    if not lets_in:
        assert (answer.status_code, code_of(answer)) == (403, "SWP-6002")


def test_a_service_beyond_loopback_answers_to_addresses_and_its_own_name_alone() -> None:
    access = Access(token=TOKEN, names=frozenset({"gpu-box"}), loopback_only=False)
    assert access.may_be_called("10.0.0.7:8765")
    assert access.may_be_called("gpu-box:8765")
    assert not access.may_be_called("stranger.example:8765")


def test_another_sites_page_is_refused_even_with_the_token(client: TestClient) -> None:
    for origin in ("http://stranger.example", "http://127.0.0.1:9999", "null"):
        answer = client.get(f"{PREFIX}/sweeps", headers={**BEARER, "Origin": origin})
        assert (answer.status_code, code_of(answer)) == (403, "SWP-6003")


def test_the_log_in_reads_and_changes_only_from_the_services_own_pages(
    client: TestClient, swept: Setting
) -> None:
    assert client.post("/login", data={"token": "wrong"}).status_code == 401
    entered = client.post("/login", data={"token": TOKEN}, headers={"Origin": BASE})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert client.get("/").status_code == 200
    assert client.get(f"{PREFIX}/sweeps").status_code == 200
    assert client.post(f"{PREFIX}/sweeps/small/stop").status_code == 401
    own = client.post(f"{PREFIX}/sweeps/small/stop", headers={"Origin": BASE})
    assert own.json() == {"schema": "sweep.stop/1", "asked": False}
    assert client.post("/logout", headers={"Origin": BASE}).status_code == 303
    assert client.get("/").status_code == 303


def test_a_log_in_outlives_a_restart_and_not_the_token() -> None:
    header = f"{Access(token=TOKEN).cookie_name}={Access(token=TOKEN).cookie_value}"
    assert Access(token=TOKEN).is_logged_in(header)
    assert not Access(token="u" * 40).is_logged_in(header)


def test_a_body_beyond_the_limit_is_not_read(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 100_000 + 1):
            yield b"x" * 100_000

    for body in (b"x" * (MAX_BODY + 1), endless()):
        answer = client.post(f"{PREFIX}/plan", headers=BEARER, content=body)
        assert (answer.status_code, code_of(answer)) == (413, "SWP-6004")


def test_a_token_is_made_once_private_and_refused_when_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "outputs" / TOKEN_FILE
    token, is_new = open_token(path)
    assert is_new
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_token(path) == (token, False)
    path.chmod(0o640)
    with pytest.raises(EnvironmentUnusable, match=r"SWP-6009[\s\S]*others than its owner"):
        open_token(path)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::", "gpu-box"])
def test_beyond_loopback_it_listens_only_when_asked_twice(tmp_path: Path, host: str) -> None:
    with pytest.raises(BadInput, match=r"SWP-6008[\s\S]*nothing is encrypted"):
        serve(tmp_path, host=host, port=0, expose=False, announce=lambda _: None)


# What it answers


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/sweeps", ["ls"]),
        ("/sweeps/small", ["status", "small"]),
        ("/sweeps/small/logs", ["logs", "small"]),
        ("/sweeps/small/trials/{trial}", ["show", "small", "{trial}"]),
    ],
)
def test_the_service_answers_what_the_command_prints(
    client: TestClient, swept: Setting, path: str, arguments: list[str]
) -> None:
    trial = client.get(f"{PREFIX}/sweeps/small/trials", headers=BEARER).json()["trials"][0]
    words = [word.replace("{trial}", trial["trial_id"]) for word in arguments]
    printed = CliRunner().invoke(command, [*words, "--outputs", str(swept.outputs), "--json"])
    answer = client.get(PREFIX + path.replace("{trial}", trial["trial_id"]), headers=BEARER)
    assert answer.json() == json.loads(printed.stdout)


def test_a_quotation_is_the_commands_and_leaves_nothing_behind(
    client: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "b.yaml").write_text(TEXT)
    before = sorted(tmp_path.rglob("*"))
    answer = client.post(f"{PREFIX}/plan", headers=BEARER, json={"budget": TEXT})
    assert sorted(tmp_path.rglob("*")) == before
    printed = CliRunner().invoke(
        command, ["plan", str(tmp_path / "b.yaml"), "--outputs", str(tmp_path / "o"), "--json"]
    )
    assert answer.json() == json.loads(printed.stdout)
    assert answer.json()["schema"] == "sweep.plan/1"


def test_a_fit_is_made_of_what_is_finished(
    client: TestClient, swept: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.fitting.RESAMPLES", 10)
    answer = client.get(f"{PREFIX}/sweeps/small/fit?target_flops=1e12", headers=BEARER).json()
    assert (answer["schema"], answer["n_points"]) == ("sweep.fit/1", 3)


def test_points_of_a_trial_come_in_pages(client: TestClient, swept: Setting) -> None:
    trial = client.get(f"{PREFIX}/sweeps/small/trials", headers=BEARER).json()["trials"][0]
    folder = swept.sweep_dir / "trials" / trial["trial_id"]
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step}) for step in range(5)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 5')
    path = f"{PREFIX}/sweeps/small/trials/{trial['trial_id']}/metrics"
    first = client.get(path, params={"limit": 3}, headers=BEARER).json()
    assert ([p["step"] for p in first["points"]], first["more"]) == ([0, 1, 2], True)
    rest = client.get(path, params={"skip": 3}, headers=BEARER).json()
    assert ([p["step"] for p in rest["points"]], rest["more"]) == ([3, 4], False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/sweeps/nothing", None, 404, "SWP-1305"),
        ("GET", "/sweeps/%2e%2e", None, 404, "SWP-1305"),
        ("GET", "/sweeps/small/trials/nothing", None, 404, "SWP-1309"),
        ("GET", "/nothing", None, 404, "SWP-6005"),
        ("DELETE", "/sweeps", None, 405, "SWP-6005"),
        ("GET", "/sweeps/small/fit?law=magic", None, 422, "SWP-6006"),
        ("POST", "/plan", {"budget": "name: x", "more": 1}, 422, "SWP-6006"),
        ("POST", "/plan", {"budget": "name: x"}, 422, "SWP-1102"),
        ("POST", "/sweeps", {"budget": "a: [1"}, 422, "SWP-1001"),
        ("POST", "/sweeps/small/extend", {"budget": "-3"}, 422, "SWP-1353"),
        ("GET", "/sweeps/small/report", None, 404, "SWP-6005"),
    ],
)
def test_what_is_wrong_is_said_with_a_code(
    client: TestClient, swept: Setting, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = client.request(method, PREFIX + path, headers=BEARER, json=body)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_a_defect_of_ours_is_answered_as_one(client: TestClient, swept: Setting) -> None:
    (swept.sweep_dir / "driver.json").write_text("{")
    answer = client.get(f"{PREFIX}/sweeps/small/events", headers=BEARER)
    assert answer.status_code == 200  # the stream had begun
    (swept.sweep_dir / JOURNAL).unlink()
    (swept.sweep_dir / JOURNAL).mkdir()
    (swept.sweep_dir / "submission.json").write_text("{}")
    answer = client.get(f"{PREFIX}/sweeps/small", headers=BEARER)
    assert (answer.status_code, code_of(answer)) == (500, "SWP-7000")


@pytest.mark.parametrize(
    "name",
    ["../.server-token", "..", ".lock", "journal.jsonl/../.lock", "checkpoints/a", "report/../x",
     "link.csv", "trials/x/checkpoints/step-1.safetensors", "report/out.csv"],
)  # fmt: skip
def test_only_results_are_given_out(tmp_path: Path, name: str) -> None:
    sweep = tmp_path / "s"
    (sweep / "report").mkdir(parents=True)
    (tmp_path / ".server-token").write_text(TOKEN)
    (sweep / ".lock").write_text("x")
    (sweep / "losses.csv").write_text("x")
    (sweep / "link.csv").symlink_to(tmp_path / ".server-token")
    (sweep / "report" / "out.csv").symlink_to(tmp_path / ".server-token")
    assert listed(sweep) == ["losses.csv"]
    with pytest.raises(BadInput, match="SWP-6005"):
        given(sweep, name)


def test_a_given_file_is_a_strangers_document(client: TestClient, swept: Setting) -> None:
    (swept.sweep_dir / "report").mkdir()
    (swept.sweep_dir / "report" / "report.html").write_text("<p>answer</p>")
    answer = client.get(f"{PREFIX}/sweeps/small/report", headers=BEARER)
    assert answer.text == "<p>answer</p>"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"


# Events


def test_the_events_are_the_journal_and_end_with_how_it_ended(
    client: TestClient, swept: Setting
) -> None:
    answer = client.get(f"{PREFIX}/sweeps/small/events", headers=BEARER)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = messages(answer.text)
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[0]["words"] == "begun: small, 8e+12 FLOPs"
    assert (end["schema"], end["standing"], end["exit_code"]) == ("sweep.end/1", "finished", 1)
    later = client.get(f"{PREFIX}/sweeps/small/events", headers={**BEARER, "Last-Event-ID": "3"})
    assert messages(later.text)[:-1] == events[4:]


def test_a_line_that_is_not_whole_is_no_event_yet(client: TestClient, swept: Setting) -> None:
    path = swept.sweep_dir / JOURNAL
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    events = messages(client.get(f"{PREFIX}/sweeps/small/events", headers=BEARER).text)
    assert len(events) == whole.count(b"\n")  # one fewer, and the end


# Drivers


def test_a_submitted_budget_is_kept_and_driven_once(
    client: TestClient, tmp_path: Path, starter: Starter
) -> None:
    first = client.post(f"{PREFIX}/sweeps", headers=BEARER, json={"budget": TEXT})
    assert first.status_code == 202
    assert (first.json()["started"], first.json()["standing"]) == (True, "starting")
    folder = tmp_path / "outputs" / "small"
    assert read_submission(folder).text == TEXT
    assert has_driver(folder)
    again = client.post(f"{PREFIX}/sweeps", headers=BEARER, json={"budget": TEXT})
    assert (again.status_code, again.json()["started"]) == (202, False)
    assert starter.started == [("small", "run")]
    status = client.get(f"{PREFIX}/sweeps/small", headers=BEARER).json()
    assert (status["standing"], status["budget_flops"], status["runs"]) == ("starting", None, [])
    assert client.get(f"{PREFIX}/sweeps/small/logs", headers=BEARER).status_code == 409
    starter.end()
    assert not has_driver(folder)
    assert client.post(f"{PREFIX}/sweeps/small/resume", headers=BEARER).json()["started"]
    assert starter.started[-1] == ("small", "resume")


def test_a_name_that_began_with_another_budget_is_refused(
    client: TestClient, swept: Setting, starter: Starter
) -> None:
    other = TEXT.replace("8e12", "9e12")
    answer = client.post(f"{PREFIX}/sweeps", headers=BEARER, json={"budget": other})
    assert (answer.status_code, code_of(answer)) == (409, "SWP-5004")
    assert "budget.flops" in answer.text
    assert starter.started == []


def test_paths_that_only_the_sender_has_are_refused_with_their_keys(
    client: TestClient, tmp_path: Path, starter: Starter
) -> None:
    text = TEXT + 'data: {corpus: ["texts/*.txt", "/data/a.txt"], validation: held.txt}\n'
    assert relative_paths(parse_budget(text)) == [
        "data.corpus: texts/*.txt",
        "data.validation: held.txt",
    ]
    for base in (None, "/nowhere/at/all", "relative"):
        body = {"budget": text} | ({"base": base} if base else {})
        answer = client.post(f"{PREFIX}/sweeps", headers=BEARER, json=body)
        assert (answer.status_code, code_of(answer)) == (422, "SWP-6007")
        assert "data.corpus: texts/*.txt" in answer.text
    body = {"budget": text, "base": str(tmp_path)}
    assert client.post(f"{PREFIX}/sweeps", headers=BEARER, json=body).status_code == 202
    assert read_submission(tmp_path / "outputs" / "small").base == str(tmp_path)


def test_a_driver_writes_down_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: TestClient, starter: Starter
) -> None:
    client.post(f"{PREFIX}/sweeps", headers=BEARER, json={"budget": TEXT})
    folder = tmp_path / "outputs" / "small"
    handler = signal.getsignal(signal.SIGTERM)
    outcomes: list[Any] = [
        RunReply(exit_code=4, document={}, report=None),  # type: ignore[arg-type]
        StateRefused([]),
        ZeroDivisionError("no"),
        SystemExit(143),
    ]

    def run(*_: Any) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr("orchestrator.session.run_budget", run)
    codes = []
    try:
        while outcomes:
            codes.append(driving.main([str(folder), "run", str(starter.locks[0])]))
            record = read_record(folder)
            assert record is not None
            assert record["exit_code"] == codes[-1]
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert codes == [4, 5, 70, 143]


def test_stopping_asks_the_sweep_or_ends_a_driver_that_only_prepares(
    client: TestClient, swept: Setting
) -> None:
    with Journal(swept.sweep_dir):
        asked = client.post(f"{PREFIX}/sweeps/small/stop", headers=BEARER).json()
        assert asked["asked"]
        assert (swept.sweep_dir / STOP_FILE).exists()
    lock = take_driver_lock(swept.sweep_dir)
    assert lock is not None
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        write_record(swept.sweep_dir, verb="run", pid=sleeper.pid)
        assert client.post(f"{PREFIX}/sweeps/small/stop", headers=BEARER).json()["asked"]
        assert sleeper.wait(30) == -signal.SIGTERM
    finally:
        os.close(lock)
        sleeper.kill()
        sleeper.communicate()


def test_who_asks_whether_a_sweep_runs_never_keeps_its_driver_out(
    swept: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker = os.open(swept.sweep_dir / LOCK, os.O_RDWR)
    fcntl.flock(looker, fcntl.LOCK_EX)
    # The looker is gone by the time that the driver tries again.
    monkeypatch.setattr("filelock._api.time.sleep", lambda _: fcntl.flock(looker, fcntl.LOCK_UN))
    with Journal(swept.sweep_dir):
        assert is_running(swept.sweep_dir)
    os.close(looker)


# Pages


def test_a_page_says_the_answer_and_escapes_what_it_shows(
    client: TestClient, swept: Setting
) -> None:
    with Journal(swept.sweep_dir) as journal:
        assert journal.state.opened is not None
    write_record(
        swept.sweep_dir,
        verb="run",
        exit_code=2,
        faults=[{"code": "SWP-1", "rule": "<script>alert(1)</script>", "place": "", "remedy": ""}],
    )
    path = swept.sweep_dir / JOURNAL
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")  # not finished: stopped
    page = client.get("/sweeps/small", headers=BEARER)
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text
    assert "3 done" in page.text
    for text in (page.text, client.get("/", headers=BEARER).text, client.get("/login").text):
        assert "http://" not in text
        assert "https://" not in text
        assert " style=" not in text
        assert "<style" not in text
        assert " on" + "click" not in text
        assert '<html lang="en">' in text
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    assert "small" in client.get("/", headers=BEARER).text
    assert client.get("/sweeps/nothing", headers=BEARER).status_code == 404


# The other end


class Told(Service):
    """A service that says what it was told to say."""


def test_a_reader_goes_on_where_a_restart_cut_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [{"schema": "e", "seq": n, "words": f"event {n}"} for n in range(4)]
    end = {"schema": "sweep.end/1", "name": "s", "exit_code": 4, "faults": []}
    asked: list[int] = []

    def speak(self: Service, name: str, *, after: int) -> Iterator[dict[str, Any]]:
        asked.append(after)
        if len(asked) == 1:
            yield from events[:2]
            raise ConnectionResetError
        if len(asked) == 2:
            raise EnvironmentUnusable([])
        yield from events[after + 1 :]
        yield end

    monkeypatch.setattr(Service, "events", speak)
    shown: list[str] = []
    found = follow(Service(url=BASE, token=TOKEN), "s", show=shown.append, pause=lambda _: None)
    assert found == end
    assert asked == [-1, 1, 1]
    assert [line for line in shown if line.startswith("event")] == [e["words"] for e in events]
    assert sum("away" in line for line in shown) == 1
    assert exit_code_of(found) == 4


def test_a_driver_that_died_without_a_word_is_an_error() -> None:
    with pytest.raises(EnvironmentUnusable, match="SWP-6013"):
        exit_code_of({"name": "s", "exit_code": None, "faults": []})
    fault = {"code": "SWP-2001", "rule": "r", "place": "", "excerpt": "", "remedy": "m"}
    with pytest.raises(BadInput, match="SWP-2001"):
        exit_code_of({"name": "s", "exit_code": 2, "faults": [fault]})


def test_the_token_of_this_folder_is_sent_to_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SWEEP_TOKEN", raising=False)
    token, _ = open_token(tmp_path / TOKEN_FILE)
    assert service_at(BASE, token_file=None, outputs=tmp_path).token == token
    with pytest.raises(BadInput, match="SWP-6011"):
        service_at("https://gpu-box.example", token_file=None, outputs=tmp_path)
    with pytest.raises(BadInput, match="SWP-6010"):
        service_at("gpu-box", token_file=None, outputs=tmp_path)
    monkeypatch.setenv("SWEEP_TOKEN", "from-the-environment")
    assert service_at("https://gpu-box.example", token_file=None, outputs=tmp_path).token == (
        "from-the-environment"
    )


def test_only_a_service_of_this_machine_is_told_of_local_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = []

    def ask(self: Service, method: str, path: str, body: Any = None) -> dict[str, Any]:
        bodies.append(body)
        return {"page": "/sweeps/small"}

    monkeypatch.setattr(Service, "ask", ask)
    for url in (BASE, "https://gpu-box.example"):
        submit(Service(url=url, token=TOKEN), tmp_path / "b.yaml", TEXT)
    assert bodies == [{"budget": TEXT, "base": str(tmp_path)}, {"budget": TEXT}]
