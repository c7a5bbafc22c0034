"""What one node does to settings, the others find by a mark that is cheap to ask for."""

from __future__ import annotations

from storage.records import DropSetting, Operation, SaveSetting, Setting
from tests.cluster_storage.backends import ClusterBackend, part_of
from tests.storage.samples import Maker


async def test_each_change_of_any_node_leaves_another_mark(cluster: ClusterBackend, make: Maker) -> None:
    one, other = await cluster.node(), await cluster.node()
    groups: list[tuple[object, list[Operation], list[Setting]]] = [
        (one, [SaveSetting("user", "ann", b"1")], [Setting("user", "ann", b"1")]),
        (other, [SaveSetting("user", "ann", b"2")], [Setting("user", "ann", b"2")]),
        (one, [SaveSetting("user", "ann", b"1"), make.append()], [Setting("user", "ann", b"1")]),
        (other, [DropSetting("user", "ann")], []),
    ]
    seen = [await part_of(one).settings_mark()]
    for node, group, expected in groups:
        await node.commit(group)  # type: ignore[attr-defined]
        mark = await part_of(one).settings_mark()
        assert mark == await part_of(other).settings_mark()
        assert mark[0] == mark[1], "the change has ended"
        assert mark not in seen
        seen.append(mark)
        assert await one.settings("") == await other.settings("") == expected
    await one.commit([make.append()])
    assert await part_of(other).settings_mark() == seen[-1], "messages are no settings"
