"""The library stands on its core alone."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("flax", "chex", "haiku", "equinox", "rich", "matplotlib", "tyro", "sklearn")


def test_importing_jaxprune_needs_no_extra():
    code = f"import sys, jaxprune; print([m for m in {EXTRAS} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_core_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", d)[0] for d in project["dependencies"]}
    used = set()
    for file in (ROOT / "jaxprune").rglob("*.py"):
        for line in file.read_text().splitlines():
            if found := re.match(r"\s*(?:from|import) (\w+)", line):
                used.add(found[1])
    assert used - set(sys.stdlib_module_names) <= declared | {"jaxprune"}


def test_the_readme_has_two_commands_and_code_that_runs():
    readme = (ROOT / "README.md").read_text()
    commands = re.search(r"## Set up\n\n```bash\n(.*?)```", readme, re.DOTALL)[1]
    assert len(commands.splitlines()) == 2
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
