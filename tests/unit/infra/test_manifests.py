from __future__ import annotations

import copy
import os
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_shapes import problems_of

from scalr_ray.core.config import load_config

ROOT = Path(__file__).parents[3]
KUBERAY = ROOT / "infra" / "kuberay"
FILES = sorted(KUBERAY.glob("*.yaml"))
A_DAY_S = 24 * 3600
TOKEN_KEY = "auth_token"  # noqa: S105 - its name


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


ALL = [document for file in FILES for document in documents(file)]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in ALL if document["kind"] == kind]
    assert found, kind
    return found


def ray_specs() -> list[dict[str, Any]]:
    clusters = [cluster["spec"] for cluster in of_kind("RayCluster")]
    return clusters + [job["spec"]["rayClusterSpec"] for job in of_kind("RayJob")]


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods() -> list[dict[str, Any]]:
    of_ray = [group["template"]["spec"] for spec in ray_specs() for group in groups(spec)]
    crons = [cron["spec"]["jobTemplate"]["spec"]["template"] for cron in of_kind("CronJob")]
    return of_ray + [cron["spec"] for cron in crons]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_field_is_one_of_the_api(file):
    for document in documents(file):
        assert problems_of(document) == []


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda spec: spec.update(enableInTreeAutoscalling=True), "no field enableInTreeAuto"),
        (lambda spec: spec["autoscalerOptions"].update(version="2"), "'2' is none of"),
        (lambda spec: spec.pop("headGroupSpec"), "headGroupSpec is missing"),
        (lambda spec: spec["workerGroupSpecs"][0].update(minReplicas="0"), "'0' is no int"),
        (lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "no str"),
        (lambda spec: spec.update(workerGroupSpecs={}), "is no list"),
    ],
)
def test_a_wrong_field_is_found(break_it, says):
    cluster = copy.deepcopy(of_kind("RayCluster")[0])
    break_it(cluster["spec"])
    (problem,) = problems_of(cluster)
    assert says in problem


def test_all_is_in_one_namespace_and_holds_no_secret():
    assert {document["metadata"]["namespace"] for document in ALL} == {"scalr"}
    assert "Secret" not in {document["kind"] for document in ALL}
    names = {name for document in of_kind("ConfigMap") for name in document["data"]}
    assert not [name for name in names if any(word in name for word in ("KEY", "PASS", "TOKEN"))]


def test_the_cluster_of_a_job_is_the_one_that_stays():
    staying, passing = ray_specs()
    assert staying == passing


@pytest.mark.parametrize("spec", ray_specs(), ids=["cluster", "job"])
def test_ray_asks_for_a_token_scales_and_keeps_tasks_off_its_head(spec):
    assert spec["rayVersion"] == version("ray")
    assert spec["authOptions"] == {"mode": "token", "secretName": "scalr-token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in groups(spec):
        assert "restartPolicy" not in group["template"]["spec"]  # the autoscaler's to say
        (container,) = group["template"]["spec"]["containers"]
        port = int(group["rayStartParams"]["metrics-export-port"])
        assert {"containerPort": port, "name": "metrics"} in container["ports"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == 0 <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("spec", ray_specs(), ids=["cluster", "job"])
def test_gpus_are_on_spot_nodes_and_the_head_is_not(spec):
    head, cpu, gpu = (group["template"]["spec"] for group in groups(spec))
    for pod in (head, cpu):
        assert "nodeSelector" not in pod
        assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
        assert pod["containers"][0]["image"].endswith("-cpu")
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["containers"][0]["image"].endswith("-cuda")
    assert "spot" in gpu["nodeSelector"].values()
    tolerated = {toleration["key"] for toleration in gpu["tolerations"]}
    assert tolerated == {"nvidia.com/gpu", *gpu["nodeSelector"]}
    assert gpu["terminationGracePeriodSeconds"] < 120


@pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod["containers"][0]["name"])
def test_no_pod_is_root_or_may_become_it(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert "env" not in container  # values come from the ConfigMap and from secrets


def test_a_job_ends_before_the_next_is_due_and_goes():
    (job,) = of_kind("RayJob")
    spec = job["spec"]
    assert "name" not in job["metadata"]
    assert job["metadata"]["generateName"].endswith("-")
    assert 0 < spec["activeDeadlineSeconds"] < A_DAY_S
    assert spec["activeDeadlineSeconds"] + spec["ttlSecondsAfterFinished"] < A_DAY_S
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 1
    program = shlex.split(spec["entrypoint"])
    assert program == ["python", "-m", "scalr_ray.jobs.run", "--repo", "/repo"]


def test_the_schedule_creates_that_job_and_may_do_nothing_else():
    (cron,), (role,), (binding,) = of_kind("CronJob"), of_kind("Role"), of_kind("RoleBinding")
    (account,) = of_kind("ServiceAccount")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    ]
    name = account["metadata"]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [name]
    pod = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == name
    assert pod["containers"][0]["args"] == ["create", "--filename=/job/job.yaml"]
    (volume,) = pod["volumes"]
    told = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")
    made = f"create configmap {volume['configMap']['name']} --from-file=infra/kuberay/job.yaml"
    assert made in " ".join(told.split())
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"


def test_what_pods_refer_to_is_there_or_told_to_be_made():
    told = " ".join((ROOT / "infra" / "README.md").read_text(encoding="utf-8").split())
    assert f"--from-literal={TOKEN_KEY}=" in told
    maps = {document["metadata"]["name"] for document in of_kind("ConfigMap")}
    claims = {document["metadata"]["name"] for document in of_kind("PersistentVolumeClaim")}
    secrets = {spec["authOptions"]["secretName"] for spec in ray_specs()}
    for spec in ray_specs():
        for group in groups(spec):
            pod = group["template"]["spec"]
            for source in pod["containers"][0]["envFrom"]:
                if "secretRef" in source:
                    secrets.add(source["secretRef"]["name"])
                else:
                    assert source["configMapRef"]["name"] in maps
            named = {
                volume.get("persistentVolumeClaim", {}).get("claimName")
                for volume in pod["volumes"]
            }
            assert named - {None} <= claims
    for name in secrets:
        assert f"create secret generic {name} " in told


def test_the_settings_are_ones_that_scalr_takes(monkeypatch):
    (settings,) = [item["data"] for item in of_kind("ConfigMap")]
    config = load_config(ROOT / "feature_repo", environ=settings)
    assert config.database is not None
    assert config.database.startswith("postgresql+psycopg://")
    assert config.warehouse is not None
    assert config.warehouse.startswith("s3://")
    pod = ray_specs()[0]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert config.data_dir in {mount["mountPath"] for mount in pod["volumeMounts"]}
    file = settings["FEAST_FS_YAML_FILE_PATH"].removeprefix("/repo/")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    text = os.path.expandvars((ROOT / "feature_repo" / file).read_text(encoding="utf-8"))
    assert yaml.safe_load(text)["registry"]["path"] == config.database


def test_only_what_has_a_reason_reaches_ray():
    (policy,) = of_kind("NetworkPolicy")
    spec = policy["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    among, jobs, watching = spec["ingress"]
    nodes = {"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}
    assert among == {"from": [nodes]}
    assert [port["port"] for port in jobs["ports"]] == [8265]
    assert [port["port"] for port in watching["ports"]] == [8080]
    assert all(rule["from"] for rule in spec["ingress"])  # an empty one would let in everybody
    assert spec["podSelector"] == nodes["podSelector"]
    (monitor,) = of_kind("PodMonitor")
    assert monitor["spec"]["selector"] == nodes["podSelector"]
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "10s"}]
