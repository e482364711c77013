"""The tasks of the five phases: complete, uniquely named, and explicit about the answers they rest on."""

import re
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
CATALOG = HERE.parents[1] / "catalog"
FILES = [
    ("1-information-gathering", "INF", 26, "project"),
    ("2-planning", "PLN", 72, "project"),
    ("3-development-integration", "DEV", 40, "project"),
    ("4-deployment", "DEP", 106, "environment"),
    ("5-rollout", "ROL", 54, "environment"),
]
EVIDENCE = {"sign_off", "document", "register", "record", "config", "command_output", "test_report"}
OPERATORS = {"is", "is_not", "one_of", "has", "has_any", "is_set", "greater_than"}
FIELDS = {
    "id", "title", "scope", "owner", "helps", "deliverable", "evidence", "gate", "gate_stage", "gate_basis", "gate_why",
    "also_gates", "applies_when", "depends_on", "verify", "verify_how", "source", "inferred", "note",
}  # fmt: skip


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tasks_of(phase):
    return [task for group in phase["groups"] for task in group["tasks"]]


PHASES = {name: load(CATALOG / "phases" / f"{name}.yml") for name, *_ in FILES}
TASKS = [task for phase in PHASES.values() for task in tasks_of(phase)]
BY_ID = {task["id"]: task for task in TASKS}
GATES = load(CATALOG / "gates.yml")
ROLES = load(CATALOG / "team-roles.yml")["team_roles"]
ANSWERS = (HERE / "answer_ids.txt").read_text(encoding="utf-8").split()

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task["id"])


def clauses(task):
    when = task["applies_when"]
    if when == "always":
        return []
    assert len(when) == 1
    assert set(when) <= {"all", "any"}
    return next(iter(when.values()))


def mentioned(text):
    """Answer ids that stand in a text as whole words."""
    return set(re.findall(r"\w+(?:-\w+)*", text)) & set(ANSWERS)


def test_answer_ids():
    assert len(ANSWERS) == len(set(ANSWERS)) == 149


def test_count_and_unique_ids():
    assert len(TASKS) == 298
    assert len(BY_ID) == 298
    assert {path.stem for path in (CATALOG / "phases").glob("*.yml")} == {name for name, *_ in FILES}


@pytest.mark.parametrize(("name", "prefix", "count", "scope"), FILES)
def test_phase(name, prefix, count, scope):
    phase = PHASES[name]
    assert phase["task_prefix"] == prefix
    assert phase["id"] == name[2:]
    assert all(phase[key] for key in ("name", "purpose", "entry_conditions", "exit", "raci_rows", "source"))
    tasks = tasks_of(phase)
    # Numbers run without a gap: ids are never reused, new ones come at the end of the prefix.
    assert sorted(int(task["id"].removeprefix(f"{prefix}-")) for task in tasks) == list(range(1, count + 1))
    assert {task["scope"] for task in tasks} == {scope}


@each_task
def test_task_fields(task):
    assert set(task) <= FIELDS
    assert all(task[key] for key in ("title", "deliverable", "gate_why", "source"))
    assert task["owner"] in ROLES
    assert set(task.get("helps", [])) <= set(ROLES)
    assert task["evidence"] in EVIDENCE
    assert task["verify"] in {"auto", "assisted", "human"}
    assert task.get("also_gates", "site") in {"site", "partner", "rollout"}


@each_task
def test_depends_on(task):
    depends_on = task["depends_on"]
    if depends_on == "all":
        assert task["id"] == "DEP-106"
        return
    assert isinstance(depends_on, list)
    assert len(depends_on) == len(set(depends_on))
    assert set(depends_on) <= set(ANSWERS)
    assert {clause["answer"] for clause in clauses(task)} <= set(depends_on)
    assert mentioned(task.get("verify_how", "")) <= set(depends_on)


@each_task
def test_applies_when(task):
    assert task["applies_when"] == "always" or clauses(task)
    for clause in clauses(task):
        assert clause["answer"] in ANSWERS
        operators = set(clause) - {"answer"}
        assert len(operators) == 1
        assert operators <= OPERATORS
        value = clause[operators.pop()]
        # An unquoted version number would be a float and silently never match.
        assert isinstance(value, (str, bool, int, list))


@each_task
def test_gate(task):
    assert isinstance(task["gate"], bool)
    if task["gate"]:
        assert task["gate_stage"] in {"before_install", "before_use"}
        assert task["gate_basis"] in {"preflight", "stated", "inferred"}
        assert task["depends_on"], "a gate task says what it rests on"
    else:
        assert "gate_stage" not in task
        assert "gate_basis" not in task


def test_gate_counts():
    stages = [task["gate_stage"] for task in TASKS if task["gate"]]
    assert (stages.count("before_install"), stages.count("before_use")) == (31, 58)


def test_rulings():
    assert BY_ID["DEP-70"]["verify"] == "human"
    assert [clause["answer"] for clause in clauses(BY_ID["DEP-34"])] == ["topology"]
    assert {"rpo_hours", "rto_hours", "mto_hours", "component_objectives", "backup_methods", "backup_targets",
            "backup_interval_hours"} <= set(BY_ID["PLN-38"]["depends_on"])  # fmt: skip
    # before_install is decided before anything is installed.
    for task in TASKS:
        if task.get("gate_stage") == "before_install" and task["verify"] == "auto":
            assert "running" not in task.get("verify_how", ""), task["id"]


@pytest.mark.parametrize("kind", ["production", "staging", "training", "development"])
def test_gates_of_environment(kind):
    environment = GATES["environments"][kind]
    assert set(environment) == {"stages", "before_install", "before_use"}
    for stage in ("before_install", "before_use"):
        listed = environment[stage]
        if kind == "production":
            assert listed == "all"
            continue
        assert bool(listed) == (stage in environment["stages"])
        assert len(listed) == len(set(listed))
        for task_id in listed:
            assert BY_ID[task_id]["gate"], f"{task_id} is no gate in production"
            assert BY_ID[task_id]["gate_stage"] == stage, task_id
    assert len(GATES["environments"]) == 4


def test_gates_of_people_and_playbooks():
    assert set(GATES["two_people"]) == {"PLN-10", "PLN-23", "PLN-46", "PLN-53", "PLN-64", "DEP-106"}
    assert all(BY_ID[task_id]["gate"] for task_id in GATES["two_people"])
    assert GATES["two_people_records"] == ["waiver", "emergency_review"]
    assert GATES["emergency_review_days"] == 3
    assert set(GATES["never_gated"]) == {"verify", "backup", "restore-drill", "certificates"}
    assert GATES["never_gated_roles"] == ["host_baseline"]
    assert GATES["never_gated_tags"] == ["preflight"]
