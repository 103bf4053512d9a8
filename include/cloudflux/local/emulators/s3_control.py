"""What S3 does by itself, in front of the S3 emulator: Batch Operations jobs and lifecycle rules.

``S3Control`` answers these requests, and hands on all others:

- ``/v20180820/jobs``: CreateJob, DescribeJob, ListJobs and UpdateJobStatus, as boto3's ``s3control`` client speaks
  them. A job of ``S3PutObjectCopy`` runs in a thread of its own; every copy goes through the S3 emulator like any
  client's, conditions and all, and the completion report is written to its bucket in the documented form. A repeated
  ``ClientRequestToken`` gives the job that it made; with another request it is refused. As at AWS, a job fails when of
  more than 1,000 objects more than half failed.
- ``?lifecycle`` of a bucket: moto checks a configuration, but keeps only a part of it; here it is kept and given back
  word for word, with its default for small objects. A rule that moves objects to an infrequent access class before
  30 days is refused, and so are rules with ``Filter`` beside others of the old form, with ``Prefix``.
- ``POST /_cloudflux/lifecycle?bucket=NAME&at=TIME``: apply the transitions that are due at a time (now, unless told)
  to the current versions in a bucket (in all, unless told), in place: ETag, time and version stay. Answers how many
  objects changed their class.
- ``POST /_cloudflux/jobs?hold=true``: let jobs that are created wait as ``Ready``, until ``hold=false`` starts them.

Gaps, by name:

- ``only-copy-jobs``: no other operation, no manifest but a CSV file, no generated manifest, no job tags API, no role:
  a job may do everything.
- ``job-failure-codes``: the codes and words by which a job fails are made up.
- ``no-target-conditions-in-jobs``: none, as at AWS.
- ``only-transitions``: rules expire nothing, and leave versions that are not current alone.
- ``lifecycle-on-demand``: rules run when they are asked to, not once a day.
- ``no-persistence``: jobs and rules end with the process.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote_plus
from uuid import uuid4
from xml.sax.saxutils import escape

import moto.s3.models as moto_s3
from moto.core import DEFAULT_ACCOUNT_ID
from werkzeug.test import EnvironBuilder, run_wsgi_app

from cloudflux.local.emulators.s3_errors import error_body

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Answer = tuple[int, bytes, Mapping[str, str]]

_JOBS: Final = "/v20180820/jobs"
_ADMIN: Final = "/_cloudflux/"
_CONTROL_XMLNS: Final = "http://awss3control.amazonaws.com/doc/2018-08-20/"
_S3_XMLNS: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_SMALL_OBJECTS: Final = "x-amz-transition-default-minimum-object-size"
_SMALL_BYTES: Final = 128 * 1024
_INFREQUENT: Final = ("STANDARD_IA", "ONEZONE_IA")
_STATUS_TEXT: Final = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found"}
_CREDENTIALS: Final = "AWS4-HMAC-SHA256 Credential=job/20180820/us-east-1/s3/aws4_request"
_REPORT_SCHEMA: Final = "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage"

_COLDER: Final = {
    # user guide, "Supported lifecycle transitions"; the coldest last
    "STANDARD": ("INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    "STANDARD_IA": ("INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    "INTELLIGENT_TIERING": ("ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    "ONEZONE_IA": ("GLACIER", "DEEP_ARCHIVE"),
    "GLACIER_IR": ("GLACIER", "DEEP_ARCHIVE"),
    "GLACIER": ("DEEP_ARCHIVE",),
    "DEEP_ARCHIVE": (),
}


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class _Job:
    """One Batch Operations job."""

    id: str
    request: ET.Element
    status: str
    created_at: datetime
    finished_at: datetime | None = None
    succeeded: int = 0
    failed: int = 0
    total: int = 0
    failure: tuple[str, str] | None = None
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def text(self, path: str) -> str:
        """Give the text of one element of the request; empty when it is not there."""
        return self.request.findtext(path) or ""


class S3Control:
    """Batch Operations jobs and lifecycle rules in front of an S3 application.

    ``lock`` is the one under which the application looks at and changes objects.
    """

    def __init__(self, s3: WSGIApplication, lock: Any) -> None:
        self._s3 = s3
        self._lock = lock
        self._jobs: dict[str, _Job] = {}
        self._tokens: dict[str, str] = {}
        self._hold = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request of ours, or hand it on."""
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith((_JOBS, _ADMIN)):
            answer = self._ours
        elif "lifecycle" in query and "lifecycle" in parse_qs(query, keep_blank_values=True):
            answer = self._lifecycle
        else:
            return self._s3(environ, start_response)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        try:
            status, body, headers = answer(environ)
        except _Refused as refusal:
            status, body = refusal.status, error_body(refusal.code, refusal.message)
            headers = {"Content-Type": "application/xml"}
        return _send(start_response, status, body, headers)

    def _ours(self, environ: dict[str, Any]) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        body: bytes = environ["wsgi.input"].read()
        match method, path.split("/")[1:]:
            case "POST", ["_cloudflux", "lifecycle"]:
                at = datetime.fromisoformat(query["at"]) if "at" in query else datetime.now(UTC)
                changed = self._apply_rules(at, query.get("bucket"))
                return 200, json.dumps({"transitioned": changed}).encode(), {"Content-Type": "application/json"}
            case "POST", ["_cloudflux", "jobs"]:
                self._set_hold(query.get("hold") == "true")
                return 200, b"", {}
            case "POST", ["v20180820", "jobs"]:
                return self._control("CreateJobResult", f"<JobId>{self._create(body).id}</JobId>")
            case "GET", ["v20180820", "jobs"]:
                return self._list(query)
            case "GET", ["v20180820", "jobs", job_id]:
                return self._control("DescribeJobResult", f"<Job>{_described(self._job(job_id))}</Job>")
            case "POST", ["v20180820", "jobs", job_id, "status"]:
                return self._update(self._job(job_id), query["requestedJobStatus"])
        raise _Refused(404, "NotFoundException", f"{method} {path} is not among what this emulator knows")

    @staticmethod
    def _control(name: str, content: str) -> Answer:
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{_CONTROL_XMLNS}">{content}</{name}>'
        return 200, body.encode(), {"Content-Type": "application/xml"}

    def _job(self, job_id: str) -> _Job:
        if job_id not in self._jobs:
            raise _Refused(404, "NotFoundException", f"there is no job {job_id}")
        return self._jobs[job_id]

    def _create(self, body: bytes) -> _Job:
        request = _without_namespaces(ET.fromstring(body))  # noqa: S314  # from loopback
        token = request.findtext("ClientRequestToken") or ""
        with self._lock:
            if token in self._tokens:
                known = self._jobs[self._tokens[token]]
                if ET.tostring(known.request) != ET.tostring(request):
                    raise _Refused(400, "IdempotencyException", "this token was used for another request")
                return known
            if request.find("Operation/S3PutObjectCopy") is None:
                raise _Refused(400, "InvalidRequest", "only S3PutObjectCopy jobs can be run here")
            if request.findtext("Manifest/Spec/Format") != "S3BatchOperations_CSV_20180820":
                raise _Refused(400, "InvalidRequest", "the manifest must be a CSV file")
            waits = request.findtext("ConfirmationRequired") == "true"
            job = _Job(str(uuid4()), request, "Suspended" if waits else "Ready", datetime.now(UTC))
            self._jobs[job.id] = job
            self._tokens[token] = job.id
            self._start(job)
        return job

    def _start(self, job: _Job) -> None:
        if job.status == "Ready" and not self._hold:
            job.status = "Active"
            threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _set_hold(self, hold: bool) -> None:
        with self._lock:
            self._hold = hold
            for job in self._jobs.values():
                self._start(job)

    def _list(self, query: Mapping[str, str]) -> Answer:
        jobs = sorted(self._jobs.values(), key=lambda job: job.created_at, reverse=True)
        if wanted := query.get("jobStatuses"):
            jobs = [job for job in jobs if job.status in wanted.split(",")]
        first, size = int(query.get("nextToken", 0)), int(query.get("maxResults", 1000))
        listed = "".join(f"<member>{_listed(job)}</member>" for job in jobs[first : first + size])
        more = f"<NextToken>{first + size}</NextToken>" if first + size < len(jobs) else ""
        return self._control("ListJobsResult", f"{more}<Jobs>{listed}</Jobs>")

    def _update(self, job: _Job, wanted: str) -> Answer:
        with self._lock:
            if wanted == "Ready" and job.status == "Suspended":
                job.status = "Ready"
                self._start(job)
            elif wanted == "Cancelled" and job.status == "Active":
                job.status = "Cancelling"  # the job's own thread ends it
            elif wanted == "Cancelled" and job.status in ("Ready", "Suspended"):
                job.status, job.finished_at = "Cancelled", datetime.now(UTC)
            else:
                raise _Refused(400, "JobStatusException", f"a job that is {job.status} does not become {wanted}")
        return self._control("UpdateJobStatusResult", f"<JobId>{job.id}</JobId><Status>{job.status}</Status>")

    def _run(self, job: _Job) -> None:
        """Copy what the manifest names, and write the report."""
        try:
            rows = self._manifest(job)
            job.total = len(rows)
            for bucket, key, version_id in rows:
                if job.status == "Cancelling":
                    break
                self._copy(job, bucket, key, version_id)
                tried = job.succeeded + job.failed
                if tried > 1000 and job.failed * 2 > tried:
                    raise _Refused(400, "TooManyFailures", f"{job.failed} of {tried} tasks failed")
            self._write_report(job)
            end = "Cancelled" if job.status == "Cancelling" else "Complete"
        except _Refused as refusal:
            job.failure, end = (refusal.code, refusal.message), "Failed"
            if job.rows:
                self._write_report(job)
        job.finished_at = datetime.now(UTC)
        job.status = end

    def _manifest(self, job: _Job) -> list[tuple[str, str, str]]:
        bucket, _, key = job.text("Manifest/Location/ObjectArn").removeprefix("arn:aws:s3:::").partition("/")
        wanted = job.text("Manifest/Location/ETag").strip('"')
        status, content, headers = self._request("GET", f"/{bucket}/{key}")
        if status != 200:
            raise _Refused(400, "ManifestNotFound", f"the manifest {bucket}/{key} cannot be read ({status})")
        if headers.get("ETag", "").strip('"') != wanted:
            raise _Refused(400, "ManifestChanged", f"the manifest {bucket}/{key} is not the one of ETag {wanted}")
        fields = [member.text or "" for member in job.request.findall("Manifest/Spec/Fields/member")]
        found = []
        for number, row in enumerate(csv.reader(io.StringIO(content.decode())), start=1):
            named = dict(zip(fields, row, strict=False))
            if len(row) != len(fields) or not named.get("Bucket") or not named.get("Key"):
                raise _Refused(400, "InvalidManifest", f"line {number} of the manifest {bucket}/{key}: {row}")
            found.append((named["Bucket"], named["Key"], named.get("VersionId", "")))
        return found

    def _copy(self, job: _Job, bucket: str, key: str, version_id: str) -> None:
        """Copy one object; ``key`` is quoted as in the manifest."""
        name = unquote_plus(key)
        target = job.text("Operation/S3PutObjectCopy/TargetResource").removeprefix("arn:aws:s3:::")
        source = quote(f"/{bucket}/{name}") + (f"?versionId={version_id}" if version_id else "")
        headers = {"x-amz-copy-source": source, "x-amz-metadata-directive": "COPY", "x-amz-tagging-directive": "COPY"}
        if storage_class := job.text("Operation/S3PutObjectCopy/StorageClass"):
            headers["x-amz-storage-class"] = storage_class
        if since := job.text("Operation/S3PutObjectCopy/UnModifiedSinceConstraint"):
            headers["x-amz-copy-source-if-unmodified-since"] = format_datetime(
                datetime.fromisoformat(since).astimezone(UTC), usegmt=True
            )
        status, answer, _ = self._request("PUT", f"/{target}/{name}", headers)
        error = ET.fromstring(answer).findtext("Code") if status != 200 and answer else None  # noqa: S314  # moto's
        if status == 200:
            job.succeeded += 1
            job.rows.append((bucket, key, version_id, "succeeded", "200", "", "Successful"))
        else:
            job.failed += 1
            message = ET.fromstring(answer).findtext("Message") if answer else ""  # noqa: S314  # moto's answer
            job.rows.append((bucket, key, version_id, "failed", str(status), error or "", message or ""))

    def _write_report(self, job: _Job) -> None:
        if job.text("Report/Enabled") != "true":
            return
        bucket = job.text("Report/Bucket").removeprefix("arn:aws:s3:::")
        prefix = job.text("Report/Prefix")
        folder = f"{prefix}/job-{job.id}" if prefix else f"job-{job.id}"
        scope = ("failed",) if job.text("Report/ReportScope") == "FailedTasksOnly" else ("succeeded", "failed")
        results = []
        for status in scope:
            if not (rows := [row for row in job.rows if row[3] == status]):
                continue
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            content = text.getvalue().encode()
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            key = f"{folder}/results/{hashlib.sha1(content, usedforsecurity=False).hexdigest()}.csv"
            self._request("PUT", f"/{bucket}/{key}", body=content)
            results.append({"TaskExecutionStatus": status, "Bucket": bucket, "MD5Checksum": digest, "Key": key})
        manifest = {
            "Format": "Report_CSV_20180820",
            "ReportCreationDate": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "Results": results,
            "ReportSchema": _REPORT_SCHEMA,
        }
        self._request("PUT", f"/{bucket}/{folder}/manifest.json", body=json.dumps(manifest).encode())

    def _request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a request to the S3 application as any client would; ``path`` is not quoted."""
        sent = {"Authorization": _CREDENTIALS, **(headers or {})}  # without, moto takes us for the public
        builder = EnvironBuilder(method=method, path=quote(path), headers=sent, data=body)
        chunks, status, answered = run_wsgi_app(self._s3, builder.get_environ(), buffered=True)
        return int(status.split()[0]), b"".join(chunks), answered

    def _lifecycle(self, environ: dict[str, Any]) -> Answer:
        """Keep or give a bucket's rules word for word; what they must be like is moto's to say, and then ours."""
        name, method = environ["PATH_INFO"].strip("/"), environ["REQUEST_METHOD"]
        body: bytes = environ["wsgi.input"].read()
        kept = None
        if method == "PUT":
            kept = _without_namespaces(ET.fromstring(body))  # noqa: S314  # from loopback
            _check_rules(kept)
        bucket = _bucket(name)
        if method == "GET" and bucket is not None and hasattr(bucket, "cloudflux_lifecycle"):
            document, small = bucket.cloudflux_lifecycle
            document.set("xmlns", _S3_XMLNS)
            return 200, ET.tostring(document), {"Content-Type": "application/xml", _SMALL_OBJECTS: small}
        environ["wsgi.input"] = io.BytesIO(body)
        chunks, status_line, headers = run_wsgi_app(self._s3, environ, buffered=True)
        status, answer = int(status_line.split()[0]), b"".join(chunks)
        answered = {"Content-Type": headers.get("Content-Type", "application/xml")}
        if status < 300 and bucket is not None:
            if kept is not None:
                small = environ.get("HTTP_" + _SMALL_OBJECTS.upper().replace("-", "_"), "all_storage_classes_128K")
                bucket.cloudflux_lifecycle = (kept, small)
                answered[_SMALL_OBJECTS] = small
            elif method == "DELETE" and hasattr(bucket, "cloudflux_lifecycle"):
                del bucket.cloudflux_lifecycle
        return status, answer, answered

    def _apply_rules(self, at: datetime, only: str | None) -> int:
        """Move the current versions for which a transition is due, in one bucket or in all; tells how many."""
        changed = 0
        with self._lock:
            backend = moto_s3.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
            for bucket in backend.buckets.values():
                document, small = getattr(bucket, "cloudflux_lifecycle", (None, ""))
                if document is None or only not in (None, bucket.name):
                    continue
                rules = [rule for rule in document.findall("Rule") if rule.findtext("Status") == "Enabled"]
                for key in bucket.keys.values():
                    if isinstance(key, moto_s3.FakeDeleteMarker):
                        continue
                    tags = backend.tagger.get_tag_dict_for_resource(key.arn)
                    due = {
                        storage_class
                        for rule in rules
                        for storage_class in _due(rule, key, tags, at, small)
                        if storage_class in _COLDER.get(key.storage_class, ())
                    }
                    if due:
                        key.set_storage_class(max(due, key=_COLDER["STANDARD"].index))
                        changed += 1
        return changed


def _check_rules(document: ET.Element) -> None:
    rules = document.findall("Rule")
    if not 1 <= len(rules) <= 1000:
        raise _Refused(400, "InvalidRequest", "a lifecycle configuration has 1 to 1000 rules")
    names = [name for rule in rules if (name := rule.findtext("ID"))]
    if len(set(names)) != len(names):
        raise _Refused(400, "InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
    if len({rule.find("Prefix") is None for rule in rules}) > 1:
        raise _Refused(400, "InvalidRequest", "Filter element can only be used in Lifecycle V2.")
    for transition in (element for rule in rules for element in rule.findall("Transition")):
        days, storage_class = transition.findtext("Days"), transition.findtext("StorageClass")
        if days is not None and storage_class in _INFREQUENT and int(days) < 30:
            raise _Refused(
                400,
                "InvalidArgument",
                f"'Days' in Transition action must be greater than or equal to 30 for storageClass '{storage_class}'",
            )


def _due(rule: ET.Element, key: Any, tags: Mapping[str, str], at: datetime, small: str) -> Iterator[str]:
    """Give the classes that a rule has for an object at a time."""
    above, below = _bounds(rule)
    if not _matches(rule, key.name, tags) or (above is not None and key.size <= above) or key.size >= below:
        return
    modified = key.last_modified.replace(tzinfo=UTC)
    for transition in rule.findall("Transition"):
        storage_class = transition.findtext("StorageClass") or ""
        archives = storage_class in ("GLACIER", "DEEP_ARCHIVE")
        if above is None and key.size < _SMALL_BYTES and not (archives and small == "varies_by_storage_class"):
            continue
        if (day := transition.findtext("Date")) is not None:
            due_at = datetime.fromisoformat(day).replace(tzinfo=UTC)
        else:
            # user guide: the days are added to the creation time, and rounded up to the next midnight UTC
            exact = modified + timedelta(days=int(transition.findtext("Days") or 0))
            due_at = exact.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        if due_at <= at:
            yield storage_class


def _bounds(rule: ET.Element) -> tuple[int | None, float]:
    """Give the sizes between which a rule applies; the lower is None when it does not say."""
    above = rule.findtext("Filter/ObjectSizeGreaterThan") or rule.findtext("Filter/And/ObjectSizeGreaterThan")
    below = rule.findtext("Filter/ObjectSizeLessThan") or rule.findtext("Filter/And/ObjectSizeLessThan")
    return None if above is None else int(above), float("inf") if below is None else int(below)


def _matches(rule: ET.Element, key: str, tags: Mapping[str, str]) -> bool:
    prefixes = [rule.findtext(path) or "" for path in ("Prefix", "Filter/Prefix", "Filter/And/Prefix")]
    wanted = [*rule.findall("Filter/Tag"), *rule.findall("Filter/And/Tag")]
    return all(key.startswith(prefix) for prefix in prefixes) and all(
        tags.get(tag.findtext("Key") or "") == (tag.findtext("Value") or "") for tag in wanted
    )


def _bucket(name: str) -> Any:
    return moto_s3.s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.get(name)


def _described(job: _Job) -> str:
    kept = "".join(
        ET.tostring(element, encoding="unicode")
        for name in ("Manifest", "Operation", "Report", "ConfirmationRequired", "RoleArn")
        if (element := job.request.find(name)) is not None
    )
    reasons = ""
    if job.failure is not None:
        code, reason = (escape(text) for text in job.failure)
        reasons = (
            f"<FailureReasons><member><FailureCode>{code}</FailureCode>"
            f"<FailureReason>{reason}</FailureReason></member></FailureReasons>"
        )
    return f"{_summary(job)}<JobArn>arn:aws:s3:us-east-1:{DEFAULT_ACCOUNT_ID}:job/{job.id}</JobArn>{kept}{reasons}"


def _listed(job: _Job) -> str:
    return f"{_summary(job)}<Operation>S3PutObjectCopy</Operation>"


def _summary(job: _Job) -> str:
    finished = "" if job.finished_at is None else f"<TerminationDate>{_time(job.finished_at)}</TerminationDate>"
    return (
        f"<JobId>{job.id}</JobId><Description>{escape(job.text('Description'))}</Description>"
        f"<Priority>{job.text('Priority') or 0}</Priority><Status>{job.status}</Status>"
        f"<CreationTime>{_time(job.created_at)}</CreationTime>{finished}<ProgressSummary>"
        f"<TotalNumberOfTasks>{job.total}</TotalNumberOfTasks>"
        f"<NumberOfTasksSucceeded>{job.succeeded}</NumberOfTasksSucceeded>"
        f"<NumberOfTasksFailed>{job.failed}</NumberOfTasksFailed></ProgressSummary>"
    )


def _time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_namespaces(element: ET.Element) -> ET.Element:
    for part in element.iter():
        part.tag = part.tag.rpartition("}")[2]
    return element


def _send(start_response: Callable[..., Any], status: int, body: bytes, headers: Mapping[str, str]) -> Iterable[bytes]:
    sent = {**headers, "Content-Length": str(len(body)), "x-amz-request-id": uuid4().hex[:16].upper()}
    start_response(f"{status} {_STATUS_TEXT.get(status, 'Error')}", list(sent.items()))
    return [body]
