"""santescaffold adopt: the answers a file implies, its dangers, and no secret shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from santescaffold.adopt import Adoption, Unreadable
from santescaffold.cli import main
from santescaffold.template import Template
from tests.support import MINIMUM, ROOT

FILES = ROOT / "tests" / "adopt"
SECRETS = ("SanteDB123", "n0t-published-anywhere", "nobody-may-see", "Zebra-77-hidden")


def adopt(file: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["adopt", str(file), "--template", str(ROOT), *options])


def adopted(name: str) -> dict[str, Any]:
    done = adopt(FILES / name, "--json")
    assert done.exit_code in (0, 1), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def found(result: dict[str, Any]) -> set[tuple[str, str]]:
    """What is dangerous or to be looked at; notes say what the new deployment sets up by itself."""
    return {(problem["id"], problem["where"]) for problem in result["problems"] if problem["severity"] != "note"}


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.iterdir()))
def test_no_secret_is_shown(name: str, tmp_path: Path) -> None:
    for options in ((), ("--json",), ("-o", str(tmp_path / "answers.yml"))):
        done = adopt(FILES / name, *options)
        written = (tmp_path / "answers.yml").read_text() if "-o" in options else ""
        for secret in SECRETS:
            assert secret not in done.output + written
        assert done.exit_code == 1


def test_quick_start() -> None:
    result = adopted("quick-start.yml")
    answers = result["answers"]
    assert answers["roles"] == ["mpi"]
    assert answers["storage_mode"] == "mdm"
    assert answers["mdm_resources"] == ["Patient"]
    assert answers["matching_mode"] == "weighted"
    assert answers["hl7_authentication"] == "msh8"
    assert answers["privacy_default_action"] == "hide"
    assert answers["web_portal"] is True
    assert {"fhir_r4", "hl7v2_llp", "ihe_pix", "ihe_pdqm", "openapi"} <= set(answers["standards"])
    assert {
        ("D01", "db: image"),
        ("D01", "santedb: image"),
        ("D01", "www: image"),
        ("D02", "db: volumes"),
        ("D04", "db: ports"),
        ("D04", "santedb: ports"),
        ("D04", "www: ports"),
        ("D05", "db: POSTGRES_PASSWORD"),
        ("D05", "santedb: SDB_DB_MAIN"),
        ("D07", "santedb: SDB_SEC_SIG_default"),
        ("D08", "santedb: volumes"),
        ("D14", "santedb: SDB_FEATURE"),
        ("D15", "santedb: SDB_FHIR_AUDIT_EP"),
        ("D18", "santedb: SDB_MDM_AUTO_MERGE"),
        ("D23", "santedb: SDB_DELAY_START"),
        ("D05", "santedb: SDB_DB_AUDIT"),
    } == found(result)
    quirk = next(problem for problem in result["problems"] if problem["id"] == "D18")
    assert "(Q23: " in quirk["todo"]
    assert quirk["line"] == 19


def test_instant() -> None:
    result = adopted("instant.yml")
    assert result["answers"]["match_configurations"] == [
        {"resource": "Patient", "configuration_id": "org.santedb.matching.patient.default"}
    ]
    assert result["answers"]["image_versions"] == {"mpi": "3.0.2098-alpha"}
    assert result["answers"]["santedb_line"] == "3.x"
    assert result["answers"]["postgresql_version"] == "15"
    assert result["answers"]["log_level"] == "Informational"
    assert result["answers"]["cache"] == "memory"
    assert {
        ("D05", "db: POSTGRES_PASSWORD"),
        ("D05", "santedb: SDB_DB_MAIN"),
        ("D07", "santedb: SDB_SEC_SIG_default"),
        ("D08", "santedb: volumes"),
        ("D15", "santedb: SDB_FHIR_AUDIT_EP"),
        ("D15", "santedb: SDB_REDIS_SERVER"),
        ("D18", "santedb: SDB_MDM_RESOURCE"),
    } == found(result)


def test_container_page() -> None:
    """SanteDB's page about its containers: the generic server, and the client registry with a volume."""
    result = adopted("container-page-icdr.yml")
    assert result["answers"]["roles"] == ["cdr"]
    assert result["answers"]["matching_mode"] == "none"
    dangers = {
        ("D01", "db: image"),
        ("D01", "santedb: image"),
        ("D02", "db: volumes"),
        ("D04", "db: ports"),
        ("D04", "santedb: ports"),
        ("D05", "db: POSTGRES_PASSWORD"),
        ("D05", "santedb: SDB_DB_MAIN"),
        ("D05", "santedb: SDB_DB_AUDIT"),
        ("D07", "santedb: SDB_SEC_SIG_default"),
        ("D08", "santedb: volumes"),
        ("D14", "santedb: SDB_FEATURE"),
        ("D23", "santedb: SDB_DELAY_START"),
    }
    assert found(result) == {*dangers, ("D24", "santedb: SDB_FEATURE")}
    result = adopted("container-page-mpi.yml")
    assert result["answers"]["roles"] == ["mpi"]
    assert {"ihe_pixm", "ihe_pdqm", "ihe_pmir"} <= set(result["answers"]["standards"])
    assert found(result) == {
        *dangers,
        ("D18", "santedb: SDB_MDM_RESOURCE"),
        ("D18", "santedb: SDB_MDM_AUTO_MERGE"),
        ("D25", "santedb: volumes"),
    }


def test_openhie_package() -> None:
    result = adopted("openhie-package.yml")
    assert result["answers"]["image_versions"] == {"mpi": "2.1.3"}
    assert result["answers"]["santedb_line"] == "2.x"
    mounted = [problem["message"] for problem in result["problems"] if problem["id"] == "D25"]
    assert [message.split()[0] for message in mounted] == ["/santedb/data", "/santedb/config", "/santedb/applets"]
    assert {
        ("D02", "db: volumes"),
        ("D15", "santedb: SDB_REDIS_SERVER"),
        ("D16", "santedb: SDB_DATA_POLICY_RESOURCE"),
    } <= found(result)
    assert ("D08", "santedb: volumes") not in found(result), "a configuration is mounted: who knows what it says"


def without(data: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy of the data that lacks what is at the path."""
    head, *rest = path
    if isinstance(data, dict):
        kept = {key: value for key, value in data.items() if key != head or rest}
        return kept | ({head: without(data[head], tuple(rest))} if rest else {})
    return [without(value, tuple(rest)) if rest else None for value in [data[head]] if rest] + [
        value for place, value in enumerate(data) if place != head
    ]


def parts(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in the data: keys, items of lists."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from parts(value, (*path, key))


@pytest.mark.parametrize("name", sorted(path.name for path in FILES.glob("*.yml")))
def test_nothing_is_left_behind_unseen(name: str, tmp_path: Path) -> None:
    """Whatever is taken out of the file, the answers or the findings are others: everything is mapped, or said."""
    template = Template(ROOT)

    def outcome(data: Any) -> tuple[Any, Any]:
        (tmp_path / name).write_text(yaml.safe_dump(data, sort_keys=False, width=4096), encoding="utf-8")
        try:
            adoption = Adoption(tmp_path / name, template)
        except Unreadable as error:
            return str(error), None
        return adoption.answers, [(problem.id, problem.sentence) for problem in adoption.problems]

    whole = yaml.load((FILES / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    before = outcome(whole)
    taken, missed = 0, []
    for path in parts(whole):
        whole_key_is_named = (path[0] != "services" and len(path) > 1) or set(path[2:-1]) & {"depends_on", "deploy"}
        if path[0] == "version" or whole_key_is_named:
            continue
        missed += [path] if outcome(without(whole, path)) == before else []
        taken += 1
    for service, entry in whole["services"].items():
        for place, line in enumerate(entry.get("environment", [])):
            variable, _, value = line.partition("=")
            fields = [field for field in value.split(";") if field.strip()]
            for number in range(len(fields)) if len(fields) > 1 else ():
                kept = ";".join(fields[:number] + fields[number + 1 :])
                changed = copy.deepcopy(whole)
                changed["services"][service]["environment"][place] = f"{variable}={kept}"
                missed += [(variable, fields[number].split("=")[0])] if outcome(changed) == before else []
                taken += 1
    assert missed == []
    assert taken > 40


def test_client_registry_package() -> None:
    result = adopted("client-registry-package.yml")
    assert result["answers"]["santedb_line"] == "2.x"
    assert result["answers"]["cache"] == "redis"
    assert result["answers"]["database_failover"] == "streaming_replication"
    assert result["answers"]["postgresql_version"] == "14"
    assert result["answers"]["image_versions"] == {"mpi": "2.2.3", "www": "2.2.1.10"}
    assert {
        ("D12", "santedb-mpi: SDB_FEATURE"),
        ("D04", "santempi-redis: ports"),
        ("D06", "santedb-mpi: SDB_DB_MAIN"),
        ("D05", "santempi-psql-2: POSTGRESQL_PASSWORD"),
        ("D19", "santedb-mpi: SDB_DB_MAIN"),
        ("D20", "santempi-psql-2: REPMGR_PASSWORD"),
    } <= found(result)


def test_environment_file() -> None:
    result = adopted("server.env")
    messages = {problem["message"]: problem for problem in result["problems"]}
    assert messages["the feature FHIRR is unknown to 3.x"]["todo"].startswith('did you mean "FHIR"?')
    assert messages["the feature AUDIT_SHIPPING is unknown to 3.x"]["todo"].startswith("the documents name it")
    assert "the list of features has an empty or untrimmed entry" in messages
    assert "(Q03: " in messages["the feature SIGN does not do what it says"]["todo"]
    assert {
        ("D17", "server.env: SDB_LOG_LEVEL"),
        ("D17", "server.env: SDB_SEC_POL_LOCK"),
        ("D16", "server.env: SDB_DATA_POLICY_FORBID"),
        ("D18", "server.env: SDB_REDIS_SERVR"),
        ("D06", "server.env: SDB_SEC_SIG_default"),
        ("D06", "server.env: SDB_DB_MAIN"),
        ("D19", "server.env: SDB_DB_MAIN"),
        ("D24", "server.env: SDB_FEATURE"),
    } <= found(result)
    assert result["answers"]["time_zone"] == "Africa/Nairobi"
    assert result["answers"]["smtp"] == {"server": "smtp://mail.example.org:587", "from": "registry@example.org"}
    assert result["answers"]["audit_atna"] == {"endpoint": "audit.example.org:6514", "transport": "stcp"}


@pytest.mark.parametrize("name", ["instant.yml", "server.env"])
def test_the_answers_can_be_checked(name: str, tmp_path: Path) -> None:
    """What is written is an answers file: no unknown id, no unreadable value."""
    answers = {**yaml.safe_load(adopt(FILES / name).stdout), **MINIMUM}
    (tmp_path / "answers.yml").write_text(yaml.safe_dump(answers), encoding="utf-8")
    checked = CliRunner().invoke(
        main, ["check-answers", str(tmp_path / "answers.yml"), "--template", str(ROOT), "--json"]
    )
    wrong = [problem for problem in json.loads(checked.stdout)["problems"] if problem["severity"] == "error"]
    assert not [problem for problem in wrong if problem["id"].startswith(("Y", "V"))], wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: {web: {image: nginx}}", "no SanteDB server is in the file"),
        ("a: [b", "neither YAML nor an environment file"),
        ("just: a mapping", "the file has no services"),
        ("", "the file has no variable of SanteDB"),
        ("PATH=/bin\n", "the file has no variable of SanteDB"),
    ],
)
def test_files_that_cannot_be_adopted(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file.yml").write_text(text, encoding="utf-8")
    done = adopt(tmp_path / "file.yml")
    assert done.exit_code == 1
    assert said in done.output
    assert done.stdout == ""


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "answers.yml").write_text("mine\n", encoding="utf-8")
    done = adopt(FILES / "instant.yml", "-o", str(tmp_path / "answers.yml"))
    assert done.exit_code == 2
    assert (tmp_path / "answers.yml").read_text() == "mine\n"
