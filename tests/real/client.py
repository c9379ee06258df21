"""A client in Python: `websockets`, driven by lines of JSON like browser.cjs.

  {"open": URL, "headers": {..}, "subprotocols": [..], "compression": "deflate" | null}
  {"send": TEXT} | {"send_bytes": COUNT} | {"receive": true} | {"close": [CODE, REASON]} | {"wait": true}
The authority in the file of the first argument is trusted, and no other.
"""

import asyncio
import json
import ssl
import sys
import time

import websockets
from websockets.asyncio.client import connect


async def main() -> None:
    trust = ssl.create_default_context(cafile=sys.argv[1])
    ws = None
    loop = asyncio.get_running_loop()
    say({"ready": f"websockets {websockets.__version__}"})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        ask = json.loads(line)
        try:
            if "open" in ask:
                ws = await connect(
                    ask["open"],
                    ssl=trust,
                    additional_headers=ask.get("headers"),
                    subprotocols=ask.get("subprotocols"),
                    compression=ask.get("compression", "deflate"),
                    max_size=64 << 20,
                    proxy=None,
                )
                extensions = [extension.name for extension in ws.protocol.extensions]
                say({"value": {"subprotocol": ws.subprotocol, "extensions": extensions}})
            elif "send" in ask:
                await ws.send(ask["send"])
                say({"value": None})
            elif "send_bytes" in ask:
                await ws.send(bytes(index % 251 for index in range(ask["send_bytes"])))
                say({"value": None})
            elif "receive" in ask:
                message = await ws.recv()
                say({"value": message if isinstance(message, str) else len(message)})
            elif "close" in ask:
                await ws.close(*ask["close"])
                say({"value": [ws.close_code, ws.close_reason]})
            elif "wait" in ask:
                await ws.wait_closed()
                say({"value": {"code": ws.close_code, "reason": ws.close_reason, "at": time.time()}})
            else:
                say({"error": f"unknown request {line}"})
        except websockets.exceptions.InvalidStatus as refusal:
            body = bytes(refusal.response.body or b"").decode()
            say({"refused": refusal.response.status_code, "body": body})
        except Exception as error:  # noqa: BLE001  the test judges it
            say({"error": repr(error)})


def say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


asyncio.run(main())
