"""The messages and methods of etcd's gRPC interface that the client uses, described in a private descriptor pool.

Field numbers are those of etcd's `api/mvccpb/kv.proto` and `api/etcdserverpb/rpc.proto`. The package name differs from
etcd's and no code is generated, so another etcd client in the process and the version of protobuf do not matter. Enums
are declared as int32, which is serialized to the same bytes. The messages are proto2, which serializes a zero that was
set: a comparison with zero needs that.
"""

from typing import Any, Final, NamedTuple

from discovery.system.protobuf import described

_SCHEMA = """
message KeyValue {
  bytes key = 1; int64 create_revision = 2; int64 mod_revision = 3; int64 version = 4; bytes value = 5;
  int64 lease = 6; }
message Event { int32 type = 1; KeyValue kv = 2; }
message ResponseHeader { uint64 cluster_id = 1; uint64 member_id = 2; int64 revision = 3; uint64 raft_term = 4; }

message RangeRequest {
  bytes key = 1; bytes range_end = 2; int64 limit = 3; int64 revision = 4; bool keys_only = 8; bool count_only = 9; }
message RangeResponse { ResponseHeader header = 1; repeated KeyValue kvs = 2; bool more = 3; int64 count = 4; }
message PutRequest { bytes key = 1; bytes value = 2; int64 lease = 3; }
message PutResponse { ResponseHeader header = 1; }
message DeleteRangeRequest { bytes key = 1; bytes range_end = 2; }
message DeleteRangeResponse { ResponseHeader header = 1; int64 deleted = 2; }
message RequestOp {
  RangeRequest request_range = 1; PutRequest request_put = 2; DeleteRangeRequest request_delete_range = 3; }
message ResponseOp {
  RangeResponse response_range = 1; PutResponse response_put = 2; DeleteRangeResponse response_delete_range = 3; }
message Compare {
  int32 result = 1; int32 target = 2; bytes key = 3; int64 create_revision = 5; int64 mod_revision = 6;
  int64 lease = 8; }
message TxnRequest { repeated Compare compare = 1; repeated RequestOp success = 2; repeated RequestOp failure = 3; }
message TxnResponse { ResponseHeader header = 1; bool succeeded = 2; repeated ResponseOp responses = 3; }

message WatchRequest { WatchCreateRequest create_request = 1; WatchProgressRequest progress_request = 3; }
message WatchCreateRequest {
  bytes key = 1; bytes range_end = 2; int64 start_revision = 3; bool progress_notify = 4; repeated int32 filters = 5;
  bool fragment = 8; }
message WatchProgressRequest { }
message WatchResponse {
  ResponseHeader header = 1; int64 watch_id = 2; bool created = 3; bool canceled = 4; int64 compact_revision = 5;
  string cancel_reason = 6; bool fragment = 7; repeated Event events = 11; }

message LeaseGrantRequest { int64 TTL = 1; int64 ID = 2; }
message LeaseGrantResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; string error = 4; }
message LeaseRevokeRequest { int64 ID = 1; }
message LeaseRevokeResponse { ResponseHeader header = 1; }
message LeaseKeepAliveRequest { int64 ID = 1; }
message LeaseKeepAliveResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; }
message LeaseTimeToLiveRequest { int64 ID = 1; }
message LeaseTimeToLiveResponse { ResponseHeader header = 1; int64 ID = 2; int64 TTL = 3; int64 grantedTTL = 4; }

message StatusRequest {}
message StatusResponse {
  ResponseHeader header = 1; string version = 2; int64 dbSize = 3; uint64 leader = 4; repeated string errors = 8; }
message MemberListRequest {}
message MemberListResponse { ResponseHeader header = 1; repeated Member members = 2; }
message Member { uint64 ID = 1; string name = 2; repeated string clientURLs = 4; bool isLearner = 5; }

message AuthenticateRequest { string name = 1; string password = 2; }
message AuthenticateResponse { ResponseHeader header = 1; string token = 2; }
"""
# Classes that are created at run time have no static type.
Message = Any

# Numbers of etcd's enumerations: events, comparisons, and what is compared.
PUT: Final = 0
DELETE: Final = 1
EQUAL: Final = 0
GREATER: Final = 1
TARGET_CREATE: Final = 1
TARGET_MOD: Final = 2
TARGET_LEASE: Final = 4
NO_PUTS: Final = 0  # a filter of a watch


_classes = described("discovery.etcd", _SCHEMA)
KeyValue = _classes["KeyValue"]
Event = _classes["Event"]
ResponseHeader = _classes["ResponseHeader"]
RangeRequest = _classes["RangeRequest"]
RangeResponse = _classes["RangeResponse"]
PutRequest = _classes["PutRequest"]
DeleteRangeRequest = _classes["DeleteRangeRequest"]
RequestOp = _classes["RequestOp"]
Compare = _classes["Compare"]
TxnRequest = _classes["TxnRequest"]
WatchRequest = _classes["WatchRequest"]
WatchCreateRequest = _classes["WatchCreateRequest"]
WatchProgressRequest = _classes["WatchProgressRequest"]
WatchResponse = _classes["WatchResponse"]
LeaseGrantRequest = _classes["LeaseGrantRequest"]
LeaseRevokeRequest = _classes["LeaseRevokeRequest"]
LeaseKeepAliveRequest = _classes["LeaseKeepAliveRequest"]
LeaseTimeToLiveRequest = _classes["LeaseTimeToLiveRequest"]
StatusRequest = _classes["StatusRequest"]
MemberListRequest = _classes["MemberListRequest"]
AuthenticateRequest = _classes["AuthenticateRequest"]


class Method(NamedTuple):
    """A method of etcd's gRPC interface. A `streaming` method has many requests and many responses."""

    path: str
    request: Any
    response: Any
    streaming: bool = False


def _method(service: str, name: str, message: str = "", *, streaming: bool = False) -> Method:
    message = message or name
    path = f"/etcdserverpb.{service}/{name}"
    return Method(path, _classes[f"{message}Request"], _classes[f"{message}Response"], streaming)


RANGE: Final = _method("KV", "Range")
TXN: Final = _method("KV", "Txn")
WATCH: Final = _method("Watch", "Watch", streaming=True)
LEASE_GRANT: Final = _method("Lease", "LeaseGrant")
LEASE_REVOKE: Final = _method("Lease", "LeaseRevoke")
LEASE_KEEP_ALIVE: Final = _method("Lease", "LeaseKeepAlive", streaming=True)
LEASE_TIME_TO_LIVE: Final = _method("Lease", "LeaseTimeToLive")
STATUS: Final = _method("Maintenance", "Status")
MEMBER_LIST: Final = _method("Cluster", "MemberList")
AUTHENTICATE: Final = _method("Auth", "Authenticate")


def range_end(prefix: bytes) -> bytes:
    """Return the first key after all keys that begin with `prefix`. `prefix` must not end in 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
