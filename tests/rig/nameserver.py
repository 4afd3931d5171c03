"""A name server that knows no name, and says so at once: without one, whoever asks waits long.

usage: nameserver.py ADDRESS
"""

from __future__ import annotations

import socket
import sys

NO_SUCH_NAME = 3


def main() -> None:
    """Answer until the machine ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind((sys.argv[1], 53))
        while True:
            asked, who = line.recvfrom(512)
            flags = bytes([0x80 | asked[2] & 0x01, 0x80 | NO_SUCH_NAME])
            line.sendto(asked[:2] + flags + asked[4:], who)


if __name__ == "__main__":
    main()
