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
    for source in ("deploy/tideline.yaml", "deploy/standalone.yaml", "requirements/core.txt"):
        assert source in image
        assert (DEPLOY.parent / source).exists()
