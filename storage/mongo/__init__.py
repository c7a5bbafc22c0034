"""MongoDB, through mongomotor: the extra ``tideline[mongodb]``.

mongomotor is under the GPLv3, this code under Apache-2.0; whoever passes on both together is bound by the former.
"""

from storage.mongo.storage import MongoStorage

__all__ = ["MongoStorage"]
