"""S3: how it is reached, and what goes wrong there, said in one line.

It is reached through Arrow, whose wheels bring their client along: nothing is downloaded when it is
first used. Credentials come from where the AWS tools look for them (environment, profile, role),
the endpoint from `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, the region from `AWS_REGION` or
`AWS_DEFAULT_REGION`.
"""

from __future__ import annotations

import os
import re

from pyarrow import fs

from scalr_ray.core.errors import DataError, RetryLater, ScalrError

S3_SCHEME = "s3://"
_CONNECT_TIMEOUT_S = 2
_SILENCE_TIMEOUT_S = 10
_ATTEMPTS = 3
# What Arrow takes without a region; pyiceberg would ask Amazon, whatever the endpoint.
_REGION_OF_OTHERS = "us-east-1"

# Cause, as the client of S3 words it -> whether trying again can help, and what to do.
_TROUBLES: tuple[tuple[re.Pattern[str], type[ScalrError], str], ...] = (
    (
        re.compile(r"ACCESS|SIGNATURE|TOKEN|CREDENTIAL|CLIENT|EXPIRED|40[13]", re.IGNORECASE),
        DataError,
        "S3 refused the credentials; set AWS_ACCESS_KEY_ID and its secret, or AWS_PROFILE",
    ),
    (
        re.compile(r"NO_SUCH_BUCKET"),
        DataError,
        "S3 has no such bucket; create it, or mend the path or the endpoint",
    ),
    (
        re.compile(r"301|AuthorizationHeaderMalformed"),
        DataError,
        "S3 keeps the bucket in another region; set AWS_REGION to it",
    ),
    (
        re.compile(r"NETWORK|SLOW_DOWN|THROTTLING|UNAVAILABLE|TIMEOUT|INTERNAL|5\d\d"),
        RetryLater,
        "S3 does not answer; check the network and s3_endpoint_override, then try again",
    ),
)
_CODE = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_EXCEPTION = re.compile(r"ExceptionName: (\w+)")


def s3_filesystem(endpoint: str | None = None) -> fs.S3FileSystem:
    """What reads and writes in S3; made anew in each process.

    Args:
        endpoint: of an S3 service other than the one the environment names.
    """
    return fs.S3FileSystem(
        endpoint_override=endpoint or _endpoint(),
        region=_region(),
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_SILENCE_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file
    )


def s3_properties() -> dict[str, str]:
    """What pyiceberg must be told to reach the same S3 as `s3_filesystem()`; holds no secret."""
    told = {
        "s3.connect-timeout": str(_CONNECT_TIMEOUT_S),
        "s3.request-timeout": str(_SILENCE_TIMEOUT_S),
    }
    endpoint = _endpoint()
    if endpoint is not None:
        told["s3.endpoint"] = endpoint
    region = _region() or (_REGION_OF_OTHERS if endpoint else None)
    if region is not None:
        told["s3.region"] = region
    return told


def s3_error(what: str, error: Exception) -> ScalrError | None:
    """What to tell the user of an error that came from S3, or None of one that did not.

    Args:
        what: was read or written, or was to be done, for the message.
        error: of Arrow or DuckDB.
    """
    text = str(error)
    if code := _CODE.search(text):
        exception = _EXCEPTION.search(text)
        cause = " ".join(filter(None, (*code.groups(), exception and exception[1])))
        for pattern, kind, advice in _TROUBLES:
            if pattern.search(cause):
                return kind(f"{what}: {advice}")
    return None


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
