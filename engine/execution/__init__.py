"""Claimed steps: attempts, guardrails, budgets and retries."""
