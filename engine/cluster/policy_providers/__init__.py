"""The kinds of policies that cut traffic, one file for each provider."""
