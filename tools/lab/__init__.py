"""A laboratory of real hosts for deployment tests: systemd, sshd, own addresses, no way out.

Start a command inside it with `python -m tools.lab run -- COMMAND`; in there, make hosts with `Lab`.
"""

from tools.lab.host import Host, HostError, Lab, Snapshot, ansible_environment
from tools.lab.needs import why_not

__all__ = ["Host", "HostError", "Lab", "Snapshot", "ansible_environment", "why_not"]
