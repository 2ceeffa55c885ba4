from __future__ import annotations

import hashlib
import subprocess

import pytest
from engine.language.folder import FolderError, blob_id, read_files


def write(root, **files):
    for path, content in files.items():
        file = root / path.replace("__", "/").replace("_yaml", ".yaml").replace("_yml", ".yml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def test_playbook_files_are_the_yaml_files_of_all_subfolders(tmp_path):
    write(tmp_path, a_yaml=b"1", b__c_yml=b"2", b__d__e_yaml=b"3", values_yaml=b"4")
    write(tmp_path, kustomization_yaml=b"5", b__kustomization_yml=b"6", b__values_yaml=b"7")
    for name in (".hidden.yaml", "README.md", "x.yaml.bak"):
        (tmp_path / name).write_text("8")
    write(tmp_path, **{".git__f_yaml": b"9"})
    found = read_files([tmp_path])
    assert sorted(found.files) == [
        "a.yaml",
        "b/c.yml",
        "b/d/e.yaml",
        "b/values.yaml",
        "values.yaml",
    ]
    assert found.kustomization == ("kustomization.yaml", b"5")
    assert found.shown("b/c.yml") == str(tmp_path / "b" / "c.yml")


def test_a_mounted_config_map_is_read_through_its_data_link(tmp_path):
    write(tmp_path / "..2026_01", a_yaml=b"old", values_yaml=b"x: 1")
    write(tmp_path / "..2026_02", a_yaml=b"new", b_yaml=b"more")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (tmp_path / "values.yaml").symlink_to("..data/values.yaml")
    assert read_files([tmp_path]).files == {"a.yaml": b"old", "values.yaml": b"x: 1"}
    (tmp_path / "..data").unlink()
    (tmp_path / "..data").symlink_to("..2026_02")
    assert read_files([tmp_path]).files == {"a.yaml": b"new", "b.yaml": b"more"}


def test_a_link_that_never_stands_still_is_a_failure_and_not_two_halves(tmp_path, monkeypatch):
    write(tmp_path / "..1", a_yaml=b"")
    (tmp_path / "..data").symlink_to("..1")
    targets = iter(range(1000))
    monkeypatch.setattr("engine.language.folder.os.readlink", lambda _: f"..{next(targets)}")
    with pytest.raises(FolderError, match="never stood still"):
        read_files([tmp_path])


def test_the_digest_is_of_the_sorted_lines_of_path_and_blob(tmp_path):
    write(tmp_path, b_yaml=b"two\n", a_yaml=b"one\n", sub__c_yaml=b"", values_yaml=b"v: 1\n")
    lines = []
    for name in ("a.yaml", "b.yaml", "sub/c.yaml", "values.yaml"):
        told = subprocess.run(
            ["git", "hash-object", str(tmp_path / name)], check=True, capture_output=True, text=True
        )
        blob = told.stdout.strip()
        assert blob == blob_id((tmp_path / name).read_bytes())
        lines.append(f"{name}\0{blob}\n")
    assert read_files([tmp_path]).digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_digest_is_the_same_in_git_and_in_the_cluster(tmp_path):
    write(tmp_path / "git", a_yaml=b"one")
    write(tmp_path / "mount" / "..1", a_yaml=b"one")
    (tmp_path / "mount" / "..data").symlink_to("..1")
    assert read_files([tmp_path / "git"]).digest == read_files([tmp_path / "mount"]).digest


def test_files_can_be_named_one_by_one_with_the_values_beside_them(tmp_path):
    write(tmp_path, a_yaml=b"1", b_yaml=b"2", c_yaml=b"3", values_yaml=b"4")
    found = read_files([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert sorted(found.files.values()) == [b"1", b"2", b"4"]


def test_what_is_not_there_is_a_failure(tmp_path):
    (tmp_path / "dangling.yaml").symlink_to("nowhere")
    for paths in ([tmp_path / "no"], [tmp_path], [tmp_path, tmp_path / "a.yaml"]):
        with pytest.raises(FolderError):
            read_files(paths)
