"""The form without a browser: what it is made of, what it writes, and whom it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from santescaffold import answers as answers_files
from santescaffold import cli
from santescaffold.interview import form, tables
from santescaffold.interview.command import interview
from santescaffold.interview.server import ADDRESS, Server
from santescaffold.interview.session import CannotOpen, Changed, Session, to_yaml
from santescaffold.template import Template
from tests.support import MINIMUM, PLAN_NAMES, PLANS, ROOT, load_plan

TEMPLATE = Template(ROOT)
QUESTIONS = TEMPLATE.catalog["questions"]
FORM = form.describe(TEMPLATE.catalog)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "answers.yml", TEMPLATE)


@pytest.fixture
def server(session: Session) -> Iterator[Server]:
    served = Server(session)
    yield served
    served._server.server_close()


@pytest.fixture
def client(server: Server) -> FlaskClient:
    return server.app.test_client()


@pytest.fixture
def post(server: Server, client: FlaskClient) -> Callable[..., TestResponse]:
    """A function that posts JSON to one of the form's addresses as the page does."""

    def send(path: str, body: Any, **headers: str) -> TestResponse:
        ours = {"Host": server.hosts[0], "X-Interview": "1", **headers}
        return client.post(f"/{server.token}/api/{path}", json=body, headers=ours)

    return send


# ---- what it is made of


def test_every_answer_is_in_the_form_once_and_in_order() -> None:
    listed = [name for section in FORM["sections"] for group in section["groups"] for name in group["questions"]]
    assert sorted(listed) == sorted(name for name in QUESTIONS if "group" in QUESTIONS[name])
    assert len(listed) == len(set(listed)) == len(FORM["questions"])
    assert all(section["title"] != section["id"] for section in FORM["sections"])


@pytest.mark.parametrize("name", FORM["questions"])
def test_every_question_says_what_it_asks_why_and_what_it_changes(name: str) -> None:
    question = FORM["questions"][name]
    assert question["question"].endswith("?")
    assert question["why"]
    assert question["changes"], "catalog/question-groups.yml names nothing it changes"
    if question["form"] in ("choice", "multi"):
        refused = QUESTIONS[name].get("refused") or {}
        assert question["choices"]
        assert not {choice["value"] for choice in question["choices"]} & set(refused)
        assert all(choice["label"] for choice in question["choices"])
    if question["form"] in ("list", "struct"):
        spec = QUESTIONS[name].get("item") or QUESTIONS[name].get("fields") or {}
        assert [field["name"] for field in question["fields"]] == list(spec)


def test_words() -> None:
    assert form.label_of("rpo_hours") == "RPO hours"
    assert form.label_of("vcpu") == "vCPU"
    assert form.label_of("ram_gb") == "RAM (GB)"
    assert form.split_help("Which one? It matters\nmuch.\n  a: 1\n") == ("Which one?", "It matters much.", "a: 1")
    assert form.examples_of("- {name: x, groups: [a], n: 4}") == {"name": "x", "n": "4"}
    assert form.examples_of("- {") == {}


# ---- the answers file


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_a_named_plan_opened_and_saved_says_the_same(name: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yml"
    file.write_text((PLANS / f"{name}.yml").read_text(encoding="utf-8"), encoding="utf-8")
    before = answers_files.read(file, TEMPLATE).values
    opened = Session(file, TEMPLATE)
    opened.save(opened.values, opened.revision)
    after = answers_files.read(file, TEMPLATE)
    assert after.problems == []
    assert after.values == before
    assert list(after.values) == [question for question in QUESTIONS if question in before]
    assert "#" not in "".join(line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))


def test_texts_that_yaml_takes_for_something_else_stay_texts(session: Session) -> None:
    values = {**MINIMUM, "vision_statement": "one\ntwo: # three", "organization": "no", "oid_root": "2027-01-01"}
    session.save(values, "")
    assert answers_files.read(session.file, TEMPLATE).values == values
    assert yaml.safe_load(to_yaml({"languages": []})) == {"languages": []}
    assert yaml.safe_load(to_yaml({})) == {}


def test_comments_are_kept_in_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "answers.yml"
    file.write_text("# why\nproject_name: Test\n", encoding="utf-8")
    opened = Session(file, TEMPLATE)
    opened.save({"project_name": "Other"}, opened.revision)
    assert file.read_text(encoding="utf-8") == "project_name: Other\n"
    assert (tmp_path / "answers.yml.before-interview").read_text(encoding="utf-8").startswith("# why")


def test_what_is_no_answer_stays_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "answers.yml"
    file.write_text("project_nam: Test\ncountry_code: XT\n", encoding="utf-8")
    opened = Session(file, TEMPLATE)
    assert opened.others == ["project_nam"]
    opened.save({"country_code": "XU"}, opened.revision)
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == {"country_code": "XU", "project_nam": "Test"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "cannot be read"), ("- a\n", "not a list of answers"), ("roles: [mpi]\nroles: [cdr]\n", "written twice")],
)
def test_a_file_that_would_lose_something_is_not_opened(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "answers.yml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CannotOpen, match=said):
        Session(file, TEMPLATE)
    assert file.read_text(encoding="utf-8") == text


def test_the_answers_of_a_repository_are_copiers() -> None:
    with pytest.raises(CannotOpen, match="Copier alone may write it"):
        Session(Path(".copier-answers.yml"), TEMPLATE)


def test_a_change_by_somebody_else_is_not_overwritten(session: Session) -> None:
    revision = session.save(MINIMUM, "")
    session.file.write_text("project_name: Theirs\n", encoding="utf-8")
    with pytest.raises(Changed):
        session.save(MINIMUM, revision)
    assert session.file.read_text(encoding="utf-8") == "project_name: Theirs\n"


def test_saving_is_whole_or_not_at_all(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = session.save(MINIMUM, "")
    before = session.file.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        session.save({"project_name": "Lost"}, revision)
    assert session.file.read_bytes() == before
    assert [path.name for path in session.file.parent.iterdir()] == ["answers.yml"]


def test_the_file_is_private_or_keeps_its_mode(session: Session) -> None:
    revision = session.save(MINIMUM, "")
    assert session.file.stat().st_mode & 0o777 == 0o600
    session.file.chmod(0o644)
    session.save({}, revision)
    assert session.file.stat().st_mode & 0o777 == 0o644


# ---- checks and the plan so far


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_checks_are_those_of_check_answers(name: str, tmp_path: Path) -> None:
    file = PLANS / f"{name}.yml"
    expected = answers_files.check(answers_files.read(file, TEMPLATE), TEMPLATE)
    found = Session(tmp_path / "answers.yml", TEMPLATE).check(load_plan(name))
    assert sorted(f["id"] for f in found["findings"]) == sorted(p.id for p in expected if not p.id.startswith("N"))
    assert found["effective"] == TEMPLATE.effective(load_plan(name))


BAD_ANSWERS = [
    file
    for file in sorted((ROOT / "tests/plans/invalid").glob("*.yml"))
    if answers_files.read(file, TEMPLATE).root is not None
]


@pytest.mark.parametrize("file", BAD_ANSWERS, ids=lambda path: path.stem)
def test_bad_answers_are_named_and_never_stop_the_form(file: Path, session: Session) -> None:
    read = answers_files.read(file, TEMPLATE)
    expected = {problem.id for problem in answers_files.check(read, TEMPLATE) if problem.id[0] in "VLCD"}
    found = session.check(read.values)
    assert {finding["id"] for finding in found["findings"]} == expected
    assert "project_name" in found["applicable"]


def test_checking_and_planning_take_less_than_a_blink(session: Session) -> None:
    values = load_plan("demoland-mpi")

    def least(work: Callable[[dict[str, Any]], Any]) -> float:
        work(values)
        times = []
        for _ in range(5):
            begin = time.thread_time()
            work(values)
            times.append(time.thread_time() - begin)
        return min(times)

    assert least(session.check) < 0.2
    assert least(session.plan) < 0.4


def test_what_does_not_apply_is_not_asked(session: Session) -> None:
    assert "sites" not in session.check(MINIMUM)["applicable"]
    assert "sites" in session.check({**MINIMUM, "offline": True})["applicable"]


def test_the_plan_so_far_begins_with_nothing_answered(session: Session) -> None:
    empty = session.plan({})
    assert empty["tasks"]["all"] > 100
    assert all(host["placeholder"] for host in empty["hosts"])
    full = session.plan(load_plan("demoland-mpi"))
    assert {"prd-db", "stg-app"} <= {host["name"] for host in full["hosts"]}
    assert sum(phase["tasks"] for phase in full["tasks"]["phases"]) == full["tasks"]["all"]
    assert "HL7" in {feature["id"] for feature in full["features"]}
    assert session.plan({"concurrent_clients": "many"})["tasks"]["all"] == empty["tasks"]["all"]


# ---- tables


def test_a_table_survives_being_written_and_read() -> None:
    hosts = load_plan("demoland-mpi")["hosts"]
    assert tables.read(tables.write(hosts, QUESTIONS["hosts"]), "hosts", QUESTIONS["hosts"]) == hosts
    assert tables.read(tables.write([], QUESTIONS["hosts"]), "hosts", QUESTIONS["hosts"]) == []
    systems = load_plan("demoland-mpi")["connected_systems"]
    spec = QUESTIONS["connected_systems"]
    assert tables.read(tables.write(systems, spec), "connected_systems", spec) == systems


def test_a_spreadsheet_with_semicolons_and_labels() -> None:
    text = '\ufeffName;Code;Users;Local systems\nClinic 1;C-1;4;"OpenMRS\nlab"\n;;;\nClinic 2;C-2;many;\n'
    assert tables.read(text, "sites", QUESTIONS["sites"]) == [
        {"name": "Clinic 1", "code": "C-1", "users": 4, "local_systems": ["OpenMRS", "lab"]},
        {"name": "Clinic 2", "code": "C-2", "users": "many"},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the table is empty"),
        ("name,nme\na,b\n", 'the column "nme" is none of the fields'),
        ("name,Name\na,b\n", 'the column "Name" comes twice'),
        ("name,code\na,b,c\n", "row 2 has 3 cells"),
        ('name,code\n"a,b\n', "cannot be read"),
    ],
)
def test_a_table_that_would_lose_something_is_refused(text: str, said: str) -> None:
    with pytest.raises(tables.BadTable, match=said):
        tables.read(text, "sites", QUESTIONS["sites"])


def test_no_secret_comes_in_by_a_table_or_a_file(session: Session) -> None:
    spec = {"item": {"name": {"form": "text"}}, "secrets": {"password": "vault_x"}}
    with pytest.raises(tables.BadTable, match="is a secret"):
        tables.read("name,Password\na,hunter2\n", "x", spec)
    text = "smtp: {server: 'smtp://m.example.org:25', from: a@b.example.org, password: hunter2}\n"
    values, problems = session.take_over(text)
    assert "password" not in values["smtp"]
    assert "vault_smtp_password" in problems[-1].sentence
    assert "hunter2" not in problems[-1].sentence


# ---- whom it refuses


def test_it_listens_on_loopback_under_an_address_of_its_own(server: Server, session: Session) -> None:
    assert ADDRESS == "127.0.0.1"
    assert server._server.socket.getsockname()[0] == "127.0.0.1"
    other = Server(session)
    assert other.token != server.token
    assert len(server.token) >= 40
    other._server.server_close()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "evil.example.org"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_requests_of_others_are_refused(post: Callable[..., TestResponse], headers: dict[str, str], code: int) -> None:
    assert post("check", {"answers": MINIMUM}, **headers).status_code == code


def test_a_form_of_another_site_cannot_post(server: Server, client: FlaskClient) -> None:
    path, ours = f"/{server.token}/api/save", {"Host": server.hosts[0]}
    body = '{"answers": {}, "revision": ""}'
    assert (
        client.post(path, data=body, content_type="text/plain", headers={**ours, "X-Interview": "1"}).status_code == 403
    )
    assert client.post(path, data=body, content_type="application/json", headers=ours).status_code == 403
    assert not server.session.file.exists()


@pytest.mark.parametrize("path", ["/", "/form", "/{wrong}/", "/{wrong}/api/answers", "/{wrong}/static/form.js"])
def test_nothing_without_the_token(server: Server, client: FlaskClient, path: str) -> None:
    wrong = server.token[:-1] + ("A" if server.token[-1] != "A" else "B")
    assert client.get(path.format(wrong=wrong), headers={"Host": server.hosts[0]}).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(server: Server, client: FlaskClient) -> None:
    page = client.get(f"/{server.token}/", headers={"Host": server.hosts[0]})
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert server.token not in page.text
    for name in ("form.js", "form.css", "icon.svg"):
        found = client.get(f"/{server.token}/static/{name}", headers={"Host": server.hosts[0]})
        assert found.status_code == 200
        assert "https://" not in found.text
    assert client.get(f"/{server.token}/static/../server.py", headers={"Host": server.hosts[0]}).status_code == 404


@pytest.mark.parametrize("body", ["", [], {}, {"answers": []}, {"answers": None}])
def test_a_request_without_answers_is_refused(post: Callable[..., TestResponse], body: Any) -> None:
    for path in ("check", "save", "plan", "export"):
        assert post(path, body).status_code == 400


# ---- the whole way


def test_from_nothing_to_a_saved_file(post: Callable[..., TestResponse], server: Server) -> None:
    saved = post("save", {"answers": {**MINIMUM, "not_an_answer": 1}, "revision": ""})
    assert saved.status_code == 200
    assert answers_files.read(server.session.file, TEMPLATE).values == MINIMUM
    assert post("save", {"answers": {}, "revision": "stale"}).status_code == 409
    again = post("save", {"answers": {}, "revision": saved.get_json()["revision"]})
    assert again.status_code == 200
    assert yaml.safe_load(post("export", {"answers": MINIMUM}).text) == MINIMUM
    assert post("import", {"text": to_yaml(MINIMUM)}).get_json() == {"answers": MINIMUM, "problems": []}
    assert post("table/sites", {"text": "name,code\na,b\n"}).get_json() == {"items": [{"name": "a", "code": "b"}]}
    assert post("table/sites", {"text": "x\n"}).status_code == 422
    assert post("table/sites", {"items": []}).text.startswith("name,code")
    assert post("table/roles", {"items": []}).status_code == 404


def test_finishing_ends_the_server(session: Session) -> None:
    served = Server(session)
    running = threading.Thread(target=served.serve)
    running.start()
    try:
        answer = served.app.test_client().post(
            f"/{served.token}/api/finish", json={}, headers={"Host": served.hosts[0], "X-Interview": "1"}
        )
        assert answer.status_code == 200
        running.join(timeout=10)
        assert not running.is_alive()
    finally:
        served._server.shutdown()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.VERBS["interview"] == "santescaffold.interview.command:interview"
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)

    def interrupted(server: Server) -> None:
        server.save(MINIMUM, "")
        server._server.server_close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve", interrupted)
    file = tmp_path / "a.yml"
    done = CliRunner().invoke(interview, [str(file), "--template", str(ROOT)])
    assert done.exit_code == 0, done.output
    assert opened[0] in done.output
    assert f"santescaffold new DEST --answers {file} --template {ROOT}" in done.output
    file.write_text("a: [", encoding="utf-8")
    refused = CliRunner().invoke(interview, [str(file), "--template", str(ROOT), "--no-browser"])
    assert refused.exit_code == 1
    assert "cannot be read" in refused.output
    assert len(opened) == 1
