"""The playbook language: compiles YAML text to frozen playbooks, and reports each mistake with its place."""
