"""The fields that our manifests may have, by the API of Kubernetes 1.34 and of KubeRay 1.6.

Only fields that are used, or likely to be, are here: a misspelt or misplaced one is in none. A
shape is a type, a set of allowed values, a list of one shape, or a mapping of names to shapes, in
which `!` marks what must be there and `*` stands for any name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|Mi|Gi|Ti)?")
IMAGE = re.compile(r"[\w.\-/]+:[\w.\-]*\d[\w.\-]*(@sha256:[0-9a-f]{64})?")

_TEXTS = {"*": str}
_META = {
    "name": str,
    "generateName": str,
    "namespace!": str,
    "labels": _TEXTS,
    "annotations": _TEXTS,
}
_SELECTOR = {"matchLabels": _TEXTS, "matchExpressions": [dict]}
_RESOURCES = {"requests": {"*": QUANTITY}, "limits": {"*": QUANTITY}}
_SECURITY = {
    "allowPrivilegeEscalation": bool,
    "capabilities": {"drop": [str], "add": [str]},
    "readOnlyRootFilesystem": bool,
    "runAsNonRoot": bool,
    "runAsUser": int,
}
_CONTAINER = {
    "name!": str,
    "image!": IMAGE,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": dict}],
    "envFrom": [{"configMapRef": {"name!": str}, "secretRef": {"name!": str}}],
    "ports": [{"containerPort!": int, "name": str, "protocol": {"TCP", "UDP"}}],
    "resources": _RESOURCES,
    "securityContext": _SECURITY,
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool, "subPath": str}],
}
_POD = {
    "containers!": [_CONTAINER],
    "volumes": [
        {
            "name!": str,
            "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
            "emptyDir": {"sizeLimit": QUANTITY, "medium": {"", "Memory"}},
            "configMap": {"name!": str},
            "secret": {"secretName!": str},
        }
    ],
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "fsGroup": int,
        "seccompProfile": {"type!": {"RuntimeDefault"}},
    },
    "nodeSelector": _TEXTS,
    "tolerations": [
        {
            "key": str,
            "operator": {"Exists", "Equal"},
            "value": str,
            "effect": {"NoSchedule", "NoExecute", "PreferNoSchedule"},
        }
    ],
    "restartPolicy": {"Never", "OnFailure", "Always"},
    "serviceAccountName": str,
    "terminationGracePeriodSeconds": int,
}
_TEMPLATE = {"metadata": {"labels": _TEXTS, "annotations": _TEXTS}, "spec!": _POD}

RAY_CLUSTER_SPEC = {
    "rayVersion": str,
    "authOptions": {"mode": {"token", "disabled"}, "secretName": str, "enableK8sTokenAuth": bool},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": {"v1", "v2"},
        "idleTimeoutSeconds": int,
        "upscalingMode": {"Default", "Aggressive", "Conservative"},
        "resources": _RESOURCES,
        "securityContext": _SECURITY,
    },
    "headGroupSpec!": {
        "rayStartParams!": _TEXTS,
        "template!": _TEMPLATE,
        "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
    },
    "workerGroupSpecs": [
        {
            "groupName!": str,
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "rayStartParams!": _TEXTS,
            "template!": _TEMPLATE,
        }
    ],
}
_PEER = {"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR, "ipBlock": {"cidr!": str}}
_PORT = {"port": int, "protocol": {"TCP", "UDP"}}
_JOB_SPEC = {
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "ttlSecondsAfterFinished": int,
    "template!": _TEMPLATE,
}
_ROLE = {"apiGroup!": str, "kind!": {"Role", "ClusterRole"}, "name!": str}
_SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("ray.io/v1", "RayCluster"): {"spec!": RAY_CLUSTER_SPEC},
    ("ray.io/v1", "RayJob"): {
        "spec!": {
            "entrypoint": str,
            "submissionMode": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
            "backoffLimit": int,
            "activeDeadlineSeconds": int,
            "shutdownAfterJobFinishes": bool,
            "ttlSecondsAfterFinished": int,
            "suspend": bool,
            "runtimeEnvYAML": str,
            "rayClusterSpec": RAY_CLUSTER_SPEC,
        }
    },
    ("v1", "ConfigMap"): {"data!": _TEXTS},
    ("v1", "ServiceAccount"): {},
    ("v1", "PersistentVolumeClaim"): {
        "spec!": {
            "accessModes!": [{"ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"}],
            "storageClassName": str,
            "resources!": _RESOURCES,
        }
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "spec!": {
            "podSelector!": _SELECTOR,
            "policyTypes": [{"Ingress", "Egress"}],
            "ingress": [{"from": [_PEER], "ports": [_PORT]}],
            "egress": [{"to": [_PEER], "ports": [_PORT]}],
        }
    },
    ("rbac.authorization.k8s.io/v1", "Role"): {
        "rules!": [{"apiGroups!": [str], "resources!": [str], "verbs!": [str]}]
    },
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): {
        "roleRef!": _ROLE,
        "subjects": [{"kind!": {"ServiceAccount"}, "name!": str, "namespace": str}],
    },
    ("batch/v1", "CronJob"): {
        "spec!": {
            "schedule!": re.compile(r"\S+ \S+ \S+ \S+ \S+"),
            "timeZone": str,
            "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
            "startingDeadlineSeconds": int,
            "successfulJobsHistoryLimit": int,
            "failedJobsHistoryLimit": int,
            "suspend": bool,
            "jobTemplate!": {"spec!": _JOB_SPEC},
        }
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "spec!": {
            "selector!": _SELECTOR,
            "podMetricsEndpoints": [{"port": str, "interval": str, "path": str}],
        }
    },
}


def problems_of(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest, a line for each field."""
    known = _SPECS.get((manifest.get("apiVersion", ""), manifest.get("kind", "")))
    if known is None:
        return [f"{manifest.get('apiVersion')} {manifest.get('kind')} is not known"]
    shape = {"apiVersion!": str, "kind!": str, "metadata!": _META, **known}
    return list(_problems(manifest, shape, str(manifest["kind"])))


def _problems(value: Any, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, type):
        # to Python a bool is an int
        if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {shape.__name__}"
    elif isinstance(shape, re.Pattern):
        if not isinstance(value, str) or not shape.fullmatch(value):
            yield f"{where}: {value!r} is not of the form {shape.pattern}"
    elif isinstance(shape, set):
        if value not in shape:
            yield f"{where}: {value!r} is none of {sorted(shape)}"
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for place, item in enumerate(value):
            yield from _problems(item, shape[0], f"{where}[{place}]")
    else:
        yield from _problems_of_fields(value, shape, where)


def _problems_of_fields(value: Any, shape: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no mapping"
        return
    fields = {name.rstrip("!"): inner for name, inner in shape.items()}
    for name in (name[:-1] for name in shape if name.endswith("!")):
        if name not in value:
            yield f"{where}: {name} is missing"
    for name, inner in value.items():
        if name not in fields and "*" not in fields:
            yield f"{where}: there is no field {name}"
            continue
        yield from _problems(inner, fields.get(name, fields.get("*")), f"{where}.{name}")
