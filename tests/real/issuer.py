"""An issuer: PyPI's `oidc-provider-mock`, without TLS, driven by lines of JSON. Its argument is a port, or 0 for any. It has a fresh key
each time it runs, and its tokens name none.

  {"token": SUBJECT}  an ID token of the code flow, for the client `gate`, that lives for a minute; RS256
"""

import json
import logging
import sys
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
from oidc_provider_mock import run_server_in_thread

logging.getLogger("werkzeug").setLevel(logging.ERROR)

HOME = "https://gate.test/home"


def token(issuer: str, subject: str) -> str:
    with httpx.Client(base_url=issuer, trust_env=False) as client:
        query = {"client_id": "gate", "redirect_uri": HOME, "response_type": "code", "scope": "openid", "state": "s"}
        there = client.post("/oauth2/authorize", params=query, data={"sub": subject}).headers["location"]
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(there).query)["code"][0],
            "redirect_uri": HOME,
        }
        return client.post("/oauth2/token", data=form, auth=("gate", "any")).raise_for_status().json()["id_token"]


with run_server_in_thread(int(sys.argv[1]), access_token_max_age=timedelta(minutes=1)) as server:
    issuer = f"http://localhost:{server.server_port}"
    print(json.dumps({"ready": issuer}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"value": token(issuer, json.loads(line)["token"])}), flush=True)
