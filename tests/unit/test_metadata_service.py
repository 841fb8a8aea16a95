"""The metadata service of a cloud at 169.254.169.254, in a network namespace of its own."""

import json
from collections.abc import Mapping
from typing import Any

from namespaces import in_a_network_of_its_own

SETUP = "ip link set lo up\nip addr add 169.254.169.254/32 dev lo"
SERVER = """
import http.server, json, os, socket, sys, threading, time
from discovery.addresses import OwnAddresses
from discovery.addresses.metadata import MetadataError, cloud_addresses

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        asked.append(f"{self.command} {self.path}")
        for method, path, needed, status, headers, body in ANSWERS:
            has = all(self.headers.get(name) == value for name, value in needed.items())
            if (method, path) == (self.command, self.path) and has:
                break
        else:
            status, headers, body = 404, {}, "not found"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = answer

    def log_message(self, *_):
        pass

def serve():
    server = http.server.ThreadingHTTPServer(("169.254.169.254", 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

asked = []
"""
GCE = "/computeMetadata/v1/instance/network-interfaces/0"
FLAVOR = {"Metadata-Flavor": "Google"}
TOKEN = {"X-aws-ec2-metadata-token": "secret=="}
HETZNER = "/hetzner/v1/metadata"
NETWORKS = """- ip: 10.0.0.2
  alias_ips: [10.0.0.3, 10.0.0.4]
  interface_num: 1
  network: 10.0.0.0/8
- ip: 192.168.0.2
"""


def get(path: str, body: str, needed: Mapping[str, str] | None = None, **headers: str) -> list[Any]:
    return ["GET", path, needed or {}, 200, {name.replace("_", "-"): value for name, value in headers.items()}, body]


CLOUDS = {
    "GCE": [
        get(f"{GCE}/ip", "10.128.0.2", FLAVOR, **FLAVOR),
        get(f"{GCE}/access-configs/0/external-ip", "198.51.100.2", FLAVOR, **FLAVOR),
    ],
    "DigitalOcean": [
        get("/metadata/v1/id", "123"),
        get("/metadata/v1/interfaces/private/0/ipv4/address", "10.132.0.2"),
        get("/metadata/v1/interfaces/public/0/ipv4/address", "198.51.100.3"),
    ],
    "Hetzner": [
        get(f"{HETZNER}/instance-id", "42"),
        get(f"{HETZNER}/private-networks", NETWORKS),
        get(f"{HETZNER}/public-ipv4", "198.51.100.4"),
    ],
    "OpenStack": [
        get("/openstack/latest/meta_data.json", "{}"),
        get("/latest/meta-data/local-ipv4", "10.0.3.2"),
        get("/latest/meta-data/public-ipv4", ""),
    ],
    "AWS": [
        ["PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, 200, {}, "secret=="],
        get("/latest/meta-data/local-ipv4", "172.31.0.2", TOKEN),
        get("/latest/meta-data/public-ipv4", "198.51.100.6", TOKEN),
    ],
}


def told(program: str, answers: list[list[Any]]) -> Any:
    """What a program prints as JSON in a namespace where the metadata service gives these answers."""
    return json.loads(in_a_network_of_its_own(SETUP, f"{SERVER}\nANSWERS = {answers!r}\n{program}"))


def test_every_cloud_is_recognised_and_tells_both_addresses() -> None:
    """Issue 12, A.6. The proxies of the environment are not asked: they would tell their own machine's addresses."""
    program = f"""
CLOUDS = {CLOUDS!r}
os.environ.update(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
serve()
found = []
for ANSWERS in CLOUDS.values():
    each = cloud_addresses()
    found.append([each.cloud, each.private, each.public])
print(json.dumps(found))
"""
    assert told(program, []) == [
        ["GCE", "10.128.0.2", "198.51.100.2"],
        ["DigitalOcean", "10.132.0.2", "198.51.100.3"],
        ["Hetzner", "10.0.0.2", "198.51.100.4"],
        ["OpenStack", "10.0.3.2", None],
        ["AWS", "172.31.0.2", "198.51.100.6"],
    ]


def test_an_answer_is_believed_only_if_it_is_an_address_and_from_the_service_itself() -> None:
    program = """
serve()
found = []
for ANSWERS in (
    [["GET", f"{GCE}/ip", {}, 200, {}, "10.0.0.1"]],  # not from GCE: the header is missing
    [["GET", "/metadata/v1/id", {}, 302, {"Location": "http://127.0.0.1/metadata/v1/id"}, ""]],
    [["PUT", "/latest/api/token", {}, 200, {}, "a\\r\\nb: c"]],
):
    try:
        found.append(cloud_addresses().private)
    except MetadataError as error:
        found.append(str(error))
ANSWERS = [["GET", "/metadata/v1/id", {}, 200, {}, "1"]] + [
    ["GET", f"/metadata/v1/interfaces/{kind}/0/ipv4/address", {}, 200, {}, body]
    for kind, body in (("private", "169.254.0.1"), ("public", "10.0.0.1; rm -rf /"))
]
each = cloud_addresses()
found.append([each.private, each.public])
print(json.dumps(found))
"""
    unknown = "the metadata service at 169.254.169.254 belongs to no known cloud"
    assert told(f"GCE = {GCE!r}\n{program}", []) == [unknown, unknown, unknown, [None, None]]


def test_a_service_that_is_away_or_slow_has_a_time_limit_and_its_last_answer_stands() -> None:
    program = """
import discovery.addresses.machine as machine
def read():
    try:
        return [str(each) for each in own.read()]
    except ValueError as error:
        return str(error)
machine._METADATA_EVERY = machine._FAILURE_EVERY = 0
own = OwnAddresses(["metadata"], {})
found = [read()]
server = serve()
found.append(read())
server.shutdown(); server.server_close()
found.append(read())
listener = socket.create_server(("169.254.169.254", 80), reuse_port=True)
def drip():
    while True:
        client, _ = listener.accept()
        try:
            for byte in b"HTTP/1.1 200 OK\\r\\n" + b"X: y\\r\\n" * 1000:
                client.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
threading.Thread(target=drip, daemon=True).start()
began = time.monotonic()
try:
    cloud_addresses(0.3)
except MetadataError as error:
    found.append(str(error))
found.append(time.monotonic() - began < 5)
print(json.dumps(found))
"""
    answer = ["10.132.0.2 (the configuration: metadata)"]
    assert told(program, CLOUDS["DigitalOcean"]) == [
        "metadata: the metadata service at 169.254.169.254 does not answer: Connection refused",
        answer,
        answer,
        "the metadata service at 169.254.169.254 has not answered within 0.3 s",
        True,
    ]


def test_no_service_is_asked_unless_a_person_says_so() -> None:
    program = """
serve()
OwnAddresses([], {}).read()
OwnAddresses(["10.0.0.1"], {}).read()
none = list(asked)
OwnAddresses([], {"DISCOVERY_ADDRESS": "metadata:public"}).read()
print(json.dumps([none, len(asked) > 0]))
"""
    assert told(program, CLOUDS["DigitalOcean"]) == [[], True]


def test_a_machine_of_aws_is_asked_by_version_2_of_its_service_alone() -> None:
    """A request without a token is version 1, which any program that fetches URLs for others can be made to send."""
    program = "serve()\ncloud_addresses()\nprint(json.dumps(asked))"
    asked = told(program, CLOUDS["AWS"])
    assert asked[-3:] == [
        "PUT /latest/api/token",
        "GET /latest/meta-data/local-ipv4",
        "GET /latest/meta-data/public-ipv4",
    ]
    assert not any("/latest/meta-data" in each for each in asked[:-3])
