"""A folder with more than fifty mistakes. Each is reported once, at its line, and nothing else is reported.

A comment ``# <- code`` marks the line of a mistake. All other lines are correct.
"""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli

FILES = {}

FILES["frame.yaml"] = """\
apiVersion: tiercel.dev/v2  # <- bad-value
kind: Playbook
metadata:
  name: Quarantine_Pods  # <- bad-value
  labels:
    team: 5  # <- wrong-type
  annotations: {a: b}  # <- unknown-key
spec:
  description: 0644  # <- yaml-trap
  mode: dryrun  # <- bad-value
  match: {rules: [R]}
  throtle: {once: 10m}  # <- unknown-key
  actions:
    - action: pod.label
      with: {labels: {a: b}}
    - action: pod.label  # <- duplicate-name
      with: {labels: {a: c}}
---
apiVersion: tiercel.dev/v1
kind: Playbok  # <- unknown-kind
metadata: {name: kind}
spec: {}
---
apiVersion: tiercel.dev/v1  # <- missing-key
metadata: {name: no-kind}
spec: {}
---
- not a mapping  # <- wrong-type
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: empty}
spec:
  match: {}  # <- empty-match
  actions: []  # <- bad-value
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: lacking}
spec:
  description: matches what?  # <- missing-key
  actions:
    - with: {labels: {a: b}}  # <- missing-key
"""

FILES["sub/match.yml"] = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: match}
spec:
  match:
    rules: Terminal shell in container  # <- wrong-type
    priority: Warn  # <- bad-value
    sources: []  # <- bad-value
    tags:
      some: [network]  # <- unknown-key
    hostnames:
      - worker-1
      - 5  # <- wrong-type
  throttle:
    count: 5  # <- missing-key
  actions:
    - {action: pod.label, with: {labels: {a: b}}}
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: alone}
spec:
  match:
    everything: true  # <- bad-value
    rules: [R]
  description: one
  description: two  # <- duplicate-key
  actions: [{action: pod.label, with: {labels: {a: b}}}]
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: alone}  # <- duplicate-name
spec:
  match: {rules: [R]}
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""

FILES["conditions.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: conditions}
spec:
  match: {rules: [R]}
  conditions:
    - {field: proc.name, equal: curl}  # <- unknown-operator
    - {feild: proc.name, equals: curl}  # <- unknown-key
    - {field: proc.name, in: curl}  # <- wrong-type
    - {field: proc.cmdline, regex: "(unclosed"}  # <- bad-regex
    - {field: fd.sip, cidr: [10.0.0.1/8]}  # <- bad-cidr
    - {jsonPath: "$.a[", equals: 1}  # <- bad-path
    - {field: proc.name, equals: a, glob: b}  # <- bad-value
    - {field: proc.name}  # <- missing-key
    - any:
        - {field: user.uid, in: []}  # <- bad-value
        - not:
            - field  # <- wrong-type
    - {field: ct.country, notIn: [de, no]}  # <- yaml-trap
  actions: [{action: pod.label, with: {labels: {a: b}}}]
"""

FILES["misspelt.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {nam: misspelt}  # <- unknown-key
spec:
  match: {rules: [R]}
  conditions:
    - {an: [{field: proc.name, equals: curl}]}  # <- unknown-key
    - {step: pod.label, is: [done]}  # <- unknown-key
  throttle: {onze: 10m}  # <- unknown-key
  actions:
    - actoin: pod.label  # <- unknown-key
      with: {labels: {a: b}}
    - action: pod.label
      with: {label: {a: b}}  # <- bad-parameter
    - action: slack.post
      name: tell
      with: {webhok: {fromSecret: hook}, text: hi}  # <- bad-parameter
    - action: slack.post
      with: {webhook: {fromSecret: hook}, text: hi}
      when:
        - {is: [done]}  # <- missing-key
        - {step: tell}  # <- missing-key
---
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: nulls}
spec:
  match: null  # <- wrong-type
  conditions:  # <- wrong-type
  actions: ~  # <- wrong-type
"""

FILES["steps.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: steps}
spec:
  match: {rules: [R]}
  throttle:
    once: soon  # <- bad-duration
  actions:
    - action: pod.lable  # <- unknown-action
    - action: pod.isolate
      with:
        egres: deny  # <- bad-parameter
    - action: slack.post
      with:
        webhook: https://hooks.example/T0/B0/c4nary  # <- literal-secret
        text: "%nothing"  # <- bad-template
      retry:
        attempts: 0  # <- bad-value
      onFailure: halt  # <- bad-value
    - action: pod.label
      name: mark
      with:
        labels: {team: "${team.name}"}  # <- missing-value
      when:
        - {step: later, is: [done]}  # <- bad-value
  finally:
    - action: kubernetes.event
      with: {type: Warning}  # <- missing-key
"""

FILES["others.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: Silence
metadata: {name: silence}
spec:
  match: {rules: [R]}
  until: tomorrow  # <- bad-value
  owner: [me]  # <- wrong-type
  comment: why
---
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: guardrails}
spec:
  budgets:
    - {effect: disrupt, limit: 5, per: 10m, scope: galaxy}  # <- bad-value
    - {effect: disrupt, limit: 5, peer: 10m, scope: owner}  # <- unknown-key
    - {effect: disrupt, limit: 5, per: 10m, scope: owner, onExceeded: digest}  # <- bad-value
  maxEventAge: 300  # <- bad-duration
---
apiVersion: tiercel.dev/v1
kind: Guardrails
metadata: {name: again}  # <- bad-value
spec: {}
"""

FILES["conditions.test.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: PlaybookTest
metadata: {name: frame}
spec:
  cases:
    - name: no event  # <- missing-key
      expect: {nothing: true}
    - name: nothing expected
      event: {rule: R}
      expect: {}  # <- bad-value
    - name: another word
      evnt: {rule: R}  # <- unknown-key
      expct: {nothing: true}  # <- unknown-key
---
apiVersion: tiercel.dev/v1
kind: PlaybookTest
metadata: {name: content}
spec:
  playbooks:
    - conditions
    - conditons  # <- bad-value
  cases:
    - name: no rule
      event: {priority: Notice}  # <- bad-value
      expect: {nothing: true}
    - name: no file
      eventFile: gone.json  # <- bad-value
      expect: {nothing: true}
"""

FILES["values.yaml"] = """\
team: {lead: somebody}
country: no  # <- yaml-trap
"""

FILES["broken.yaml"] = """\
apiVersion: tiercel.dev/v1
kind: }  # <- yaml-syntax
"""

MARK = re.compile(r"# <- ([a-z-]+)$")
MISTAKES = [
    (file, number, found[1])
    for file, text in sorted(FILES.items())
    for number, line in enumerate(text.splitlines(), 1)
    if (found := MARK.search(line))
]


@pytest.fixture
def findings(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["check", "-o", "json", "."], catch_exceptions=False)
    assert result.exit_code == 1
    return json.loads(result.stdout)


def test_more_than_fifty_mistakes_are_each_reported_once_at_their_lines(findings):
    errors = [finding for finding in findings if finding["severity"] == "error"]
    assert [(e["file"], e["line"], e["code"]) for e in errors] == MISTAKES
    assert len(MISTAKES) > 50
    assert "c4nary" not in str(findings)
