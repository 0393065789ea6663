"""How fast a connection is: one end receives, the other sends; runs without torch.

python link_speed.py receive             prints the port, then the bytes a second that came in
python link_speed.py send ADDRESS PORT BYTES
"""

import socket
import sys
import time

_CHUNK = bytes(1 << 16)


def receive() -> None:
    """Take one connection, and say how fast its bytes came."""
    with socket.create_server(("", 0)) as server:
        print(server.getsockname()[1], flush=True)  # noqa: T201  for who started this
        connection, _ = server.accept()
    with connection:
        num_bytes = len(connection.recv(1))
        began_s = time.perf_counter()
        while chunk := connection.recv(1 << 20):
            num_bytes += len(chunk)
    print(num_bytes / (time.perf_counter() - began_s), flush=True)  # noqa: T201  see above


def send(address: str, port: int, num_bytes: int) -> None:
    """Connect, and send.

    Args:
        address: Of the other end.
        port: Of the other end.
        num_bytes: How many; rounded up to whole chunks.
    """
    with socket.create_connection((address, port), timeout=10) as connection:
        connection.settimeout(None)
        for _ in range(-(-num_bytes // len(_CHUNK))):
            connection.sendall(_CHUNK)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
