"""The threads of the worker process share one CPU, and its main thread keeps all of them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.engine import PATIENCE, ROOT

PROGRAM = """
import json, os, threading
from engine.runtime.cpu_affinity import run_on_one_cpu
end = threading.Event()
threads = [threading.Thread(target=end.wait) for _ in range(3)]
for thread in threads:
    thread.start()
chosen = []
for _ in range(30):
    run_on_one_cpu()
    chosen.append([sorted(os.sched_getaffinity(one.native_id)) for one in threads])
end.set()
print(json.dumps({"all": sorted(os.sched_getaffinity(0)), "chosen": chosen}))
"""


def test_all_threads_but_the_main_thread_get_the_same_cpu():
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, timeout=PATIENCE, check=True
    )
    found = json.loads(ended.stdout)
    for first, *others in found["chosen"]:
        assert len(first) == 1
        assert first[0] in found["all"]
        assert others == [first, first]
    used = {first[0] for first, *_ in found["chosen"]}
    assert len(used) > 1 or len(found["all"]) == 1  # a busy CPU is left again
