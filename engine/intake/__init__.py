"""From a request body to runs in the journal: parse, plan, write, answer."""
