"""Which operations of Azure Blob Storage are uses of a blob's content; the same for resource logs and classic logs."""

from __future__ import annotations

import re
from typing import Final

# Reads of properties, metadata and tags, and listings, are no use of a blob's content. Blocks are no writes, their
# commit is. CopyBlob logs three records with one request id (operationCount 0, 1, 2): the request itself is the write
# of its target, CopyBlobSource the read of its source, and CopyBlobDestination would count the write again. A copy that
# goes on after its answer (202) logs them once, when it was asked for.
KINDS: Final = {
    "GetBlob": "read",
    "ReadFile": "read",
    "QueryBlobContents": "read",
    "GetWebContent": "read",  # of a static website, from the container $web
    "CopyBlobSource": "read",
    "PutBlob": "write",
    "PutBlobFromURL": "write",
    "PutBlockList": "write",
    "CopyBlob": "write",
    "CopyBlobFromURL": "write",
    "FlushFile": "write",
    "DeleteBlob": "delete",
    "DeleteFile": "delete",
    "SetBlobTier": "tier",
}
OBJECT_OPERATION: Final = re.compile(r"Blob|File|Append|Page|Block|WebContent|^Sftp|^Nfs")
OTHER_OPERATIONS: Final = re.compile(
    # On blobs, and no use of their content: properties, tags, leases, locks, parts of a write, containers' own
    r"^(List|Find|Lease|Snapshot|Undelete|Abort|Create|Rename|Preflight|Incremental|Restore)|Properties|Metadata|Tags|ACL"
    r"|Acl|Lease|Policy|LegalHold|Expiry|BlockList$|PageRanges|^PutBlock|^PutPage|^ClearPage|^Append|^SealAppend"
    r"|^CopyBlobDestination$|^AbortCopy|Batch|Preflight|Service|Stats|Account|^PathSet|^SetFile|Container|Directory"
)
LIFECYCLE_AGENTS: Final = ("ObjectLifeCycleScanner", "OLCMScanner")
"""What the user agents of lifecycle's own requests contain (blobs/lifecycle-management-policy-monitor)."""
