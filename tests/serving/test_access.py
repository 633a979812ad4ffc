"""Who gets an answer: hosts, origins, and a proxy with TLS."""

import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import pytest

from homegrown.serving.api import application
from homegrown.util.guard import LOOPBACK
from tests.serving.conftest import OWN, Served
from tests.serving.running import running
from tests.waiting import wait_for


def test_other_hosts_and_origins_get_nothing(served: Served) -> None:
    address = f"{served.url}/v1/models"
    answer = httpx.get(address, headers={"Origin": served.url})
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    port = served.url.rpartition(":")[2]
    host = "The host name evil.example is refused; allow it with --allow-host evil.example."
    origin = "Requests from pages of app://evil are refused; allow them with --allow-origin app://evil."
    for headers, status, message in (
        ({"Host": "evil.example"}, 400, host),
        ({"Host": f"evil.example:{port}"}, 400, host),
        ({"Host": "<b>"}, 400, "The header Host names no host; send the address of the server."),
        ({"Origin": "app://evil"}, 403, origin),
        ({"Origin": "null"}, 403, "Requests from pages without an origin are refused; open the page from a server."),
    ):
        openai_error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
        found = [httpx.get(f"{served.url}{path}", headers=headers) for path in ("/", "/v1/models", "/api/tags")]
        assert [one.status_code for one in found] == [status] * 3
        assert (found[0].text, found[1].json(), found[2].json()) == (message, openai_error, {"error": message})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]", "[::1]:8080", "127.0.0.1:1"])
def test_this_machine_has_several_names(served: Served, host: str) -> None:
    with running(application(served.service, key=None, hosts=LOOPBACK)) as url:
        assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == 200


def test_a_proxy_and_a_page_of_another_origin_can_be_allowed(served: Served) -> None:
    origins = ["https://llm.example.org", "app://obsidian.md", "chrome-extension://abc"]
    app = application(served.service, key="secret", hosts=["127.0.0.1", "llm.example.org"], origins=origins)
    with running(app) as url:
        body, key = {"model": OWN, "prompt": "x", "max_tokens": 1}, {"Authorization": "Bearer secret"}

        def status(**headers: str) -> int:
            return httpx.post(f"{url}/v1/completions", json=body, headers={**key, **headers}).status_code

        assert status(Host="llm.example.org", Origin="https://llm.example.org") == 200
        assert status(Host="llm.example.org:8443", Origin="https://llm.example.org:8443") == 200
        assert [status(Origin=origin) for origin in origins] == [200] * 3
        assert status(Host="evil.example") == 400
        assert status(Origin="https://evil.example") == status(Origin="null") == 403
        answer = httpx.get(f"{url}/v1/models", headers={**key, "Origin": origins[1]})
        assert answer.headers["access-control-allow-origin"] == origins[1]
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = httpx.options(f"{url}/v1/completions", headers={"Origin": origins[1], **asked})
        assert preflight.status_code == 200 and preflight.headers["access-control-allow-origin"] == origins[1]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        assert (
            httpx.options(f"{url}/v1/completions", headers={"Origin": "https://evil.example", **asked}).status_code
            == 403
        )


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="nginx or openssl is not installed")
def test_nginx_with_tls_passes_the_page_and_the_api(served: Served, tmp_path: Path) -> None:
    """The configuration of docs/serving.md, and one that replaces the Host header."""
    certificate = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=llm.example.org"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *certificate], cwd=tmp_path, check=True)
    app = application(
        served.service, key=None, hosts=["127.0.0.1", "llm.example.org"], origins=["https://other.example.org"]
    )
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    with running(app) as url:
        kept = "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; proxy_buffering off;"
        servers = "".join(
            f"server {{ listen 127.0.0.1:{port} ssl; location / {{ proxy_pass {url}; {headers} }} }}"
            for port, headers in zip(ports, (kept, ""), strict=True)
        )
        paths = " ".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ access_log off; {paths}"
            f"client_body_temp_path {tmp_path}/body; ssl_certificate {tmp_path}/cert.pem;"
            f"ssl_certificate_key {tmp_path}/key.pem; {servers} }}"
        )
        proxy = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", "nginx.conf", "-e", str(tmp_path / "log")])
        try:
            for port, host in zip(ports, ("llm.example.org", "other.example.org"), strict=True):
                headers = {"Host": host, "Origin": f"https://{host}"}
                get = partial(httpx.get, verify=False, headers=headers)
                address = f"https://127.0.0.1:{port}"
                wait_for(lambda get=get, address=address: _status(get, f"{address}/") == 200)
                assert get(f"{address}/v1/models").json()["data"][0]["id"] == OWN
                assert get(f"{address}/page/models").json()["models"][0]["name"] == OWN
                evil = httpx.get(
                    f"{address}/v1/models", verify=False, headers={**headers, "Origin": "https://evil.example"}
                )
                assert evil.status_code == 403
        finally:
            proxy.terminate()
            proxy.wait()


def _status(get: Callable[[str], httpx.Response], address: str) -> int | None:
    try:
        return get(address).status_code
    except httpx.TransportError:
        return None
