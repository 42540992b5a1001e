"""The chart as helm renders it, and helm as an administrator uses it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from slm_dev import helm
from slm_operator.api.models import GROUP, PLURAL

Object = dict[str, Any]
Values = dict[str, Any]

CHART = Path(__file__).parents[2] / "charts" / "slm-operator"
RELEASE = "slm-operator"
ACTIVATOR = f"{RELEASE}-activator"
NAMESPACE = "slm-system"
CRD = f"{PLURAL}.{GROUP}"
MONITORING = ("--api-versions", "monitoring.coreos.com/v1")
"""A cluster that knows the kinds of the Prometheus operator."""


def run_helm(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(helm.find_or_build(print)), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, input=stdin
    )


def render(
    values: Values | None = None, *arguments: str, chart: Path = CHART, release: str = RELEASE
) -> Rendered:
    """What helm makes of the chart without asking a cluster."""
    done = _template(values, *arguments, chart=chart, release=release)
    assert done.returncode == 0, done.stderr
    return Rendered([each for each in yaml.safe_load_all(done.stdout) if each is not None])


def refusal(values: Values, *arguments: str, release: str = RELEASE) -> str:
    """What helm says of values that it does not take."""
    done = _template(values, *arguments, chart=CHART, release=release)
    assert done.returncode != 0, "the values were taken"
    return done.stderr


def previous_chart(folder: Path) -> Path:
    """The chart as an earlier version would have been: with a field less in the CRD.

    Made in a new folder of ``folder``.
    """
    chart = folder / RELEASE
    shutil.copytree(CHART, chart)
    path = chart / "files" / "crds" / f"{CRD}.yaml"
    crd = yaml.safe_load(path.read_text())
    del spec_fields(crd)["rollout"]
    path.write_text(yaml.safe_dump(crd))
    about = chart / "Chart.yaml"
    text = about.read_text().replace("version: 0.1.0", "version: 0.0.9")
    about.write_text(text.replace('appVersion: "0.1.0"', 'appVersion: "0.0.9"'))
    return chart


def spec_fields(crd: Object) -> Object:
    """What a CRD's one version says of each field of the spec."""
    (version,) = crd["spec"]["versions"]
    fields: Object = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return fields


def _template(
    values: Values | None, *arguments: str, chart: Path, release: str = RELEASE
) -> subprocess.CompletedProcess[str]:
    command = ("template", release, str(chart), "--namespace", NAMESPACE, "--values", "-")
    return run_helm(*command, *arguments, stdin=json.dumps(values or {}))


class Rendered:
    """The objects of a release."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def names(self, kind: str) -> list[str]:
        return [each["metadata"]["name"] for each in self.of(kind)]

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = RELEASE, namespace: str | None = None) -> Object:
        (found,) = (
            each
            for each in self.of(kind)
            if each["metadata"]["name"] == name
            and namespace in (None, each["metadata"].get("namespace"))
        )
        return found

    def pod(self, name: str = RELEASE) -> Object:
        """The Pod template's spec of a Deployment."""
        spec: Object = self.one("Deployment", name)["spec"]["template"]["spec"]
        return spec

    def container(self, name: str = RELEASE) -> Object:
        (found,) = self.pod(name)["containers"]
        return dict(found)

    def arguments(self, name: str = RELEASE) -> list[str]:
        found: list[str] = self.container(name)["args"]
        return found
