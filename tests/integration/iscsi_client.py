# SPDX-License-Identifier: Apache-2.0
"""
An iSCSI initiator of a few lines, for commands that no client at hand has.

    from iscsi_client import Session
    s = Session("iscsi://127.0.0.1:3260/IQN/LUN", "iqn.host")
    status, sense, data = s.command(cdb, data_out=b"", in_bytes=0)
    data = s.good(cdb, …)

One command at a time; data out are immediate (up to 64 KiB).  Unit attentions of a login are taken
first.  sense is (key, asc << 8 | ascq), or None.
"""
import socket
import sys


class Session:
    def __init__(self, uri, initiator="iqn.2004-10.org.example:host", isid=1):
        address, target, lun = uri[len("iscsi://"):].split("/")
        host, port = address.rsplit(":", 1)
        self.lun = int(lun)
        self.cmd_sn = 1
        self.tag = 0
        self.attentions = []
        self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(60)
        text = b"".join(
            f"{key}={value}".encode() + b"\0"
            for key, value in dict(
                InitiatorName=initiator, SessionType="Normal", TargetName=target, InitialR2T="No",
                ImmediateData="Yes", MaxRecvDataSegmentLength=262144, FirstBurstLength=65536).items())
        head = bytes([0x43, 0x87, 0, 0, 0]) + len(text).to_bytes(3, "big") + bytes([0x80, 0, 0, 0, 0, isid])
        self.socket.sendall(head.ljust(24, b"\0") + self.cmd_sn.to_bytes(4, "big") + bytes(20) + pad(text))
        head, _ = self.receive()
        if int.from_bytes(head[36:38], "big"):
            raise RuntimeError(f"the login failed: {head[36:38].hex()}")
        while True:
            status, sense, _ = self.command(bytes(6))
            if status != 2:
                break
            self.attentions.append(sense[1])

    def receive(self):
        head = self.exactly(48)
        length = int.from_bytes(head[5:8], "big")
        return head, self.exactly((length + 3) // 4 * 4)[:length]

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the target closed the connection")
            data += more
        return data

    def send(self, cdb, data_out=b"", in_bytes=0):
        """Sends a command and does not wait; returns nothing."""
        flags = 0x80 | (0x40 if in_bytes else 0) | (0x20 if data_out else 0)
        head = bytes([0x01, flags, 0, 0, 0]) + len(data_out).to_bytes(3, "big") + bytes([0, self.lun]) + bytes(6)
        self.tag += 1
        head += self.tag.to_bytes(4, "big") + max(in_bytes, len(data_out)).to_bytes(4, "big")
        head += self.cmd_sn.to_bytes(4, "big") + bytes(4) + bytes(cdb).ljust(16, b"\0")
        self.cmd_sn += 1
        self.socket.sendall(head + pad(data_out))

    def answer(self):
        data = b""
        while True:
            head, body = self.receive()
            opcode = head[0] & 0x3f
            if opcode == 0x25:
                data += body
                if head[1] & 1:
                    return head[3], None, data
            elif opcode == 0x21:
                return head[3], (body[4] & 15, body[14] << 8 | body[15]) if head[3] == 2 else None, data
            elif opcode == 0x32:
                self.attentions.append(body[14] << 8 | body[15])
            elif opcode == 0x20:
                raise RuntimeError("a ping came, and nobody answers")
            else:
                raise RuntimeError(f"opcode {opcode:#x}")

    def command(self, cdb, data_out=b"", in_bytes=0):
        self.send(cdb, data_out, in_bytes)
        return self.answer()

    def good(self, cdb, data_out=b"", in_bytes=0):
        status, sense, data = self.command(cdb, data_out, in_bytes)
        if status:
            raise RuntimeError(f"{bytes(cdb).hex()}: status {status:#x}, sense {sense}")
        return data

    def close(self):
        self.socket.close()

    # --- persistent reservations ---

    def reserve_out(self, action, type=0, key=0, new_key=0, flags=0):
        """The status."""
        data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes([0, 0, 0, 0, flags, 0, 0, 0])
        return self.command([0x5f, action, type, 0, 0, 0, 0, 0, 24], data)[0]

    def keys(self):
        data = self.good([0x5e, 0, 0, 0, 0, 0, 0, 0x10, 0], in_bytes=4096)
        return [int.from_bytes(data[at:at + 8], "big") for at in range(8, len(data), 8)]

    def reservation(self):
        """(key, type), or None."""
        data = self.good([0x5e, 1, 0, 0, 0, 0, 0, 0, 64], in_bytes=64)
        return (int.from_bytes(data[8:16], "big"), data[21]) if len(data) > 8 else None

    def write(self, lba, data, block_bytes=512):
        """The status."""
        return self.command([0x2a, 0, *lba.to_bytes(4, "big"), 0, 0, len(data) // block_bytes], data)[0]


def pad(data):
    return data.ljust((len(data) + 3) // 4 * 4, b"\0")


if __name__ == "__main__":
    sys.exit("to be imported")
