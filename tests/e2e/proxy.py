#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
A path that can be cut: proxy.py PORT TO_PORT, both on 127.0.0.1.

Killed, its connections are reset; stopped (SIGSTOP), they are silent, and what is in them comes when it
goes on.
"""
import asyncio
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def connected(reader, writer):
    try:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    except ConnectionError:
        writer.close()
        return
    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", int(sys.argv[1]))
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(main())
