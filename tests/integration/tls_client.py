# SPDX-License-Identifier: Apache-2.0
"""OpenSSL as a TLS client that can be told to ask for new keys, or to renegotiate."""
import array
import fcntl
import socket
import subprocess
import termios
import threading
import time


class Tls:
    """A socket's face of openssl s_client, which takes a letter at the beginning of its input for a command."""

    def __init__(self, plain, ca, *options):
        listener = socket.create_server(("127.0.0.1", 0))
        self.client = subprocess.Popen(
            ["openssl", "s_client", "-connect", "127.0.0.1:%d" % listener.getsockname()[1], "-quiet", "-no_ign_eof",
             "-CAfile", ca, "-verify_return_error", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        near = listener.accept()[0]
        for ends in (near, plain), (plain, near):
            threading.Thread(target=self.pump, args=ends, daemon=True).start()
        self.sendall, self.recv = self.client.stdin.write, self.client.stdout.read

    def command(self, letter):
        """Taken by itself: what is read with it would be lost."""
        self.sendall(letter)
        left = array.array("i", [1])
        while left[0]:
            time.sleep(0.001)
            fcntl.ioctl(self.client.stdin, termios.FIONREAD, left)

    @staticmethod
    def pump(source, to):
        try:
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            pass
