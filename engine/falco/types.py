"""Which of Falco's fields are numbers or booleans in an alert; the others are texts, or lists of them.

From the field tables of falcosecurity/libs (userspace/libsinsp/sinsp_filtercheck_*.cpp): PT_INT*, PT_UINT*,
PT_PORT, PT_RELTIME and PT_ABSTIME become JSON numbers, PT_BOOL booleans; PT_IPADDR is a text.
"""

from __future__ import annotations

_NUMBERS = """
evt.num evt.time evt.time.iso8601 evt.rawtime evt.rawtime.s evt.rawtime.ns evt.reltime
evt.reltime.s evt.reltime.ns evt.latency evt.latency.s evt.latency.ns
evt.deltatime evt.deltatime.s evt.deltatime.ns evt.cpu
fd.num fd.cport fd.sport fd.lport fd.rport fd.dev fd.dev.major fd.dev.minor fd.ino
proc.cmdnargs proc.cmdlenargs proc.loginshellid proc.tty proc.pid proc.ppid proc.apid proc.vpid proc.pvpid
proc.sid proc.vpgid proc.pgid proc.duration proc.ppid.duration proc.pid.ts proc.ppid.ts proc.exe_ino
proc.exe_ino.ctime proc.exe_ino.mtime proc.exe_ino.ctime_duration_proc_start
proc.exe_ino.ctime_duration_pidns_start proc.pidns_init_start_ts proc.nchilds proc.nthreads proc.fdopencount
proc.fdlimit proc.fdusage proc.vmsize proc.vmrss proc.vmswap
thread.tid thread.vtid thread.pid thread.ppid thread.cpu thread.vmsize thread.vmrss
user.uid user.loginuid group.gid
"""
_BOOLEANS = """
evt.failed evt.is_io evt.is_io_read evt.is_io_write evt.is_wait evt.is_async evt.is_open_read evt.is_open_write
evt.is_open_exec evt.is_open_create
fd.is_server fd.connected fd.name_changed
proc.is_exe_writable proc.is_exe_upper_layer proc.is_exe_from_memfd proc.is_exe_lower_layer proc.is_sid_leader
proc.is_vpgid_leader thread.ismain container.privileged
"""
_KINDS = {
    **dict.fromkeys(_NUMBERS.split(), "number"),
    **dict.fromkeys(_BOOLEANS.split(), "boolean"),
}


def type_of(field: str) -> str | None:
    """``number``, ``boolean`` or ``text``, where Falco's tables tell; None for others."""
    name = field.partition("[")[0]
    # all of k8s_audit are texts, even ka.response.code (plugins/k8saudit/README.md)
    return "text" if name.startswith("ka.") else _KINDS.get(name)
