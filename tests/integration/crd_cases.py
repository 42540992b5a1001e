"""Specs that the API server must take or refuse, as named cases.

Longer than a file may be, since it is two tables, of which each row stands for itself.
"""

from typing import Any

import pytest

Object = dict[str, Any]


def spec(**changes: Any) -> Object:
    return {"model": {"uri": "hf://facebook/opt-1.3b"}, **changes}


def with_args(*args: str) -> Object:
    return spec(engine={"args": list(args)})


def with_env(name: str) -> Object:
    return spec(engine={"env": [{"name": name, "value": "1"}]})


def with_uri(uri: str) -> Object:
    return {"model": {"uri": uri}}


BEYOND_A_PACK: dict[str, Any] = {
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "hostUsers": True,
    "serviceAccountName": "admin",
    "automountServiceAccountToken": True,
    "securityContext": {"runAsUser": 0},
    "containers": [{"name": "x", "image": "x"}],
    "initContainers": [{"name": "x", "image": "x"}],
    "nodeName": "control-plane",
    "shareProcessNamespace": True,
}
"""What a Pod can ask for, and no podTemplate."""

ACCEPTED = [
    pytest.param(with_uri("hf://HuggingFaceTB/SmolLM2-135M-Instruct"), id="hub"),
    pytest.param(with_uri("file:///models/opt-1.3b"), id="directory"),
    pytest.param(with_uri("file:///root/.cache/a..b/m@1+x=y/"), id="directory with odd names"),
    pytest.param(
        {"model": {"uri": "hf://a/b", "revision": "refs/pr/1"}}, id="revision of a hub model"
    ),
    pytest.param(with_uri("pvc://models.team-a/opt/1.3b/"), id="directory of a claim"),
    pytest.param(with_uri("pvc://models"), id="claim"),
    pytest.param(with_uri("oci://registry.example.com:5000/team/opt-1.3b:v1"), id="image"),
    pytest.param(
        with_uri("oci://registry.example.com/opt@sha256:" + "0" * 64), id="image by its digest"
    ),
    pytest.param(
        spec(
            podTemplate={
                "labels": {"team": "a", "example.com/team": ""},
                "annotations": {"example.com/why": "because it is\nso"},
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60},
                ],
                "resources": {
                    "requests": {"cpu": 4, "memory": "1.5Gi", "ephemeral-storage": "20Gi"},
                    "limits": {"cpu": "4000m", "memory": "2Gi"},
                },
                "volumes": [
                    {"name": "m", "mountPath": "/m", "persistentVolumeClaim": {"claimName": "m"}},
                    {"name": "c", "mountPath": "/c", "configMap": {"name": "c.d"}},
                    {"name": "s", "mountPath": "/s", "secret": {"secretName": "s"}},
                    {"name": "e", "mountPath": "/e", "emptyDir": {"sizeLimit": "1Gi"}},
                ],
                "imagePullSecrets": [{"name": "registry"}],
                "priorityClassName": "high",
                "runtimeClassName": "nvidia",
            }
        ),
        id="whole pod template",
    ),
    pytest.param(with_args("--max-model-len=2048", "--dtype", "float16"), id="arguments"),
    pytest.param(
        with_args("--model-impl=vllm", "--config-format=hf", "-q", "awq", "-O3", "-dc", "{}", "-"),
        id="arguments that only begin like owned ones",
    ),
    pytest.param(
        with_args("-cc.mode=3", "-sc.model", "x", "-dc.x=1", "--hf-overrides.a.b=1", "0.5"),
        id="arguments with a key",
    ),
    pytest.param(with_args("--override-generation-config={}", "a=--host"), id="values"),
    pytest.param(with_env("VLLM_LOGGING_LEVEL"), id="environment"),
    pytest.param(with_env("MY_SLM_X"), id="SLM_ inside a name"),
    pytest.param(spec(engine={"kind": "Simulated"}, gpu={"kind": "Simulated"}), id="simulated"),
    pytest.param(spec(gpu={"kind": "CPU"}), id="vLLM on a CPU"),
    pytest.param(
        spec(gpu={"mps": {"activeThreadPercentage": 100, "fallback": "TimeSlicing"}}),
        id="limits under MPS",
    ),
    pytest.param(spec(gpu={"memoryReserve": "4Gi"}), id="memory kept free"),
    pytest.param(spec(gpu={"memoryReserve": "0"}), id="no memory kept free"),
    pytest.param(spec(replicasPerPack=32), id="fixed count"),
    pytest.param(
        spec(replicasPerPack=2, autoscaling={"mode": "Recommend"}), id="fixed and recommend"
    ),
    pytest.param(
        spec(autoscaling={"minReplicasPerPack": 4, "maxReplicasPerPack": 4}), id="min = max"
    ),
    pytest.param(
        spec(
            autoscaling={
                "objective": "MinEnergyPerToken",
                "slo": {"ttftP95": "0.5s", "itlP95": "12.5ms"},
                "powerBudgetWatts": 400,
            }
        ),
        id="objective and limits",
    ),
    pytest.param(
        spec(autoscaling={"minPacks": 2, "maxPacks": 4, "scaleDownStabilization": "90s"}),
        id="packs that follow demand",
    ),
    pytest.param(spec(autoscaling={"minPacks": 0, "maxPacks": 1}), id="scale to zero"),
    pytest.param(
        spec(autoscaling={"maxPacks": 64, "scaleDownStabilization": "0s"}), id="from one pack"
    ),
    pytest.param(spec(packs=1, autoscaling={"maxPacks": 4}), id="packs at its default"),
    pytest.param(
        spec(
            engine={
                "args": ["--" + "a" * 1022] * 64,
                "env": [{"name": f"{'A' * 126}{i:02}", "value": "v" * 4096} for i in range(64)],
            }
        ),
        id="everything at its limit",
    ),
]
CLAIM_FORM = "write it as pvc:// with a PersistentVolumeClaim"
IMAGE_FORM = "write it as oci:// and an image"
HUB_FORM = "write it as hf://ORGANISATION/NAME"
FILE_FORM = "write it as file:// and an absolute path"
RENAME = "use another name"


REFUSED = [
    pytest.param(spec(pack=2), ['unknown field "spec.pack"'], id="unknown field"),
    pytest.param(
        spec(engine={"arguments": []}),
        ['unknown field "spec.engine.arguments"'],
        id="unknown nested field",
    ),
    pytest.param({}, ["spec.model", "Required value"], id="no model"),
    pytest.param({"model": {}}, ["spec.model.uri", "Required value"], id="no uri"),
    pytest.param(
        spec(replicasPerPack=2, autoscaling={}),
        ["spec.replicasPerPack fixes", "spec.autoscaling.mode is Auto", "remove", "Recommend"],
        id="a count both fixed and found",
    ),
    pytest.param(
        spec(autoscaling={"minReplicasPerPack": 5, "maxReplicasPerPack": 4}),
        [
            "minReplicasPerPack is more than spec.autoscaling.maxReplicasPerPack",
            "lower the one",
        ],
        id="min above max",
    ),
    pytest.param(
        spec(autoscaling={"minReplicasPerPack": 9}),
        ["minReplicasPerPack is more than", "(8 when left out)", "lower the one"],
        id="min above the default of max",
    ),
    pytest.param(
        spec(engine={"kind": "Simulated"}),
        ["spec.engine.kind is Simulated but spec.gpu.kind is NVIDIA", "both to Simulated"],
        id="simulated engine on a real GPU",
    ),
    pytest.param(
        spec(gpu={"kind": "Simulated"}),
        ["spec.engine.kind is vLLM but spec.gpu.kind is Simulated", "both to Simulated"],
        id="vLLM on a simulated GPU",
    ),
    pytest.param(
        with_uri("facebook/opt-1.3b"),
        ["spec.model.uri is 'facebook/opt-1.3b'", "use hf://ORGANISATION/NAME, pvc://CLAIM/PATH"],
        id="uri without scheme",
    ),
    pytest.param(
        with_uri("s3://bucket/opt"),
        ["spec.model.uri is 's3://bucket/opt'", "oci://REGISTRY/REPOSITORY:TAG or file:///PATH"],
        id="uri of another scheme",
    ),
    pytest.param(
        with_uri("hf://opt-1.3b"), ["spec.model.uri", HUB_FORM], id="hub without organisation"
    ),
    pytest.param(with_uri("hf://a/b/c"), ["spec.model.uri", HUB_FORM], id="hub with a path"),
    pytest.param(with_uri("hf://a/-b"), ["spec.model.uri", HUB_FORM], id="hub, leading dash"),
    pytest.param(with_uri("hf://a/b c"), ["spec.model.uri", HUB_FORM], id="hub with a space"),
    pytest.param(with_uri("file://models/opt"), ["spec.model.uri", FILE_FORM], id="relative path"),
    pytest.param(with_uri("file:///"), ["spec.model.uri", FILE_FORM], id="root path"),
    pytest.param(
        with_uri("file:///models/../etc"), ["spec.model.uri", FILE_FORM], id="path that climbs"
    ),
    pytest.param(
        with_uri("file:///models/.."), ["spec.model.uri", FILE_FORM], id="path that ends in .."
    ),
    pytest.param(with_uri("pvc://Models"), ["spec.model.uri", CLAIM_FORM], id="claim in capitals"),
    pytest.param(
        with_uri("pvc://models/../x"), ["spec.model.uri", CLAIM_FORM], id="claim that climbs"
    ),
    pytest.param(with_uri("oci://opt"), ["spec.model.uri", IMAGE_FORM], id="image, no registry"),
    pytest.param(
        with_uri("oci://r.io/opt:v1/x"), ["spec.model.uri", IMAGE_FORM], id="image with a path"
    ),
    *(
        pytest.param(spec(podTemplate=template), words, id=name)
        for name, template, words in (
            (
                "label that finds packs",
                {"labels": {"app.kubernetes.io/instance": "x"}},
                ["labels has one of app.kubernetes.io/instance", "remove it"],
            ),
            (
                "label without a name",
                {"labels": {"-": "x"}},
                ["spec.podTemplate.labels has a key", "write NAME or DOMAIN/NAME"],
            ),
            (
                "label value with a space",
                {"labels": {"a": "b c"}},
                ["spec.podTemplate.labels", "it is 'b c'", "correct it"],
            ),
            (
                "annotation of the operator",
                {"annotations": {"serving.slm.dev/template-hash": "x"}},
                ["annotations has serving.slm.dev/template-hash", "remove it"],
            ),
            (
                "node selector with a slash too many",
                {"nodeSelector": {"a/b/c": "d"}},
                ["spec.podTemplate.nodeSelector has a key", "write NAME or DOMAIN/NAME"],
            ),
            (
                "toleration of nothing",
                {"tolerations": [{}]},
                ["an entry without key", "set operator to Exists"],
            ),
            (
                "toleration of any value that names one",
                {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
                ["has value b with operator Exists", "remove value"],
            ),
            (
                "toleration for a time of what ends nothing",
                {"tolerations": [{"key": "a", "value": "b", "tolerationSeconds": 1}]},
                ["tolerationSeconds without effect NoExecute", "remove tolerationSeconds"],
            ),
            (
                "request above its limit",
                {"resources": {"requests": {"cpu": 4}, "limits": {"cpu": "3500m"}}},
                ["requests.cpu is 4, above limits.cpu, 3500m", "lower the one"],
            ),
            (
                "amount that is none",
                {"resources": {"limits": {"memory": "16 GB"}}},
                ["spec.podTemplate.resources.limits.memory", "such as 4, 500m or 16Gi"],
            ),
            (
                "GPU among the resources",
                {"resources": {"limits": {"nvidia.com/gpu": 2}}},
                ['unknown field "spec.podTemplate.resources.limits.nvidia.com/gpu"'],
            ),
            *(
                (
                    f"{field} of the Pod",
                    {field: value},
                    [f'unknown field "spec.podTemplate.{field}'],
                )
                for field, value in BEYOND_A_PACK.items()
            ),
            (
                "directory of the node",
                {"volumes": [{"name": "m", "mountPath": "/m", "hostPath": {"path": "/"}}]},
                ['unknown field "spec.podTemplate.volumes[0].hostPath"'],
            ),
            (
                "token of the API server",
                {"volumes": [{"name": "m", "mountPath": "/m", "projected": {"sources": []}}]},
                ['unknown field "spec.podTemplate.volumes[0].projected"'],
            ),
            (
                "Secret of another namespace",
                {"volumes": [{"name": "m", "mountPath": "/m", "secret": {"secretName": "a/b"}}]},
                ["it is 'a/b'", "correct it"],
            ),
            (
                "another service's token as a volume",
                {
                    "volumes": [
                        {"name": "m", "mountPath": "/m", "secret": {"secretName": "x-agent-token"}}
                    ]
                },
                ["it is 'x-agent-token'", "hold the tokens by which the operator commands packs"],
            ),
            (
                "another service's token to pull with",
                {"imagePullSecrets": [{"name": "x-agent-token"}]},
                ["it is 'x-agent-token'", "name another Secret"],
            ),
            (
                "mount over the agent's token",
                {"volumes": [{"name": "m", "mountPath": "/run/slm", "emptyDir": {}}]},
                ["mountPath is '/run/slm'", "use another path"],
            ),
            (
                "priority of the node's own Pods",
                {"priorityClassName": "system-node-critical"},
                ["it is 'system-node-critical'", "name another PriorityClass"],
            ),
            (
                "volume without a source",
                {"volumes": [{"name": "m", "mountPath": "/m"}]},
                ["volumes m has no source, or several", "persistentVolumeClaim"],
            ),
            (
                "volume named as the operator's",
                {"volumes": [{"name": "shm", "mountPath": "/m", "emptyDir": {}}]},
                ["volumes name is 'shm'", "use another"],
            ),
            (
                "volume over the operator's",
                {"volumes": [{"name": "m", "mountPath": "/proc/x", "emptyDir": {}}]},
                ["mountPath is '/proc/x'", "use another path"],
            ),
            (
                "volume over the operator's, by a detour",
                {"volumes": [{"name": "m", "mountPath": "/run/./slm", "emptyDir": {}}]},
                ["mountPath is '/run/./slm'", "an absolute path without . and .."],
            ),
            (
                "two volumes in one place",
                {
                    "volumes": [
                        {"name": "a", "mountPath": "/m", "emptyDir": {}},
                        {"name": "b", "mountPath": "/m", "emptyDir": {}},
                    ]
                },
                ["has one mountPath twice", "a path of its own"],
            ),
            (
                "volume of the host",
                {"volumes": [{"name": "a", "mountPath": "/m", "hostPath": {"path": "/"}}]},
                ["unknown field", "hostPath"],
            ),
        )
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b", "credentialsSecretRef": {"name": "a..b", "key": "k"}}},
        ["spec.model.credentialsSecretRef.name", "it is 'a..b'", "correct it"],
        id="name that no Secret can bear",
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b", "credentialsSecretRef": {"name": "a", "key": ".."}}},
        ["spec.model.credentialsSecretRef.key", "it is '..'", "correct it"],
        id="key that no Secret can have",
    ),
    pytest.param(
        {"model": {"uri": "file:///models/opt", "revision": "main"}},
        ["spec.model.revision is main", "file:///models/opt", "remove spec.model.revision"],
        id="revision of a directory",
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b", "revision": "--port=1"}},
        ["spec.model.revision", "it is '--port=1': use letters"],
        id="revision that looks like an argument",
    ),
    pytest.param(
        {
            "model": {
                "uri": "hf://a/b",
                "credentialsSecretRef": {"name": "other-agent-token", "key": "token"},
            }
        },
        ["credentialsSecretRef.name", "it is 'other-agent-token'", "name another Secret"],
        id="another service's token as credentials",
    ),
    pytest.param(
        {"model": {"uri": "hf://a/b", "credentialsSecretRef": {"name": "x"}}},
        ["spec.model.credentialsSecretRef.key", "Required value"],
        id="secret without key",
    ),
    pytest.param(
        with_env("SLM_AGENT_TOKEN"), ["name is 'SLM_AGENT_TOKEN'", RENAME], id="SLM_ variable"
    ),
    pytest.param(with_env("POD_IP"), ["name is 'POD_IP'", RENAME], id="POD_IP variable"),
    pytest.param(
        with_env("VLLM_API_KEY"),
        ["name is 'VLLM_API_KEY'", "remove it, and protect the service in front of the router"],
        id="key of the engines",
    ),
    pytest.param(
        with_env("A-B"), ["name is 'A-B'", "use letters, digits"], id="variable with a dash"
    ),
    pytest.param(
        with_env("1A"), ["name is '1A'", "begin with a digit"], id="variable with digit first"
    ),
    pytest.param(
        spec(engine={"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
        ["spec.engine.env[1]", "Duplicate value"],
        id="variable given twice",
    ),
    pytest.param(spec(packs=0), ["spec.packs", "greater than or equal to 1"], id="no packs"),
    pytest.param(spec(packs=65), ["spec.packs", "less than or equal to 64"], id="many packs"),
    pytest.param(
        spec(replicasPerPack=33), ["spec.replicasPerPack", "less than or equal to 32"], id="33"
    ),
    pytest.param(spec(packs="2"), ["spec.packs", "must be of type integer"], id="text number"),
    pytest.param(spec(packs=1.5), ["spec.packs", "must be of type integer"], id="fraction"),
    pytest.param(
        spec(engine={"args": "--enforce-eager"}),
        ["spec.engine.args", "must be of type array"],
        id="text instead of a list",
    ),
    pytest.param(
        spec(engine={"kind": "SGLang"}),
        ["spec.engine.kind", 'supported values: "vLLM", "Simulated"'],
        id="unknown engine",
    ),
    pytest.param(
        spec(autoscaling={"objective": "Fast"}),
        [
            "spec.autoscaling.objective",
            'supported values: "Balanced", "MaxThroughput", "MinEnergyPerToken"',
        ],
        id="unknown objective",
    ),
    pytest.param(
        spec(autoscaling={"slo": {"itlP95": "50"}}),
        ["spec.autoscaling.slo.itlP95 is '50'", "such as 50ms or 0.5s"],
        id="latency without a unit",
    ),
    pytest.param(
        spec(autoscaling={"slo": {"ttftP95": "0.0s"}}),
        ["spec.autoscaling.slo.ttftP95 is '0.0s'", "a duration above zero"],
        id="latency of zero",
    ),
    pytest.param(
        spec(packs=3, autoscaling={"maxPacks": 4}),
        [
            "spec.packs fixes the number of packs but spec.autoscaling.maxPacks",
            "remove spec.packs (kubectl scale",
        ],
        id="packs both fixed and following demand",
    ),
    pytest.param(
        spec(autoscaling={"minPacks": 5, "maxPacks": 4}),
        ["minPacks is more than spec.autoscaling.maxPacks", "lower the one"],
        id="fewest packs above most",
    ),
    pytest.param(
        spec(autoscaling={"minPacks": 2}),
        ["minPacks is set without spec.autoscaling.maxPacks", "set maxPacks too"],
        id="fewest packs alone",
    ),
    pytest.param(
        spec(autoscaling={"mode": "Recommend", "maxPacks": 4}),
        ["spec.autoscaling.maxPacks", "mode is Recommend, which changes nothing", "mode to Auto"],
        id="packs that follow demand in mode Recommend",
    ),
    pytest.param(
        spec(autoscaling={"maxPacks": 65}),
        ["spec.autoscaling.maxPacks", "less than or equal to 64"],
        id="more packs than there may be",
    ),
    pytest.param(
        spec(autoscaling={"scaleDownStabilization": "5 min"}),
        ["spec.autoscaling.scaleDownStabilization is '5 min'", "such as 90s or 5m"],
        id="stabilisation without a unit",
    ),
    pytest.param(
        spec(autoscaling={"powerBudgetWatts": 0}),
        ["spec.autoscaling.powerBudgetWatts", "greater than or equal to 1"],
        id="no power",
    ),
    pytest.param(
        spec(gpu={"memoryReserve": "4 GB"}),
        ["spec.gpu.memoryReserve is '4 GB'", "such as 4Gi"],
        id="no size",
    ),
    pytest.param(
        spec(gpu={"memoryReserve": "-1Gi"}),
        ["spec.gpu.memoryReserve is '-1Gi'", "such as 4Gi"],
        id="less than nothing kept free",
    ),
    pytest.param(
        spec(gpu={"kind": "CPU", "mps": {}}),
        ["spec.gpu.mps is set but spec.gpu.kind is CPU", "remove spec.gpu.mps"],
        id="MPS without an NVIDIA GPU",
    ),
    pytest.param(
        spec(gpu={"mps": {"activeThreadPercentage": 101}}),
        ["spec.gpu.mps.activeThreadPercentage", "less than or equal to 100"],
        id="more than the whole GPU",
    ),
    pytest.param(
        spec(gpu={"resourceName": "gpu"}),
        ["spec.gpu.resourceName", "it is 'gpu': write DOMAIN/NAME"],
        id="resource without a domain",
    ),
    pytest.param(with_uri("hf://a/" + "b" * 512), ["spec.model.uri", "Too long"], id="long uri"),
    pytest.param(with_args("-" * 1025), ["spec.engine.args[0]", "Too long"], id="long arg"),
    pytest.param(
        with_args(*["--x"] * 65), ["spec.engine.args", "must have at most 64"], id="many args"
    ),
]
"""Each with words that the refusal must have: the field, the rule and the remedy."""
