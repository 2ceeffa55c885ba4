"""The output of the commands: text, JSON, Markdown, HTML, SARIF and JUnit."""
