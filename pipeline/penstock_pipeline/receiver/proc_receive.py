"""Git's proc-receive hook (githooks(5)): hands the commands of a push to the engine, prints what it says,
and reports its verdict per ref. Run by git as a script of its own: it imports nothing, to start fast.

    proc_receive.py SOCKET
"""

import json
import os
import socket
import sys
from typing import Any, BinaryIO


def read_packet(stream: BinaryIO) -> bytes | None:
    """One pkt-line (gitprotocol-common(5)); None for a flush packet or the end."""
    size = int(stream.read(4) or b"0000", 16)
    return stream.read(size - 4) if size > 4 else None


def read_packets(stream: BinaryIO) -> list[str]:
    return [
        packet.decode("utf-8", "surrogateescape").rstrip("\n")
        for packet in iter(lambda: read_packet(stream), None)
    ]


def write_packet(stream: BinaryIO, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    stream.write(b"%04x" % (len(data) + 4) + data)


def flush(stream: BinaryIO) -> None:
    stream.write(b"0000")
    stream.flush()


def negotiate(reader: BinaryIO, writer: BinaryIO) -> bool:
    """Agrees on version 1 and, where git offers them, push options."""
    offer = read_packets(reader)
    options = bool(offer) and "push-options" in offer[0].partition("\0")[2].split()
    write_packet(writer, "version=1\0push-options\n" if options else "version=1\n")
    flush(writer)
    return options


def ask(path: str, request: dict[str, Any]) -> dict[str, str]:
    """Sends the push, prints what is said about it; answers the verdict per ref, "" for accepted."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps(request).encode() + b"\n")
        for line in connection.makefile("rb"):
            if not line.endswith(b"\n"):
                break
            message = json.loads(line)
            if "verdicts" in message:
                verdicts: dict[str, str] = message["verdicts"]
                return verdicts
            print(message["say"], file=sys.stderr, flush=True)
    raise ConnectionError("Penstock stopped")


def main() -> None:
    reader, writer = sys.stdin.buffer, sys.stdout.buffer
    options = negotiate(reader, writer)
    commands = [line.split(" ", 2) for line in read_packets(reader)]
    request = {
        "app": os.path.basename(os.getcwd()).removesuffix(".git"),
        "pusher": os.environ.get("PENSTOCK_PUSHER") or os.environ.get("USER", "someone"),
        "commands": commands,
        "options": read_packets(reader) if options else [],
    }
    try:
        verdicts = ask(sys.argv[1], request)
    except OSError as error:
        print(
            f" !     Penstock went away ({error}). What was accepted goes on when it is back:",
            file=sys.stderr,
        )
        print(" !     penstock runs, or push again to follow", file=sys.stderr, flush=True)
        verdicts = {}
    for _old, _new, ref in commands:
        problem = verdicts.get(ref, "outcome unknown")
        write_packet(writer, f"ng {ref} {problem}\n" if problem else f"ok {ref}\n")
    flush(writer)


if __name__ == "__main__":
    main()
