"""The cluster files, as far as they can be tested without a cloud: schemas, Ray's validation and documented claims."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from toprung.serve.deployment import ServeOptions

CLOUDS = ("cluster.yaml", "clusters/aws.yaml")
FOR_RAY_UP = (*CLOUDS, "clusters/local.yaml")
KUBERNETES = "clusters/kubernetes.yaml"
SERVE = "clusters/serve.yaml"


@pytest.fixture(params=FOR_RAY_UP)
def cluster(project, request):
    return yaml.safe_load((project / request.param).read_text())


@pytest.fixture(params=CLOUDS)
def cloud(project, request):
    return yaml.safe_load((project / request.param).read_text())


@pytest.fixture
def manifests(project):
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all((project / KUBERNETES).read_text())}


def _locked_ray(project: Path) -> str:
    locked = re.search(r"^ray==(\S+)$", (project / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    return locked[1]


def test_every_cluster_file_of_the_project_is_tested_here(project):
    files = {"cluster.yaml", *(f"clusters/{file.name}" for file in (project / "clusters").iterdir())}
    assert files == {*FOR_RAY_UP, KUBERNETES, SERVE}


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # of Ray Serve
def test_ray_serve_accepts_its_config_and_builds_the_application(project):
    from ray.serve import schema

    config = schema.ServeDeploySchema.model_validate(yaml.safe_load((project / SERVE).read_text()))
    (application,) = config.applications
    module, name = application.import_path.split(":")
    ServeOptions.model_validate(application.args)
    assert importlib.import_module(module).__dict__[name](application.args).__class__.__name__ == "Application"


def test_a_new_project_gets_a_copy_of_this_cluster_file(project):
    copy = project / "src/toprung/scaffold/template/cluster.yaml"
    assert copy.read_text() == (project / "cluster.yaml").read_text()


def test_rays_schema_accepts_the_file(cluster):
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(cluster, json.loads(schema.read_text()))


def test_rays_validation_accepts_the_file_with_its_defaults_filled_in(cluster):
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("name", [*CLOUDS, KUBERNETES])
def test_a_file_that_was_never_run_says_so(name, project):
    assert "NEVER RUN" in (project / name).read_text()


def test_nodes_run_the_locked_version_of_ray(project, manifests):
    google = yaml.safe_load((project / "cluster.yaml").read_text())
    images = [google["docker"]["image"], google["available_node_types"]["gpu_worker"]["docker"]["worker_image"]]
    assert [image.split(":")[1].split("-")[0] for image in images] == [_locked_ray(project)] * 2
    assert manifests["RayCluster"]["spec"]["rayVersion"] == _locked_ray(project)
    assert f"FROM rayproject/ray:{_locked_ray(project)}-" in (project / KUBERNETES).read_text()


def test_nodes_install_the_locked_requirements(cluster):
    assert "requirements.lock" in cluster["file_mounts"].values()
    mounted = next(remote for remote, local in cluster["file_mounts"].items() if local == "requirements.lock")
    assert any(f"--requirement {mounted}" in command for command in cluster["setup_commands"])


def test_every_file_mounted_on_the_nodes_exists_except_the_users_token(cluster, project):
    mounted = set(cluster["file_mounts"].values())
    assert {local for local in mounted if not (project / local).is_file()} == {"~/.ray/auth_token"}


@pytest.mark.parametrize("node", ["head", "worker"])
def test_no_node_starts_without_the_token_or_with_one_that_others_can_read(node, cluster):
    (command,) = [command for command in cluster[f"{node}_start_ray_commands"] if "ray start" in command]
    assert re.search(r"chmod 600 ~/.ray/auth_token; .*RAY_AUTH_MODE=token .*ray start", command)


def test_the_dashboard_listens_only_on_the_heads_loopback(cluster):
    commands = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "0.0.0.0" not in commands


def test_no_trial_runs_on_the_head(cluster):
    assert any("--num-cpus=0" in command for command in cluster["head_start_ray_commands"])


def test_workers_scale_from_zero_so_their_resources_are_given(cloud):
    workers = {name: node for name, node in cloud["available_node_types"].items() if name != "head"}
    assert {name: node["min_workers"] for name, node in workers.items()} == {"cpu_worker": 0, "gpu_worker": 0}
    assert all(node["resources"]["CPU"] > 0 for node in workers.values())
    assert workers["gpu_worker"]["resources"]["GPU"] == 1
    assert cloud["idle_timeout_minutes"] <= 10


def test_gpu_workers_are_spot_machines(project):
    google = yaml.safe_load((project / "cluster.yaml").read_text())["available_node_types"]["gpu_worker"]
    assert google["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    amazon = yaml.safe_load((project / "clusters/aws.yaml").read_text())["available_node_types"]["gpu_worker"]
    assert amazon["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("name", CLOUDS)
def test_the_users_own_settings_are_given_once_at_the_top(name, project):
    """The account of the nodes and the bucket are defined in `metadata`, and referenced everywhere else."""
    text = (project / name).read_text()
    content = yaml.safe_load(text)
    settings = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert next(iter(content)) == "metadata"
    metadata = content["metadata"]
    own = {key: str(value["Name"] if isinstance(value, dict) else value) for key, value in metadata.items()}
    for node in content["available_node_types"].values():
        config = node["node_config"]
        if "serviceAccounts" in config:
            assert [account["email"] for account in config["serviceAccounts"]] == [own["service_account"]]
        else:
            assert config["IamInstanceProfile"] == metadata["instance_profile"]
    assert own["bucket"] in content["head_setup_commands"]
    assert re.findall(r"(?:gs|s3)://[a-z-]+", settings) == [re.search(r"\S+://\S+", own["bucket"])[0]]


def test_mlflows_database_is_on_a_disk_that_outlives_the_head(project):
    google = yaml.safe_load((project / "cluster.yaml").read_text())
    disks = google["available_node_types"]["head"]["node_config"]["disks"]
    assert [disk["deviceName"] for disk in disks if not disk["autoDelete"]] == ["toprung-data"]
    assert any("google-toprung-data" in command for command in google["initialization_commands"])
    assert any("sqlite:////mnt/toprung/mlflow.db" in command for command in google["head_start_ray_commands"])
    amazon = yaml.safe_load((project / "clusters/aws.yaml").read_text())
    disk = amazon["available_node_types"]["head"]["node_config"]["BlockDeviceMappings"][0]["Ebs"]
    assert disk["DeleteOnTermination"] is False
    assert amazon["provider"]["cache_stopped_nodes"] is True


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "ConfigMap", "NetworkPolicy"])
def test_kubernetes_schemas_accept_its_own_kinds(kind, manifests):
    kubernetes_validate.validate(manifests[kind], kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_schemas_accept_every_pod_of_the_cluster(manifests):
    groups = _groups(manifests)
    assert list(groups) == ["head", "cpu-workers", "gpu-workers"]
    for name, group in groups.items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_ray_cluster_on_kubernetes_has_a_token_scales_from_zero_and_shares_one_folder(manifests):
    """KubeRay's definitions are not on PyPI; the fields were compared with those of version 1.7 by hand."""
    cluster = manifests["RayCluster"]
    assert (cluster["apiVersion"], cluster["spec"]["authOptions"]) == ("ray.io/v1", {"mode": "token"})
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [0, 0]
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in _groups(manifests).values():
        pod = group["template"]["spec"]
        volume = {"name": "shared", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
        assert pod["volumes"] == [volume]
        mount = {"name": "shared", "mountPath": "/mnt/shared"}
        assert all(mount in container["volumeMounts"] for container in pod["containers"])


def test_only_the_clusters_pods_and_the_operator_reach_it_on_kubernetes(manifests):
    policy, cluster = manifests["NetworkPolicy"]["spec"], manifests["RayCluster"]
    own = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    assert policy["podSelector"] == own
    assert [list(rule) for rule in policy["ingress"]] == [["from"]]
    assert [peer["podSelector"] for peer in policy["ingress"][0]["from"]] == [
        own,
        {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    ]
    assert cluster["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def _groups(manifests: dict[str, Any]) -> dict[str, Any]:
    spec = manifests["RayCluster"]["spec"]
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}
