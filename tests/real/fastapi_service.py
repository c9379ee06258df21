"""An existing service, unaware of the gateway: FastAPI under uvicorn.

  /ws        returns each message
  /ws/who    sends {"user": X-User, "client": address, "url": URL} as the framework has them, then returns each message
  /headers   sends the request's path and headers as one JSON message, then returns each message
  /verify    takes tokens as messages, verifies them with PyJWT and the shared secret (file in TOKEN_SECRET_FILE), answers
             {"message": sub} or {"refused": reason}

Prints "listening ADDRESS" once it listens on a port that the system gave.
"""

import asyncio
import os
import socket
from typing import Annotated

import jwt
import uvicorn
from fastapi import FastAPI, Header, WebSocket, WebSocketDisconnect

app = FastAPI()


@app.websocket("/ws/who")
async def who(ws: WebSocket, x_user: Annotated[str, Header()]) -> None:
    await ws.accept()
    await ws.send_json({"user": x_user, "client": ws.client.host, "url": str(ws.url)})
    await returns(ws)


@app.websocket("/ws/{rest:path}")
async def echo(ws: WebSocket) -> None:
    await ws.accept()
    await returns(ws)


@app.websocket("/headers")
async def headers(ws: WebSocket) -> None:
    await ws.accept()
    # latin-1: what HTTP/1 headers are made of
    pairs = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in ws.scope["headers"]]
    await ws.send_json({"path": ws.url.path, "query": ws.scope["query_string"].decode(), "headers": pairs})
    await returns(ws)


@app.websocket("/verify")
async def verify(ws: WebSocket) -> None:
    secret = open(os.environ["TOKEN_SECRET_FILE"], "rb").read()
    await ws.accept()
    try:
        while True:
            token = await ws.receive_text()
            try:
                claims = jwt.decode(token, secret, algorithms=["HS256"], options={"require": ["exp", "sub"]})
                await ws.send_json({"message": claims["sub"]})
            except jwt.PyJWTError as error:
                await ws.send_json({"refused": type(error).__name__})
    except WebSocketDisconnect as end:
        print(f"closed {end.code}", flush=True)


async def returns(ws: WebSocket) -> None:
    try:
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                print(f"closed {message['code']}", flush=True)
                return
            if message.get("text") is not None:
                await ws.send_text(message["text"])
            else:
                await ws.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        pass


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print("listening %s:%d" % listener.getsockname(), flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_max_size=64 << 20)).serve(sockets=[listener])


asyncio.run(main())
