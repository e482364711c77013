"""Looks once, at start-up, whether the neighbours answer: Redis and RabbitMQ."""

from __future__ import annotations

import socket
import struct

from .fatal import Fatal


def redis(host: str, port: int, password: str | None, timeout: float = 5) -> None:
    """Say PING to Redis, after AUTH when there is a password. Raises Fatal. No TLS, no user name: Q11."""
    commands = [*([["AUTH", password]] if password else []), ["PING"]]
    try:
        with socket.create_connection((host, port), timeout) as connection, connection.makefile("rb") as answers:
            for words in commands:
                parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
                connection.sendall(f"*{len(words)}\r\n{parts}".encode())
                answer = answers.readline().decode(errors="replace").strip()
                if not answer.startswith("+"):
                    raise Fatal("RedisConnectionException", f"{host}:{port} answered {words[0]} with {answer!r}")
    except OSError as error:
        raise Fatal("RedisConnectionException", f"It was not possible to connect to {host}:{port}: {error}") from error


def rabbitmq(host: str, user: str, password: str, port: int = 5672, timeout: float = 5) -> None:
    """Log in to a RabbitMQ broker (AMQP 0-9-1, plain). Raises Fatal when it does not answer or refuses."""

    def read(connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise Fatal("BrokerUnreachableException", f"{host}:{port} refused the log-in of {user}")
            data += more
        return data

    def method(connection: socket.socket) -> tuple[int, int]:
        _kind, _channel, size = struct.unpack(">BHI", read(connection, 7))
        first, second = struct.unpack(">HH", read(connection, size + 1)[:4])
        return first, second

    response = f"\0{user}\0{password}".encode()
    body = struct.pack(">HHI", 10, 11, 0) + b"\x05PLAIN" + struct.pack(">I", len(response)) + response + b"\x05en_US"
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            method(connection)
            connection.sendall(struct.pack(">BHI", 1, 0, len(body)) + body + b"\xce")
            if method(connection) != (10, 30):  # connection.tune
                raise Fatal("BrokerUnreachableException", f"{host}:{port} refused the log-in of {user}")
    except OSError as error:
        raise Fatal("BrokerUnreachableException", f"None of the specified endpoints were reachable: {error}") from error
