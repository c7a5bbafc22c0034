"""What images and clusters are configured with is right, and nobody gets in without a user."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from broker.config import all_problems, load

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("name", ["standalone", "tideline"])
def test_the_configuration_is_right(name: str) -> None:
    problems, warnings = all_problems(load(DEPLOY / f"{name}.yaml", {"TIDELINE_MEILISEARCH_KEY": "a secret of some length"}))
    assert problems == []
    assert all("without TLS" in warning for warning in warnings), warnings


def test_compose_names_files_that_are_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    image = (DEPLOY / "Dockerfile").read_text()
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists(), volume
    assert services["node1"]["command"][-1] in image
    for source in ("deploy/tideline.yaml", "deploy/standalone.yaml", "requirements/image.txt"):
        assert source in image
        assert (DEPLOY.parent / source).exists()


def test_the_image_has_a_compiled_core_and_not_what_compiled_it() -> None:
    """One stage compiles; of it the other takes the environment alone."""
    build, serves = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[1:]
    compiles = next(line for line in build.splitlines() if "TIDELINE_COMPILE=1" in line)
    assert compiles.endswith(" --no-build-isolation .")  # it sees the driver, and so MongoDB's modules are compiled too
    assert build.splitlines()[0].removesuffix(" AS build") == serves.splitlines()[0]  # the same Python
    assert [line for line in serves.splitlines() if "--from=build" in line] == ["COPY --from=build /opt/tideline /opt/tideline"]
    assert "/opt/tideline" not in next(line for line in build.splitlines() if "mypyc" in line)
    assert "gcc" not in serves


def test_what_the_image_is_made_of_is_there() -> None:
    """And what setup.py compiles is copied before it is compiled."""
    copied = [line.split()[1:-1] for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    sources = [name for names in copied for name in names if not names[0].startswith("--from")]
    assert [name for name in sources if not (DEPLOY.parent / name).exists()] == []
    assert {"broker", "plugins", "storage", "setup.py", "pyproject.toml"} <= set(sources)
