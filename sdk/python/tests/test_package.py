"""The package as it is published: generated, typed, in one style, and its examples run from the wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "langchain_tool.py": ["--- refused", "--- exited", "North    38480.85", "North sold the most."],
    "many_at_once.py": ["[0, 4950, 19900, 44850, 79800, 124750, 179700, 244650]"],
    "refused.py": ["refused before it ran: True", "instead: ", "EUR 1.08"],
    "streaming.py": ["stdout: step 2", "shown: {'steps': 3}", "host saw /tmp/steps.txt written", "ended: "],
    "table_and_chart.py": ["row: North 38480.85", "saved revenue.png", "saved revenue.csv", "walls, policy "],
}


def run(*arguments: str | Path, **environment: str) -> str:
    command = [sys.executable, *map(str, arguments)]
    made = subprocess.run(command, cwd=HERE, env={**os.environ, **environment}, capture_output=True, text=True)
    assert made.returncode == 0, f"{command}\n{made.stdout}\n{made.stderr}"
    return made.stdout


@pytest.mark.usefixtures("casemate")
def test_the_models_are_what_the_servers_description_gives() -> None:
    run("generate", "--check")


def test_types(tmp_path: Path) -> None:
    run("-m", "mypy", "--strict", "--cache-dir", tmp_path, "src", "examples", "tests", "generate")


def test_style() -> None:
    run("-m", "ruff", "check", "--no-cache", ".", "generate")
    run("-m", "ruff", "format", "--no-cache", "--check", ".", "generate")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (made,) = folder.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_its_types_and_needs_httpx_alone(wheel: Path) -> None:
    assert (wheel / "casemate/py.typed").exists()
    (about,) = wheel.glob("*.dist-info/METADATA")
    needs = [line for line in about.read_text().splitlines() if line.startswith("Requires-Dist: ")]
    assert [need for need in needs if "extra ==" not in need] == ["Requires-Dist: httpx<1,>=0.27"]
    # Without the extra: no import of the package's reaches for what is not there.
    code = "import sys; sys.modules.update(dict.fromkeys(['typing_extensions', 'pydantic', 'langchain_core']))\n"
    assert run("-c", f"{code}import casemate; print(casemate.__file__)", PYTHONPATH=str(wheel)).startswith(str(wheel))


def test_every_example_is_here() -> None:
    assert {path.name for path in (HERE / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.usefixtures("casemate")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, wheel: Path, tmp_path: Path) -> None:
    said = run(HERE / "examples" / name, *([tmp_path] if name == "table_and_chart.py" else []), PYTHONPATH=str(wheel))
    for part in EXAMPLES[name]:
        assert part in said, said
    if name == "table_and_chart.py":
        assert (tmp_path / "revenue.png").read_bytes().startswith(b"\x89PNG")
