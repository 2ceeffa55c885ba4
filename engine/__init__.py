"""Tiercel: a declarative GitOps rule-to-action engine for Kubernetes."""
