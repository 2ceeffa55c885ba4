"""The playbooks as the kubelet mounts them: none, one ConfigMap, team folders, several ConfigMaps."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from engine.language.folder import read_files

from tests.cluster.api import ApiError
from tests.kustomize.rendering import KUSTOMIZE, find, render
from tests.kustomize.test_kustomize import command, pod_spec, with_components
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK, alert
from tests.support.kubelet_files import Mount, projected
from tests.support.playbooks import new_loader

INSTALL = Path(__file__).parents[2] / "docs" / "install.md"
LIMIT = 2**20
"""Bytes of a ConfigMap."""


def playbook(name):
    return PLAYBOOK.replace("mark-shell", name)


def mounted(manifests):
    """Return the files that the kubelet writes for the playbook volume."""
    [volume] = [it for it in pod_spec(manifests)["volumes"] if it["name"] == "playbooks"]
    maps = [it for it in manifests if it["kind"] == "ConfigMap"]
    return projected(volume, {it["metadata"]["name"]: it["data"] for it in maps})


def of_the_page(folder, word):
    """Write the kustomization that docs/install.md shows, with the files that it names, and render it."""
    blocks = re.findall(r"```yaml\n(.*?)```", INSTALL.read_text(), re.DOTALL)
    [shown] = [yaml.safe_load(it) for it in blocks if word in it]
    folder.mkdir()
    relative = os.path.relpath(KUSTOMIZE, folder)
    shown["resources"] = [it.replace("../..", relative) for it in shown["resources"]]
    for generator in shown["configMapGenerator"]:
        for path in generator["files"]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            name = Path(path).stem
            text = "{}" if name == "values" else playbook(f"{Path(path).parent.name}-{name}")
            (folder / path).write_text(text)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(shown))
    return render(folder)


def test_base_alone_is_ready_and_matches_nothing_until_an_overlay_brings_playbooks(tmp_path):
    assert mounted(render(KUSTOMIZE / "base")) == {}
    mount, prod = Mount(tmp_path / "playbooks", {}), KUSTOMIZE / "overlays/prod"
    with engine(tmp_path, mount.folder, "--dry-run") as running:
        assert running.get("/readyz")[0] == 200
        assert running.post(alert())[2]["accepted"] == 1
        status = running.get("/status")[2]
        assert status["playbooks"]["digest"] == read_files([mount.folder]).digest
        mount.write(mounted(render(prod)))
        running.wait_for_log(lambda it: it["event"] == "playbooks_loaded" and it["playbooks"] == 3)
        digest = command("digest", "--values", prod / "values.yaml", prod / "playbooks").strip()
        assert running.get("/status")[2]["playbooks"]["digest"] == digest
        running.post(alert(number=2, rule="Terminal shell in container"))
        running.wait_for_audit(lambda it: it.get("playbook") == "terminal-shell-in-container")


def test_the_folders_of_teams_reach_the_engine_as_the_page_shows(tmp_path):
    files = mounted(of_the_page(tmp_path / "overlay", "team-payments"))
    assert set(files) == {"values.yaml", "platform/shell.yaml", "payments/shell.yaml"}
    mount = Mount(tmp_path / "playbooks", files)
    found = new_loader().load(read_files([mount.folder]))
    assert found.findings == ()
    assert {one.name for one in found.playbooks} == {"platform-shell", "payments-shell"}
    assert set(found.sources) == {"platform/shell.yaml", "payments/shell.yaml"}
    del files["payments/shell.yaml"]
    mount.write(files)  # a team whose last playbook is gone
    assert set(read_files([mount.folder]).files) == {"values.yaml", "platform/shell.yaml"}


@pytest.mark.cluster
def test_more_than_one_mebibyte_of_playbooks_fits_into_several_config_maps(admin, tmp_path):
    text = "".join(f"---\n{playbook(f'big-NAME-{n}')}" for n in range(20))
    text += "# padding\n" * ((LIMIT * 3 // 4 - len(text)) // 10)
    files = {name: text.replace("NAME", name) for name in ("one", "two", "three")}
    maps = {f"big-{name}": {f"{name}.yaml": content} for name, content in files.items()}
    whole = {f"{name}.yaml": content for name, content in files.items()}
    path = "/api/v1/namespaces/default/configmaps"
    with pytest.raises(ApiError, match="Too long"):
        admin.create(path, {"metadata": {"name": "whole"}, "data": whole})
    for name, data in maps.items():
        admin.create(path, {"metadata": {"name": name}, "data": data})
        admin.delete(f"{path}/{name}")
    volume = {"projected": {"sources": [{"configMap": {"name": name}} for name in maps]}}
    mount = Mount(tmp_path / "playbooks", projected(volume, maps))
    found = new_loader().load(read_files([mount.folder]))
    assert (len(found.playbooks), found.findings) == (60, ())


def test_the_page_shows_how_a_second_config_map_is_added(tmp_path):
    files = mounted(of_the_page(tmp_path / "overlay", "tiercel-playbooks-more"))
    assert set(files) == {"shell.yaml", "miner.yaml", "values.yaml"}


def test_with_rollout_on_change_each_change_is_another_name_and_a_new_pod(tmp_path):
    def made(folder, text):
        generator = {
            "name": "tiercel-playbooks", "namespace": "tiercel", "literals": [f"a.yaml={text}"],
            "options": {"disableNameSuffixHash": True},
        }  # fmt: skip
        more = {"configMapGenerator": [generator]}
        manifests = with_components(tmp_path / folder, "slack", "rollout-on-change", **more)
        [name] = [it["metadata"]["name"] for it in manifests if it["kind"] == "ConfigMap"]
        assert mounted(manifests) == {"a.yaml": text.encode()}
        return name, find(manifests, "StatefulSet")["spec"]["template"]

    (one, first), (two, second), (same, third) = made("1", "x"), made("2", "y"), made("3", "x")
    assert re.fullmatch(r"tiercel-playbooks-[a-z0-9]{10}", one)
    assert (one, first) == (same, third)
    assert one != two
    assert first != second  # a changed template is what restarts the pod
