"""The form in a real browser: from the first question to an answers file that ``santescaffold new`` renders."""

from __future__ import annotations

import csv
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from santescaffold.interview.server import Server
from santescaffold.interview.session import Session
from santescaffold.new import create
from santescaffold.template import Template
from tests.browser.browser import PHONE, SCREEN, needs_browser, resize, told, violations
from tests.support import MINIMUM, ROOT, load_plan

pytestmark = [needs_browser, pytest.mark.slow]
PATIENCE = 60


class Form:
    """The form in the browser, spoken of as people do."""

    def __init__(self, browser: Chrome, file: Path) -> None:
        self.browser, self.file = browser, file
        self.server = Server(Session(file, Template(ROOT)))
        self.thread = threading.Thread(target=self.server.serve, daemon=True)
        self.thread.start()
        browser.get(self.server.url)
        self.wait("return document.getElementById('form').children.length > 0")

    def close(self) -> None:
        self.browser.get("about:blank")
        if self.thread.is_alive():
            self.server._server.shutdown()
            self.thread.join(timeout=10)

    def wait(self, script: str) -> Any:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self.browser.execute_script(script)
            if found:
                return found
            time.sleep(0.05)
        log = told(self.browser)
        raise AssertionError(f"waited {PATIENCE} s for: {script}; the browser says: {log}")

    def settle(self) -> None:
        """Wait until the last change is checked and saved."""
        self.wait("return state.saved === state.change && document.body.dataset.checked == state.change")

    def saved(self) -> Any:
        self.settle()
        return yaml.safe_load(self.file.read_text(encoding="utf-8"))

    def find(self, identifier: str) -> WebElement:
        return self.browser.find_element(By.ID, identifier)

    def section(self, title: str) -> None:
        for button in self.browser.find_elements(By.CSS_SELECTOR, "nav button"):
            if button.text == title:
                self.click(button)
                return
        raise AssertionError(f"there is no section {title}")

    def click(self, element: WebElement) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, answer: str, text: str) -> None:
        element = self.find(f"q.{answer}")
        element.clear()
        element.send_keys(text)

    def choose(self, answer: str, value: str) -> None:
        Select(self.find(f"q.{answer}")).select_by_value(value)

    def check(self, answer: str, value: str) -> None:
        box = self.find(f"question.{answer}").find_element(By.CSS_SELECTOR, f"input[value='{value}']")
        self.click(box)

    def visible(self, answer: str) -> bool:
        return self.find(f"question.{answer}").is_displayed()

    def messages(self, answer: str) -> str:
        self.settle()
        return self.find(f"q.{answer}.messages").text


@pytest.fixture
def form(browser: Chrome, tmp_path: Path) -> Iterator[Form]:
    opened = Form(browser, tmp_path / "answers.yml")
    yield opened
    opened.close()
    complaints = [entry for entry in told(browser) if entry["level"] == "SEVERE"]
    assert complaints == []


def test_from_the_first_question_to_a_repository(form: Form, tmp_path: Path, template_dir: Path) -> None:
    for answer, text in MINIMUM.items():
        form.write(answer, text)
    assert form.saved() == MINIMUM

    form.click(form.find("next"))
    assert form.find("title").text == "Role and data"
    assert form.find("question.roles").find_element(By.CSS_SELECTOR, "input[value=mpi]").is_selected()
    form.check("roles", "mpr")
    form.settle()
    assert not form.visible("sites")
    form.choose("offline", "true")
    form.settle()
    assert form.visible("offline_patterns")

    form.section("Machines and operations")
    form.click(form.find("q.hosts.add"))
    form.find("q.hosts.0.name").send_keys("prd-1")
    Select(form.find("q.hosts.0.environment")).select_by_value("production")
    form.click(form.find("q.hosts.0.groups"))
    groups = form.browser.find_elements(By.CSS_SELECTOR, "td .many input")
    for box in [box for box in groups if box.get_attribute("value") in ("icdr", "database", "proxy")]:
        form.click(box)
    form.find("q.hosts.0.address").send_keys("10.1.2.3")
    form.find("q.hosts.0.vcpu").send_keys("8")
    saved = form.saved()
    assert saved["hosts"] == [
        {
            "name": "prd-1",
            "environment": "production",
            "groups": ["icdr", "database", "proxy"],
            "address": "10.1.2.3",
            "vcpu": 8,
        }
    ]
    assert sorted(saved["roles"]) == ["mpi", "mpr"]
    assert saved["offline"] is True
    form.wait("return document.getElementById('plan').innerText.includes('prd-1')")
    assert "Master patient index" in form.find("plan").text

    form.click(form.find("finish"))
    form.wait("return document.querySelector('.done') !== null || !document.getElementById('summary').hidden")
    assert form.browser.find_elements(By.CSS_SELECTOR, ".done"), form.find("summary").text
    form.thread.join(timeout=10)
    assert not form.thread.is_alive(), "the server goes on after Finish"

    created = create(tmp_path / "registry", form.file, str(template_dir), None)
    assert "prd-1" in (created.path / "inventories/production/hosts.yml").read_text(encoding="utf-8")
    log = subprocess.run(
        ["git", "-C", str(created.path), "log", "--oneline"], check=True, capture_output=True, text=True
    )
    assert len(log.stdout.splitlines()) == 1


def test_what_is_wrong_is_said_while_typing(form: Form) -> None:
    assert "Still open" in form.messages("project_name")
    form.write("country_code", "xyz")
    assert "To correct" in form.messages("country_code")
    assert form.find("q.country_code").get_attribute("aria-invalid") == "true"
    form.write("country_code", "XT")
    assert form.messages("country_code") == ""
    assert form.find("q.country_code").get_attribute("aria-invalid") is None

    form.click(form.find("finish"))
    form.wait("return !document.getElementById('summary').hidden")
    links = form.find("summary").find_elements(By.TAG_NAME, "a")
    assert len(links) == len(MINIMUM) - 1
    assert form.browser.switch_to.active_element.get_attribute("id") == "summary"
    links[0].click()
    assert form.browser.switch_to.active_element.get_attribute("id") == "q.project_name"


def test_a_contradiction_shows_at_both_answers(form: Form) -> None:
    form.section("Role and data")
    form.choose("matching_mode", "none")
    assert "To correct" in form.messages("matching_mode")
    form.choose("matching_mode", "")
    assert "To correct" not in form.messages("matching_mode")
    assert "matching_mode" not in form.saved()


def test_all_questions_and_back(form: Form) -> None:
    form.section("Security")
    assert not form.visible("log_level") if form.browser.find_elements(By.ID, "question.log_level") else True
    assert not form.visible("tls_termination")
    form.click(form.browser.find_element(By.CSS_SELECTOR, "[name=scope][value=full]"))
    form.settle()
    assert form.visible("tls_termination")
    assert form.saved() == {"interview": "full"}
    form.click(form.browser.find_element(By.CSS_SELECTOR, "[name=scope][value=essential]"))
    form.settle()
    assert not form.visible("tls_termination")


def test_a_table_from_a_spreadsheet(form: Form, tmp_path: Path) -> None:
    table = tmp_path / "hosts.csv"
    hosts = load_plan("demoland-mpi")["hosts"]
    with table.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Name", "Environment", "Groups", "Address"])
        writer.writerows(
            [host["name"], host["environment"], "; ".join(host["groups"]), host["address"]] for host in hosts
        )
    form.section("Machines and operations")
    form.find("q.hosts.csv").send_keys(str(table))
    form.wait("return (state.answers.hosts || []).length === 8")
    saved = form.saved()["hosts"]
    assert saved == [{key: host[key] for key in ("name", "environment", "groups", "address")} for host in hosts]

    form.find("q.hosts.7.address").clear()
    form.find("q.hosts.7.address").send_keys("10.20.2.400")
    assert "item 8, field address" in form.messages("hosts")
    assert form.find("q.hosts.7.address").get_attribute("aria-invalid") == "true"
    form.click(form.browser.find_element(By.CSS_SELECTOR, "[aria-label='Remove row 8']"))
    assert len(form.saved()["hosts"]) == 7
    assert form.messages("hosts") == "" or "item 8" not in form.messages("hosts")

    table.write_text("nme\nx\n", encoding="utf-8")
    form.find("q.hosts.csv").send_keys(str(table))
    form.wait(
        "return document.querySelector('[id=\"question.hosts\"] .note').innerText.includes('is none of the fields')"
    )
    assert len(form.saved()["hosts"]) == 7
    told(form.browser)  # the refused table is reported there


def test_going_on_another_day_and_importing(browser: Chrome, tmp_path: Path) -> None:
    file = tmp_path / "answers.yml"
    file.write_text("project_name: Begun Yesterday\n", encoding="utf-8")
    form = Form(browser, file)
    try:
        assert form.find("q.project_name").get_attribute("value") == "Begun Yesterday"
        form.find("import-file").send_keys(str(ROOT / "tests/plans/valid/demoland-mpi.yml"))
        form.wait("return state.answers.country_code === 'XD'")
        assert form.saved() == load_plan("demoland-mpi")
        file.write_text("project_name: Somebody Else\n", encoding="utf-8")
        form.write("organization", "Another")
        form.wait("return document.getElementById('saved').innerText.includes('changed by somebody else')")
        assert file.read_text(encoding="utf-8") == "project_name: Somebody Else\n"
        browser.execute_script("state.saved = state.change")
    finally:
        form.close()
        told(browser)  # the refused save is reported there


def test_every_control_has_a_name_and_the_keyboard_reaches_it(form: Form) -> None:
    form.click(form.browser.find_element(By.CSS_SELECTOR, "[name=scope][value=full]"))
    form.settle()
    for place in range(8):
        form.browser.execute_script("go(arguments[0])", place)
        nameless = form.browser.execute_script("""
          return [...document.querySelectorAll("input, select, textarea, button, summary")].filter((node) =>
            node.getClientRects().length && !node.getAttribute("aria-label") && !node.innerText?.trim() &&
            ![...(node.labels || [])].some((label) => label.innerText.trim())).map((node) => node.outerHTML)""")
        assert nameless == []
        doubled = form.browser.execute_script("""
          const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
          return ids.filter((id, place) => ids.indexOf(id) !== place)""")
        assert doubled == []
        wide = form.browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, "the page scrolls sideways"
    form.browser.execute_script("go(0)")
    form.find("q.project_name").click()
    form.browser.switch_to.active_element.send_keys("Typed", Keys.TAB)
    assert form.saved()["project_name"] == "Typed"
    assert form.browser.switch_to.active_element.tag_name == "summary"


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_axe_finds_nothing(browser: Chrome, tmp_path: Path, size: tuple[int, int]) -> None:
    """Every section with every question, with rows in tables, what is wrong shown, and what opens opened."""
    file = tmp_path / "answers.yml"
    answers = {**load_plan("demoland-mpi"), "interview": "full", "country_code": "xyz", "project_name": ""}
    file.write_text(yaml.safe_dump(answers), encoding="utf-8")
    resize(browser, *size)
    form = Form(browser, file)
    try:
        form.click(form.find("finish"))
        form.wait("return !document.getElementById('summary').hidden")
        sections = len(browser.find_elements(By.CSS_SELECTOR, "nav button"))
        assert sections > 5
        for place in range(sections):
            browser.execute_script("go(arguments[0])", place)
            browser.execute_script("document.querySelectorAll('details').forEach((node) => { node.open = true })")
            assert violations(browser) == []
            assert not browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
    finally:
        form.close()
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        told(browser)  # Finish with errors is reported there
