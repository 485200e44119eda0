"""The manifests by Kubernetes' own schemas, and against what they name."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from garment_transfer.cli.transfer import command as transfer

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"

VERSION = "1.34"

DOCUMENTS = {
    (file.name, document["kind"]): document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=map("-".join, DOCUMENTS))
def test_they_are_valid(document):
    kubernetes_validate.validate(document, VERSION, strict=True)


def container_of(document: dict[str, Any]) -> dict[str, Any]:
    (container,) = document["spec"]["template"]["spec"]["containers"]
    return container


def test_names_agree():
    deployment = DOCUMENTS["triton.yaml", "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    service = DOCUMENTS["triton.yaml", "Service"]["spec"]
    budget = DOCUMENTS["triton.yaml", "PodDisruptionBudget"]["spec"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["selector"],
        budget["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    container = container_of(deployment)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    scaler = DOCUMENTS["triton.yaml", "HorizontalPodAutoscaler"]["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    # a share of what is requested: without a request there is nothing to scale on
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] in container["resources"]["requests"]
    assert "replicas" not in deployment["spec"]  # each apply would take the autoscaler's back
    claim = DOCUMENTS["pairs.yaml", "PersistentVolumeClaim"]["metadata"]["name"]
    (volume,) = DOCUMENTS["pairs.yaml", "Job"]["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim


def test_there_is_time_to_drain():
    pod = DOCUMENTS["triton.yaml", "Deployment"]["spec"]["template"]["spec"]
    container = container_of(DOCUMENTS["triton.yaml", "Deployment"])
    (exit_s,) = (
        int(argument.partition("=")[2])
        for argument in container["args"]
        if argument.startswith("--exit-timeout-secs=")
    )
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > exit_s + pause_s


def test_the_shares_are_the_whole_list():
    job = DOCUMENTS["pairs.yaml", "Job"]["spec"]
    program, name, *arguments = container_of(DOCUMENTS["pairs.yaml", "Job"])["command"]
    assert (program, name) == ("garment-transfer", "transfer")
    shares = []
    for index in range(job["completions"]):
        given = [argument.replace("$(JOB_COMPLETION_INDEX)", str(index)) for argument in arguments]
        options = transfer.make_context("transfer", given).params
        assert options["resume"]
        assert options["threads"] == int(
            container_of(DOCUMENTS["pairs.yaml", "Job"])["resources"]["requests"]["cpu"]
        )
        shares.append(options["shard"])
    assert shares == list(zip(range(8), itertools.repeat(8), strict=False))


def test_the_image_is_the_dockerfiles():
    text = (FOLDER.parent / "triton" / "Dockerfile").read_text()
    (tag,) = re.findall(r" -t (\S+)", text)
    for document in (DOCUMENTS["triton.yaml", "Deployment"], DOCUMENTS["pairs.yaml", "Job"]):
        assert container_of(document)["image"].partition(":")[0] == tag
    (threads,) = re.findall(r"--threads (\d+)", text)
    container = container_of(DOCUMENTS["triton.yaml", "Deployment"])
    assert container["resources"]["requests"]["cpu"] == threads
