"""The manifests hold to the official schemas, refer to what exists, and let nobody in."""

from __future__ import annotations

import copy
from typing import Any

import kubernetes_validate
import pytest

from pipeline.index import ROOT
from tests.launch.manifests import (
    COMPONENT,
    IMAGE,
    OVERLAYS,
    Manifest,
    Pod,
    flag_file,
    of_kind,
    pod,
    pods,
    render,
    rendered,
)

INSTANCE = "app.kubernetes.io/instance"
VERSIONS = ("1.29", "1.33", "1.37")
"""of Kubernetes: the first that counts a Job's failures by index, one between, the newest that there are schemas for"""
PROGRAMS = {"replay", "learner", "actor", "evaluator"}
ACCELERATORS = {"nvidia.com/gpu", "google.com/tpu"}
GRACE_S = 60
"""that a program may take to save and end"""

JOBSET = {
    "": {"network", "successPolicy", "failurePolicy", "replicatedJobs", "startupPolicy", "suspend", "coordinator"},
    "successPolicy": {"operator", "targetReplicatedJobs"},
    "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "failurePolicy.rules": {"name", "action", "onJobFailureReasons", "targetReplicatedJobs"},
    "replicatedJobs": {"name", "replicas", "template", "dependsOn", "groupName"},
    "replicatedJobs.dependsOn": {"name", "status"},
}
"""the fields of jobset.x-k8s.io/v1alpha2, from JobSet's API reference; there is no schema of it to install"""
JOBSET_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
JOBSET_REASONS = {
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
}


every = pytest.mark.parametrize("name", OVERLAYS)


def invalid(manifest: Manifest, version: str) -> list[str]:
    """What the schema of `version` has against a manifest."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{manifest['kind']} {manifest['metadata']['name']}: {error.message}"]
    return []


# The schemas.


@every
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_hold_to_the_official_schemas(name: str, version: str) -> None:
    manifests = [m for m in rendered(name) if m["kind"] != "JobSet"]
    assert {"StatefulSet", "Job", "Deployment", "Service", "NetworkPolicy", "ConfigMap"} <= {
        m["kind"] for m in manifests
    }
    assert [line for m in manifests for line in invalid(m, version)] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_is_found(version: str) -> None:
    manifest = copy.deepcopy(pod(rendered("base"), "actor").owner)
    manifest["spec"]["backofLimitPerIndex"] = 3
    assert invalid(manifest, version)
    manifest = copy.deepcopy(pod(rendered("base"), "actor").owner)
    manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = {}
    assert invalid(manifest, version)


def jobset_errors(spec: Manifest, path: str = "") -> list[str]:
    """The fields of a JobSet's spec that JobSet does not have; a Job's own are not looked at."""
    found = [f"{path}.{name}" for name in spec if name not in JOBSET[path]]
    for name, value in spec.items():
        inside = f"{path}.{name}".lstrip(".")
        if inside in JOBSET:
            for item in value if isinstance(value, list) else [value]:
                found += jobset_errors(item, inside)
    return found


def test_the_jobset_has_the_fields_that_jobset_documents() -> None:
    (jobset,) = of_kind(rendered("tpu-slice"), "JobSet")
    spec = jobset["spec"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset_errors(spec) == []
    assert jobset_errors({"failurePolicy": {"rules": [{"actoin": "FailJobSet"}]}}) == ["failurePolicy.rules.actoin"]
    names = [job["name"] for job in spec["replicatedJobs"]]
    assert spec["successPolicy"]["operator"] in ("All", "Any")
    assert set(spec["successPolicy"]["targetReplicatedJobs"]) <= set(names)
    for rule in spec["failurePolicy"]["rules"]:
        assert rule["action"] in JOBSET_ACTIONS
        assert set(rule["onJobFailureReasons"]) <= JOBSET_REASONS
        assert set(rule["targetReplicatedJobs"]) <= set(names)
    for number, job in enumerate(spec["replicatedJobs"]):
        for awaited in job.get("dependsOn", ()):
            assert awaited["status"] in ("Ready", "Complete")
            assert awaited["name"] in names[:number]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_jobs_in_the_jobset_hold_to_the_official_schema(version: str) -> None:
    (jobset,) = of_kind(rendered("tpu-slice"), "JobSet")
    for job in jobset["spec"]["replicatedJobs"]:
        alone = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        alone["metadata"] = {"name": job["name"], **job["template"].get("metadata", {})}
        assert invalid(alone, version) == []


# What refers to what.


@every
def test_what_a_pod_refers_to_exists(name: str) -> None:
    manifests = rendered(name)
    (config,) = of_kind(manifests, "ConfigMap")
    claims = {m["metadata"]["name"] for m in of_kind(manifests, "PersistentVolumeClaim")}
    for found in pods(manifests):
        own = {v["metadata"]["name"] for v in found.owner["spec"].get("volumeClaimTemplates", ())}
        volumes = {volume["name"] for volume in found.spec["volumes"]} | own
        assert {mount["name"] for mount in found.container["volumeMounts"]} == volumes
        for volume in found.spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "configMap" in volume:
                assert volume["configMap"]["name"] == config["metadata"]["name"]
                assert {item["key"] for item in volume["configMap"]["items"]} <= config["data"].keys()
        for variable in found.container["env"]:
            reference = variable.get("valueFrom", {}).get("configMapKeyRef")
            if reference is not None:
                assert reference["name"] == config["metadata"]["name"]
                assert reference["key"] in config["data"]
        assert found.container["image"] == IMAGE


@every
def test_variables_in_arguments_are_set(name: str) -> None:
    for found in pods(rendered(name)):
        said = " ".join(found.container.get("args", ()))
        known = {variable["name"] for variable in found.container["env"]}
        if found.owner["spec"].get("completionMode") == "Indexed":
            known.add("JOB_COMPLETION_INDEX")
        used = {word.partition(")")[0] for word in said.split("$(")[1:]}
        assert used <= known


@every
def test_files_in_arguments_are_mounted(name: str) -> None:
    for found in pods(rendered(name)):
        mounts = [mount["mountPath"] for mount in found.container["volumeMounts"]]
        for word in found.container.get("args", ())[1:]:
            value = word.partition("=")[2]
            if value.startswith("/"):
                # Below it: a new disk's root is not empty.
                assert any(value.startswith(f"{mount}/") for mount in mounts), word


@pytest.mark.parametrize(("name", "shards", "actors"), [("base", 1, 4), ("sharded", 3, 7)])
def test_the_numbers_agree(name: str, shards: int, actors: int) -> None:
    manifests = rendered(name)
    (config,) = of_kind(manifests, "ConfigMap")
    assert config["data"]["SHARDS"] == str(shards)
    assert config["data"]["NUM_ACTORS"] == str(actors)
    (replay,) = of_kind(manifests, "StatefulSet")
    assert replay["spec"]["replicas"] == shards
    actor = pod(manifests, "actor").owner["spec"]
    assert (actor["completions"], actor["parallelism"]) == (actors, actors)
    # The name of a StatefulSet's pod is that of the pod, then that of its service.
    (service,) = (s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == replay["spec"]["serviceName"])
    port = service["spec"]["ports"][0]["port"]
    hosts = [f"{replay['metadata']['name']}-{n}.{service['metadata']['name']}:{port}" for n in range(shards)]
    assert config["data"]["REPLAY"].split(",") == hosts


@every
def test_services_and_probes_meet_the_ports_that_the_flags_name(name: str) -> None:
    manifests = rendered(name)
    replay = pod(manifests, "replay")
    ports = {port["name"]: port["containerPort"] for port in replay.container["ports"]}
    assert f"--port={ports['reverb']}" in replay.container["args"]
    assert f"--health_port={ports['health']}" in replay.container["args"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = replay.container[probe]["httpGet"]
        assert ports[request["port"]] == ports["health"]
        assert f'"{request["path"]}"' in (ROOT / "binaries/replay_server.py").read_text()
    board = pod(manifests, "tensorboard")
    (port,) = board.container["ports"]
    assert f"--port={port['containerPort']}" in board.container["args"]
    for service in of_kind(manifests, "Service"):
        (chosen,) = (p for p in pods(manifests) if service["spec"]["selector"].items() <= p.labels.items())
        names = {port["name"]: port["containerPort"] for port in chosen.container["ports"]}
        for port in service["spec"]["ports"]:
            assert names[port.get("targetPort", port["name"])] == port["port"]


def test_a_healthy_replay_server_is_not_killed_while_it_writes_its_contents() -> None:
    probe = pod(rendered("base"), "replay").container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 2 * GRACE_S


def test_flags_of_the_person_reach_every_program_as_they_are() -> None:
    flags = ["--hparam_override=DQN.memory='uniform'; DQN.n_step=3", '--env=a:b "c"', "--seed=3"]
    manifests = render("--cloud=kind", "--", *flags)
    assert flag_file(manifests) == ["--hparams=dqn_cartpole", *flags]
    for component in PROGRAMS:
        assert pod(manifests, component).container["args"][1] == "--flagfile=/etc/encore/run.flags"


def test_a_changed_flag_is_another_config_map() -> None:
    names = {of_kind(render("--cloud=kind", "--", f"--seed={n}"), "ConfigMap")[0]["metadata"]["name"] for n in (1, 2)}
    assert len(names) == 2


# Who restarts, and who does not.


@every
def test_a_users_error_ends_a_job_at_once_and_what_the_cluster_does_does_not_count(name: str) -> None:
    manifests = rendered(name)
    jobs = [m["spec"] for m in of_kind(manifests, "Job")]
    jobs += [j["template"]["spec"] for m in of_kind(manifests, "JobSet") for j in m["spec"]["replicatedJobs"][1:]]
    assert len(jobs) == 3
    for job in jobs:
        user_error, disruption = job["podFailurePolicy"]["rules"]
        assert user_error["action"] == "FailJob"
        assert user_error["onExitCodes"] == {"containerName": "program", "operator": "In", "values": [2]}
        assert disruption["action"] == "Ignore"
        assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        # Kubernetes takes the policy with no other.
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        assert [c["name"] for c in job["template"]["spec"]["containers"]] == ["program"]


@every
def test_only_the_actor_that_failed_starts_again(name: str) -> None:
    job = pod(rendered(name), "actor").owner["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["backoffLimitPerIndex"] > 0
    assert "backoffLimit" not in job
    assert "maxFailedIndexes" not in job


def test_a_slice_starts_again_as_a_whole_unless_the_user_erred() -> None:
    (jobset,) = of_kind(rendered("tpu-slice"), "JobSet")
    assert [job["template"]["spec"]["backoffLimit"] for job in jobset["spec"]["replicatedJobs"]] == [0, 0]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert jobset["spec"]["successPolicy"]["targetReplicatedJobs"] == ["learner"]


@every
def test_whoever_saves_has_the_time_for_it(name: str) -> None:
    for component in ("replay", "learner", "evaluator"):
        assert pod(rendered(name), component).spec["terminationGracePeriodSeconds"] > GRACE_S


# Closed doors.


@every
def test_pods_are_as_restricted_as_kubernetes_has_it(name: str) -> None:
    """The Pod Security Standards' level `restricted`, and a root file system that cannot be written."""
    for found in pods(rendered(name)):
        security = found.spec["securityContext"]
        assert security["runAsNonRoot"]
        assert security["runAsUser"] == security["fsGroup"] == 1000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert found.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert found.spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & found.spec.keys()


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses a pod."""
    expressions = selector.get("matchExpressions", [])
    assert {e["operator"] for e in expressions} <= {"In"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(e["key"]) in e["values"] for e in expressions
    )


def may_reach(manifests: list[Manifest], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Whether the network policies let a pod of the same namespace reach another's port."""
    policies = [p["spec"] for p in of_kind(manifests, "NetworkPolicy") if selects(p["spec"]["podSelector"], target)]
    assert all(policy["policyTypes"] == ["Ingress"] for policy in policies)
    if not policies:
        return True
    for policy in policies:
        for rule in policy.get("ingress", ()):
            peers: list[Any] = rule["from"]
            assert all(peer.keys() == {"podSelector"} for peer in peers)
            ports = [p["port"] for p in rule.get("ports", ())] or [port]
            if port in ports and any(selects(peer["podSelector"], source) for peer in peers):
                return True
    return False


@every
def test_only_the_runs_own_programs_reach_its_replay_servers(name: str) -> None:
    manifests = rendered(name)
    target = pod(manifests, "replay").labels
    for source in pods(manifests):
        allowed = source.component in ("learner", "actor", "evaluator", "tpu")
        assert may_reach(manifests, source.labels, target, 8000) == allowed
        assert not may_reach(manifests, source.labels, target, 8080)
        assert not may_reach(manifests, {**source.labels, INSTANCE: "another"}, target, 8000)
        assert not may_reach(manifests, {COMPONENT: source.component}, target, 8000)
    assert not may_reach(manifests, {}, target, 8000)


@every
def test_nobody_reaches_the_other_pods(name: str) -> None:
    manifests = rendered(name)
    for target in pods(manifests):
        assert not may_reach(manifests, {}, target.labels, 6006)
        for source in pods(manifests):
            slice_of_tpus = target.component == "tpu" and source.component in ("learner", "tpu")
            assert may_reach(manifests, source.labels, target.labels, 6006) == slice_of_tpus


def test_two_runs_of_one_namespace_have_nothing_in_common() -> None:
    first, second = render("--cloud=kind", "--name=first"), render("--cloud=kind", "--name=second")
    names = [{(m["kind"], m["metadata"]["name"]) for m in manifests} for manifests in (first, second)]
    assert not names[0] & names[1]
    theirs = [found.labels for found in pods(second)]
    for manifest in first:
        spec = manifest.get("spec", {})
        for selector in (spec.get("podSelector"), manifest["kind"] != "Service" and spec.get("selector")):
            assert not selector or not any(selects(selector, labels) for labels in theirs)
    for service in of_kind(first, "Service"):
        assert not any(service["spec"]["selector"].items() <= labels.items() for labels in theirs)
    assert not may_reach(first, pod(second, "actor").labels, pod(first, "replay").labels, 8000)


# What an overlay changes, and what it leaves alone.


def accelerators(found: Pod) -> set[str]:
    return found.container["resources"]["limits"].keys() & ACCELERATORS


@every
def test_every_program_says_what_it_needs(name: str) -> None:
    for found in pods(rendered(name)):
        resources = found.container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        # A node of TPUs is its pod's alone.
        assert found.component == "tpu" or "memory" in resources["limits"]
        assert found.spec["nodeSelector"]["kubernetes.io/arch"] == "amd64"


@every
def test_only_the_learner_has_accelerators(name: str) -> None:
    wanted = {"gpu": {"nvidia.com/gpu"}, "gpu,spot": {"nvidia.com/gpu"}, "tpu": {"google.com/tpu"}}
    manifests = rendered(name)
    assert accelerators(pod(manifests, "learner")) == wanted.get(name, set())
    for found in pods(manifests):
        if found.component == "tpu":
            assert accelerators(found) == {"google.com/tpu"}
        elif found.component != "learner":
            assert accelerators(found) == set()


@every
def test_only_actors_go_to_nodes_that_may_be_taken_away(name: str) -> None:
    for found in pods(rendered(name)):
        assert ("affinity" in found.spec) == ("spot" in name and found.component == "actor")
        keys = {toleration["key"] for toleration in found.spec.get("tolerations", ())}
        spot = {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type", "kubernetes.azure.com/scalesetpriority"}
        assert keys & spot == (spot if "spot" in name and found.component == "actor" else set())


def test_the_jobsets_learner_is_the_jobs_but_for_the_tpus() -> None:
    alone, in_set = (pod(rendered(name), "learner") for name in ("base", "tpu-slice"))
    differing = copy.deepcopy(in_set.spec)
    container = differing["containers"][0]
    added = container["args"][len(alone.container["args"]) :]
    container["args"] = container["args"][: len(alone.container["args"])]
    assert [variable["name"] for variable in container["env"][-1:]] == ["JOBSET"]
    container["env"].pop()
    assert differing == alone.spec
    (jobset,) = of_kind(rendered("tpu-slice"), "JobSet")
    hosts = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
    # JobSet's documentation: <jobset>-<replicated job>-<job>-<pod>.<subdomain>, which is by default the JobSet's name.
    ports = [port["containerPort"] for port in pod(rendered("tpu-slice"), "tpu").container["ports"]]
    addresses = ",".join(f"$(JOBSET)-tpu-0-{n}.$(JOBSET):{ports[0]}" for n in range(hosts))
    assert added == ["--sys=tpu", f"--tpu=grpc://{addresses}"]


@pytest.mark.parametrize(
    ("cloud", "storage_class", "mode"),
    [
        ("gke", "standard-rwx", "ReadWriteMany"),
        ("eks", "efs-sc", "ReadWriteMany"),
        ("aks", "azurefile-csi", "ReadWriteMany"),
        ("kind", "standard", "ReadWriteOnce"),
    ],
)
def test_the_runs_folder_is_on_what_the_cloud_has_for_it(cloud: str, storage_class: str, mode: str) -> None:
    for arguments, expected in (((), storage_class), (("--storage_class=mine",), "mine")):
        (claim,) = of_kind(render(f"--cloud={cloud}", *arguments), "PersistentVolumeClaim")
        assert claim["spec"]["storageClassName"] == expected
        assert claim["spec"]["accessModes"] == [mode]


@pytest.mark.parametrize(
    "image", ["encore", "encore:1", "host:5000/encore", "host:5000/a/encore:1.0", "host/encore@sha256:" + "0" * 64]
)
def test_an_image_is_taken_as_it_is_named(image: str) -> None:
    manifests = render("--cloud=gke", "--overlay=tpu-slice", f"--image={image}")
    assert {found.container["image"] for found in pods(manifests)} == {image}
