"""Everything that shows what playbooks would do: plan, test, replay, comparison."""
