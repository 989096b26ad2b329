"""Files for the forge and for contributors' tools: they parse, and name only what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]
OWN_PYTHON = "3.11"
"""The Python that most targets use in CI."""


def jobs(path: Path) -> dict[str, Any]:
    """The jobs of a workflow."""
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return loaded


def targets(job: dict[str, Any]) -> set[str]:
    """The make targets that a job runs, for every value in its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found: set[str] = set()
    for step in job["steps"]:
        for command in step.get("run", "").splitlines():
            program, *arguments = re.sub(r"\$\{\{ (.*?) \}\}", r"<\1>", command).split()
            assert program == "make", command
            for argument in (each for each in arguments if "=" not in each):
                name = re.fullmatch(r"<matrix\.(\w+)>", argument)
                found |= set(matrix[name[1]]) if name else {argument}
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_of_the_makefile_alone(path: Path) -> None:
    """A command that only CI runs is one that nobody can repeat in a clone."""
    for name, job in jobs(path).items():
        assert targets(job), name
        assert targets(job) <= TARGETS


def test_the_workflows_run_every_stage_of_make_test() -> None:
    """A stage that the forge does not run fails on the maintainers' machines first."""
    match = re.search(r"^test:([^#\n]*)", MAKEFILE, re.MULTILINE)
    assert match
    run = set().union(*(targets(job) for path in WORKFLOWS for job in jobs(path).values()))
    # the matrix of unit; parts of backends-live and of live
    elsewhere = {"pythons", "backends-early", "environments-early"}
    assert set(match[1].split()) - elsewhere <= run


def test_unit_runs_on_every_python_that_the_package_names() -> None:
    """Classifiers are a promise."""
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    matrix = jobs(ROOT / ".github" / "workflows" / "ci.yml")["unit"]["strategy"]["matrix"]["python"]
    others = re.search(r"^OTHER_PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)
    assert others
    assert matrix == classifiers == sorted([*others[1].split(), OWN_PYTHON], key=lambda each: int(each[2:]))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_every_job_ends(path: Path) -> None:
    """An action of a branch changes without notice; a job without a limit runs for hours."""
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_fields_with_ids_of_their_own(path: Path) -> None:
    """The forge refuses a form with a repeated id, and shows no form then."""
    fields = [each for each in yaml.safe_load(path.read_text())["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in fields}) == len(fields) > 1
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_a_bug_report_asks_for_the_doctor() -> None:
    """Versions, settings, hooks and the endpoint's answer: the first questions of every report."""
    [doctor] = [each for each in yaml.safe_load(FORMS[0].read_text())["body"] if each.get("id") == "doctor"]
    assert "`torchelastic-otel doctor`" in doctor["attributes"]["label"]
    assert doctor["validations"] == {"required": True}


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    """A commit that the hooks accept passes ``make lint``."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    entries = " ".join(hook["entry"] for hook in hooks[0]["hooks"])
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert lint
    programs = set(re.findall(r"\$\(LIGHT\)/bin/([\w-]+)", lint[1]))
    assert set(re.findall(r"\.venv-light/bin/([\w-]+)", entries)) == programs
    assert all(hook["language"] == "system" for hook in hooks[0]["hooks"])


def test_every_tool_of_a_target_is_installed_by_a_dependency_group() -> None:
    """One list of tools: what the Makefile calls is in pyproject.toml and pinned in constraints.txt."""
    packages = {"cog": "cogapp", "lint-imports": "import-linter", "sphinx-build": "sphinx", "coverage": "coverage"}
    pins = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    called = set(re.findall(r"\$\((?:LIGHT|BIN)\)(?:/bin)?/([\w-]+)", MAKEFILE)) - {"python", "torchelastic-otel"}
    assert {packages.get(name, name) for name in called} <= pins
