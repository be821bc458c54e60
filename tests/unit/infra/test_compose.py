from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubernetes_shapes import IMAGE

from scalr_ray.cli.main import cli
from scalr_ray.core.config import load_config

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
# What a service may have: a misspelt field is none of these.
FIELDS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck",
    "image", "init", "ports", "profiles", "restart", "security_opt", "shm_size", "volumes",
}  # fmt: skip
NODES = ("bucket", "head", "worker", "scalr")
SECRET = re.compile(r"\$\{(\w+):\?run make up\}")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_known_fields_and_an_exact_image(name):
    service = SERVICES[name]
    assert service.keys() <= FIELDS
    if "build" not in service:
        assert IMAGE.fullmatch(service["image"])
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (INFRA / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    depends = service.get("depends_on", [])
    assert set(depends) <= SERVICES.keys()


def test_secrets_come_from_a_file_that_only_its_owner_reads(tmp_path):
    file = tmp_path / "env"
    subprocess.run([INFRA / "secrets.sh", file], check=True)
    made = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    asked = set(SECRET.findall((INFRA / "compose.yaml").read_text(encoding="utf-8")))
    assert made.keys() == asked
    drawn = [value for name, value in made.items() if name != "AWS_ACCESS_KEY_ID"]
    assert len(set(drawn)) == len(drawn)
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in drawn)
    subprocess.run([INFRA / "secrets.sh", file], check=True)
    assert dict(line.split("=", 1) for line in file.read_text().splitlines()) == made
    kept = [f"{name}={value}" for name, value in made.items() if name != "RAY_AUTH_TOKEN"]
    file.write_text("\n".join(kept))  # the last line without an end
    subprocess.run([INFRA / "secrets.sh", file], check=True)
    rotated = dict(line.split("=", 1) for line in file.read_text().splitlines())
    token = rotated["RAY_AUTH_TOKEN"]
    assert rotated == {**made, "RAY_AUTH_TOKEN": token}
    assert token != made["RAY_AUTH_TOKEN"]
    assert len(token) == len(made["RAY_AUTH_TOKEN"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "infra/.env" in (ROOT / ".gitignore").read_text().split()


def test_no_secret_stands_in_the_file():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if any(word in key for word in ("KEY", "PASSWORD", "TOKEN")):
                assert SECRET.fullmatch(value), (name, key)


@pytest.mark.parametrize("name", NODES)
def test_every_node_asks_for_the_token_and_sees_the_same_data(name):
    service = SERVICES[name]
    assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert service["environment"]["RAY_AUTH_TOKEN"]
    assert "data:/data" in service["volumes"]
    assert service["build"]["target"] == "cpu"
    assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    config = load_config(ROOT / "feature_repo", environ=service["environment"])
    assert (config.data_dir, config.warehouse) == ("/data", "s3://scalr/warehouse")
    assert config.database == "postgresql+psycopg://scalr@database/scalr"


@pytest.mark.parametrize("name", ["head", "worker"])
def test_ray_knows_the_options_that_it_is_started_with(name):
    from ray.scripts.scripts import start

    program, verb, *arguments = SERVICES[name]["command"]
    assert (program, verb) == ("ray", "start")
    given = start.make_context("ray start", arguments).params
    assert given["block"] is True
    assert given["metrics_export_port"] == 8080
    if name == "head":
        assert (given["head"], given["num_cpus"], given["port"]) == (True, 0, 6379)
    else:
        assert given["address"] == f"head:{6379}"


def test_the_command_starts_with_a_verb_of_scalr():
    service = SERVICES["scalr"]
    assert service["entrypoint"] == ["scalr"]
    assert service["command"][0] in cli.commands


def test_the_bucket_is_made_by_what_its_service_runs(tmp_path):
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileType, S3FileSystem

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        program, *arguments = SERVICES["bucket"]["command"]
        assert program == "python"
        keys = {"AWS_ACCESS_KEY_ID": "scalr", "AWS_SECRET_ACCESS_KEY": "s"}
        environ = {**os.environ, **keys, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": "us-east-1"}
        for _ in range(2):  # again changes nothing
            subprocess.run([sys.executable, *arguments], env=environ, check=True, cwd=tmp_path)
        files = S3FileSystem(
            endpoint_override=endpoint,
            access_key="scalr",
            secret_key="s",  # noqa: S106 - the server takes any
            region="us-east-1",
        )
        assert files.get_file_info("scalr").type is FileType.Directory
    finally:
        server.stop()


def test_prometheus_scrapes_the_nodes_often_enough():
    told = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert told["global"]["scrape_interval"] == "10s"
    (job,) = told["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= SERVICES.keys()
    for name in found["names"]:
        assert f"--metrics-export-port={found['port']}" in SERVICES[name]["command"]
    for rules in told["rule_files"]:
        assert (INFRA / "prometheus" / rules).exists()
