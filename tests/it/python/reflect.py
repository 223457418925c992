"""Drives the gRPC surface through server reflection: no generated code, only names and JSON.

Usage: reflect.py HOST:PORT PARTITIONS, or reflect.py HOST:PORT no-reflection.
Exits with 0 if all checks hold; else the failed one is the last thing printed.
"""

import base64
import queue
import sys
import time
import traceback

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PATIENCE_S = 60
MIB = 1 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", 16 * MIB),
    ("grpc.max_send_message_length", 16 * MIB),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


class Api:
    """Methods by name, as reflection tells them."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, OPTIONS)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def method(self, service, name):
        described = self.pool.FindServiceByName(service).FindMethodByName(name)
        answer = GetMessageClass(described.output_type)
        streams = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }
        shape = streams[described.client_streaming, described.server_streaming]
        call = shape(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return call, GetMessageClass(described.input_type)

    def call(self, service, name, request):
        """One answer to a request, both as JSON objects."""
        call, kind = self.method(service, name)
        answer = call(json_format.ParseDict(request, kind()), timeout=PATIENCE_S)
        return as_json(answer)

    def events(self, name, request):
        return self.call("cronos_db.EventService", name, request)

    def partitions(self, name, request):
        return self.call("cronos_db.PartitionService", name, request)


class Requests:
    """Requests of a stream that stays open until it is closed."""

    def __init__(self):
        self.queue = queue.Queue()

    def __iter__(self):
        return iter(self.queue.get, None)

    def send(self, message):
        self.queue.put(message)

    def close(self):
        self.queue.put(None)


class Stream:
    """A bidirectional stream; each connection of its own if asked."""

    def __init__(self, api, name):
        self.requests = Requests()
        call, self.kind = api.method("cronos_db.EventService", name)
        self.answers = call(iter(self.requests), timeout=PATIENCE_S)

    def send(self, request):
        self.requests.send(json_format.ParseDict(request, self.kind()))

    def next(self):
        return as_json(next(self.answers))

    def close(self):
        self.requests.close()
        self.answers.cancel()


def as_json(message):
    """With every field, so that a check of a default is a check."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def now_ms():
    return int(time.time() * 1000)


def text(value):
    return base64.b64encode(value.encode()).decode()


def event(message_id, topic, due=None, payload="Hello", meta=None):
    out = {
        "messageId": message_id,
        "scheduleTs": now_ms() if due is None else due,
        "payload": text(payload),
        "topic": topic,
    }
    if meta:
        out["meta"] = meta
    return {"event": out}


def expect(condition, *shown):
    if not condition:
        raise AssertionError(repr(shown))


def status_of(call, *arguments):
    try:
        call(*arguments)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("it succeeded")


def subscribe(api, topic, group, **more):
    stream = Stream(api, "Subscribe")
    request = {"consumerGroup": group, "topic": topic, "partitionId": 0, **more}
    stream.send(request)
    return stream


# ------------------------------------------------------------------------------------ checks


def services_are_listed(api, _address, _partitions):
    listed = set(api.database.get_services())
    for name in [
        "cronos_db.EventService",
        "cronos_db.PartitionService",
        "cronos_db.ConsumerGroupService",
        "cronos_db.TransactionService",
        "grpc.health.v1.Health",
    ]:
        expect(name in listed, name, listed)
    # The newer reflection, with the same messages under its own name.
    call = api.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = reflection_pb2.ServerReflectionRequest(list_services="*")
    answer = next(call(iter([asked]), timeout=PATIENCE_S))
    names = {service.name for service in answer.list_services_response.service}
    expect(listed == names, names)


def quick_start(api, _address, _partitions):
    """As the README has it for grpcurl."""
    due = now_ms()
    request = {
        "event": {
            "messageId": "test-1",
            "scheduleTs": due,
            "payload": "SGVsbG8=",
            "topic": "test-topic",
        }
    }
    first = api.events("Publish", request)
    expect(first["success"] and first["error"] == "", first)
    expect(int(first["scheduleTs"]) == due, first)
    request["event"]["scheduleTs"] = due + 60_000
    again = api.events("Publish", request)
    expect(not again["success"] and again["error"] == "duplicate message_id", again)
    for same in ["offset", "partitionId", "scheduleTs"]:
        expect(again[same] == first[same], same, first, again)
    # Published before the group exists.
    stream = subscribe(api, "test-topic", "group-1")
    delivery = stream.next()
    got = delivery["event"]
    expect(got["messageId"] == "test-1" and got["payload"] == "SGVsbG8=", delivery)
    expect(got["partitionId"] == first["partitionId"], delivery)
    expect(got["offset"] == first["offset"] and got["checksum"] > 0, delivery)
    expect(delivery["attempt"] == 1 and int(delivery["ackTimeoutMs"]) == 30_000, delivery)
    parts = delivery["deliveryId"].split(":")
    expect(len(parts) >= 3 and parts[0] == "group-1", delivery)
    expect(int(parts[1]) == got["partitionId"], delivery)
    stream.close()


def subscribed_before_the_publish(api, address, _partitions):
    """On every partition, with the ack stream on another connection, opened first."""
    other = Api(address)
    acks = Stream(other, "Ack")
    stream = subscribe(api, "before", "g:1", maxBufferSize=5, subscriptionId="member")
    ids = [f"before-{n}" for n in range(40)]
    for message_id in ids:
        meta = {"partition_key": message_id, "trace": "a b\u00e9"}
        answer = api.events("Publish", event(message_id, "before", meta=meta))
        expect(answer["success"], answer)
    seen, partitions = set(), set()
    for _ in ids:
        delivery = stream.next()
        got = delivery["event"]
        expect(got["meta"]["trace"] == "a b\u00e9", got)
        seen.add(got["messageId"])
        partitions.add(got["partitionId"])
        expect(delivery["deliveryId"].startswith("g%3A1:"), delivery)
        request = {"deliveryId": delivery["deliveryId"], "success": True}
        acks.send({**request, "nextOffset": int(got["offset"]) + 1})
        answer = acks.next()
        expect(answer["success"] and answer["error"] == "", answer)
    expect(seen == set(ids) and len(partitions) == 4, seen, partitions)
    # Unknown ids are answered, and the stream stays open.
    for unknown in ["", "nonsense", "g:0:1", "g%3A1:0:9-9-9-9-9"]:
        acks.send({"deliveryId": unknown, "success": True})
        answer = acks.next()
        expect(not answer["success"] and answer["error"], answer)
    acks.send({"deliveryId": delivery["deliveryId"], "success": True})
    expect(acks.next()["success"], "the settled again is a success")
    # Closing the send side ends nothing that was sent before.
    acks.requests.close()
    expect(list(acks.answers) == [], "a clean end")
    stream.close()


def a_nack_makes_the_next_attempt(api, _address, _partitions):
    expect(api.events("Publish", event("nack-1", "nacks"))["success"])
    stream, acks = subscribe(api, "nacks", "g"), Stream(api, "Ack")
    for attempt in [1, 2, 3]:
        delivery = stream.next()
        expect(delivery["attempt"] == attempt, attempt, delivery)
        got = delivery["event"]
        verdict = {"deliveryId": delivery["deliveryId"], "success": attempt == 3}
        verdict |= {"error": "not yet", "nextOffset": int(got["offset"]) + 1}
        acks.send(verdict)
        expect(acks.next()["success"], verdict)
    stream.close()
    acks.close()


def a_closed_send_side_goes_on(api, _address, _partitions):
    stream = subscribe(api, "half", "g")
    stream.requests.close()
    expect(api.events("Publish", event("half-1", "half"))["success"])
    expect(stream.next()["event"]["messageId"] == "half-1")
    stream.close()


def batches(api, _address, partitions):
    key = {"partition_key": "one"}
    events = [event(f"batch-{n}", "batch", meta=key)["event"] for n in range(100)]
    first = api.events("PublishBatch", {"events": events})
    expect(first["success"] and first["publishedCount"] == 100, first["error"])
    low, high = int(first["firstOffset"]), int(first["lastOffset"])
    expect(high - low == 99, "one partition, contiguous", low, high)
    offsets = [int(result["offset"]) for result in first["results"]]
    expect(offsets == list(range(low, high + 1)), "in request order", offsets)

    mixed = events[:10] + [event(f"batch-new-{n}", "batch")["event"] for n in range(5)]
    mixed.append(event("", "batch")["event"])
    second = api.events("PublishBatch", {"events": mixed})
    counts = [second[name] for name in ["publishedCount", "duplicateCount", "errorCount"]]
    expect(counts == [5, 10, 1], second)
    expect(not second["success"] and second["error"] == "message_id is required", second)
    expect([int(r["offset"]) for r in second["results"][:10]] == offsets[:10], second)

    again = api.events("PublishBatch", {"events": events[:10]})
    expect(again["success"] and again["duplicateCount"] == 10, "duplicates are no errors", again)
    twice = [event("batch-twice", "batch")["event"]] * 2
    twice = api.events("PublishBatch", {"events": twice})
    expect((twice["publishedCount"], twice["duplicateCount"]) == (1, 1), twice)
    allowed = api.events("PublishBatch", {"events": events[:2], "allowDuplicate": True})
    expect(allowed["publishedCount"] == 2, allowed)
    empty = api.events("PublishBatch", {})
    expect(empty["success"] and int(empty["firstOffset"]) == -1, empty)
    expect(int(empty["lastOffset"]) == -1, empty)
    four_thousand = [event(f"load-{n}", "load")["event"] for n in range(4_000)]
    expect(api.events("PublishBatch", {"events": four_thousand})["publishedCount"] == 4_000)


def replays(api, _address, partitions):
    base = now_ms() - 1_000_000
    events = [event(f"old-{n}", "replayed", due=base + n)["event"] for n in range(60)]
    events += [event(f"far-{n}", "replayed", due=now_ms() + 600_000)["event"] for n in range(5)]
    expect(api.events("PublishBatch", {"events": events})["publishedCount"] == 65)

    def replay(**request):
        call, kind = api.method("cronos_db.EventService", "Replay")
        request = json_format.ParseDict({"topic": "replayed", **request}, kind())
        return [as_json(answer) for answer in call(request, timeout=PATIENCE_S)]

    by_offset = replay(partitionId=0, startOffset=0, count=1000)
    ids = {answer["event"]["messageId"] for answer in by_offset}
    expect(ids == {f"old-{n}" for n in range(60)}, "what is due, and not what is not", ids)
    expect([int(a["replayOffset"]) for a in by_offset] == list(range(60)), "numbered from 0")
    expect(len(replay(count=7)) == 7)
    # count is ignored by time, and both ends are inclusive.
    by_time = replay(startTs=base + 10, endTs=base + 19, count=1)
    times = sorted(int(answer["event"]["scheduleTs"]) for answer in by_time)
    expect(times == list(range(base + 10, base + 20)), times)
    expect(len(replay(startTs=base)) == 60, "end 0 is now")
    expect(replay(topic="nothing at all", count=5) == [], "a clean end")
    one = [a for a in by_offset if a["event"]["partitionId"] == 2]
    expect(len(replay(partitionId=2, count=1000)) == len(one), "one partition")


def partitions_are_told(api, _address, partitions):
    listed = api.partitions("ListPartitions", {})["partitions"]
    expect([p["partitionId"] for p in listed] == list(range(partitions)), listed)
    expect(len(api.partitions("ListPartitions", {"topic": "no"})["partitions"]) == partitions)
    for described in listed:
        number = described["partitionId"]
        expect(described["topic"] == f"partition-{number}", described)
        expect(described["leaderId"] == "it-node", described)
        expect(described["replicaIds"] == ["it-node"], described)
        mark, last = int(described["highWatermark"]), int(described["lastOffset"])
        expect(mark == last + 1 and mark > 0, described)
        expect(described["segmentCount"] >= 1 and int(described["diskUsageBytes"]) > 0, described)
        one = api.partitions("GetPartition", {"partitionId": number})
        expect(one["partitionId"] == number and one["lastOffset"] == str(last), one)
    code, details = status_of(api.partitions, "GetPartition", {"partitionId": partitions})
    expect(code == grpc.StatusCode.NOT_FOUND and str(partitions) in details, code, details)
    code, details = status_of(api.partitions, "GetPartition", {"partitionId": -1})
    expect(code == grpc.StatusCode.INVALID_ARGUMENT and "partition_id" in details, code, details)


def refusals(api, _address, _partitions):
    for message_id, change, said in [
        ("", {}, "message_id is required"),
        ("i" * 129, {}, "message_id exceeds 128 characters"),
        ("r-1", {"topic": "t" * 256}, "topic exceeds 255 characters"),
        ("r-2", {"payload": ""}, "payload is required"),
        ("r-3", {"payload": text("x" * (4 * MIB + 1))}, "payload exceeds 4MB limit"),
        ("r-4", {"scheduleTs": 0}, "schedule_ts is required"),
    ]:
        request = event(message_id, "refused")
        request["event"] |= change
        answer = api.events("Publish", request)
        expect(not answer["success"] and answer["error"] == said, said, answer)
    stream = subscribe(api, "t", "")
    code, details = status_of(stream.next)
    expect(code == grpc.StatusCode.INVALID_ARGUMENT, code)
    expect("consumer_group" in details, details)
    stream = subscribe(api, "t", "g", partitions=[99])
    expect(status_of(stream.next)[0] == grpc.StatusCode.NOT_FOUND)


def transactions_are_refused(api, _address, _partitions):
    for name in ["Begin", "Prepare", "Commit", "Abort"]:
        method = f"{name}Transaction"
        code, details = status_of(api.call, "cronos_db.TransactionService", method, {})
        expect(code == grpc.StatusCode.UNIMPLEMENTED and len(details) > 10, code, details)


def health(api, _address, _partitions):
    for service in ["", "cronos_db.EventService"]:
        answer = api.call("grpc.health.v1.Health", "Check", {"service": service})
        expect(answer["status"] == "SERVING", service, answer)
    arguments = ("grpc.health.v1.Health", "Check", {"service": "nothing"})
    expect(status_of(api.call, *arguments)[0] == grpc.StatusCode.NOT_FOUND)


def large_messages(api, _address, _partitions):
    payload = "x" * (4 * MIB)
    events = [event(f"large-{n}", "large", payload=payload)["event"] for n in range(3)]
    answer = api.events("PublishBatch", {"events": events})
    expect(answer["publishedCount"] == 3, answer["error"])
    stream = subscribe(api, "large", "g")
    for _ in events:
        expect(len(stream.next()["event"]["payload"]) > 4 * MIB)
    stream.close()


def pings_keep_an_idle_stream(_api, address, _partitions):
    """Pings without a call, and on a stream that says nothing meanwhile, every 5 s."""
    idle = Api(address)
    stream = subscribe(idle, "idle", "g")
    acks = Stream(idle, "Ack")
    request = event("idle-1", "idle")
    # Two pings fit in before it is due.
    request["event"]["scheduleTs"] = now_ms() + 11_000
    expect(idle.events("Publish", request)["success"])
    delivery = stream.next()
    expect(delivery["event"]["messageId"] == "idle-1", delivery)
    acks.send({"deliveryId": delivery["deliveryId"], "success": True})
    expect(acks.next()["success"])
    stream.close()
    acks.close()


def without_reflection(address):
    channel = grpc.insecure_channel(address)
    code, _ = status_of(lambda: ProtoReflectionDescriptorDatabase(channel).get_services())
    expect(code == grpc.StatusCode.UNIMPLEMENTED, code)


CHECKS = [
    services_are_listed,
    quick_start,
    subscribed_before_the_publish,
    a_nack_makes_the_next_attempt,
    a_closed_send_side_goes_on,
    batches,
    replays,
    partitions_are_told,
    refusals,
    transactions_are_refused,
    health,
    large_messages,
    pings_keep_an_idle_stream,
]


def main():
    address, what = sys.argv[1:]
    if what == "no-reflection":
        return without_reflection(address)
    api = Api(address)
    failed = []
    for check in CHECKS:
        try:
            check(api, address, int(what))
            print(f"ok      {check.__name__}", flush=True)
        except Exception:
            failed.append(check.__name__)
            print(f"FAILED  {check.__name__}\n{traceback.format_exc()}", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
