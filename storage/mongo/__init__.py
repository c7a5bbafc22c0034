"""MongoDB, through mongomotor: the extra ``tideline[mongodb]``.

Kept true: a majority has a group in its journal before its commit returns. Several nodes append to one timeline without a gap,
and each write of a commit can be made again, by its node or by who finishes its work.

mongomotor is under the GPLv3, this code under Apache-2.0; whoever passes on both together is bound by the former.
"""

from storage.mongo.sharding import Sharding
from storage.mongo.storage import MongoStorage

__all__ = ["MongoStorage", "Sharding"]
