# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens as clients of the legacy backend send them."""
import time

import jwt

SECRET = "a-secret-of-the-tests-0123456789abcdef"
USER = "5e0c6a1d-2b7f-4c39-9a64-8d1f3b20c7e5"
STRANGER = "0b9df8f4-3f6e-4b55-8a07-2f7f1d3c9e10"


def token(sub=USER, secret=SECRET, algorithm="HS256", lifetime_s=600, headers=None, **claims):
    """lifetime_s None: without exp; sub or another claim None: without it."""
    now = int(time.time())
    body = {"iat": now, "email": "tester@example.com", **claims}
    body = {name: value for name, value in body.items() if value is not None}
    if sub is not None:
        body["sub"] = sub
    if lifetime_s is not None:
        body["exp"] = now + lifetime_s
    text = jwt.encode(body, secret, algorithm=algorithm, headers=headers)
    return text.decode() if isinstance(text, bytes) else text


def bearer(*args, **kwargs):
    return {"Authorization": "Bearer " + token(*args, **kwargs)}
