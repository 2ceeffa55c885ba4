"""The playbook language: from YAML text to compiled, frozen playbooks, with every mistake at its place."""
