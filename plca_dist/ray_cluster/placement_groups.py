"""Places that a killed trial leaves reserved, given back.

Ray keeps a placement group until the *job* ends that made it, whatever becomes of the actor that did. Ray Train's
controller makes one for the workers of each attempt; it removes it when it ends, but not when it is killed. In a
search a job has many controllers, and what one leaves behind would stay reserved until the search ends.
"""

import ray
from ray._private import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def give_back() -> int:
    """Remove the placement groups of this job whose maker is dead; returns how many there were."""
    job = ray.get_runtime_context().get_job_id()
    found = 0
    for data in state.state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(data)
        if group.state == gcs_pb2.PlacementGroupTableData.REMOVED or group.creator_job_id.hex() != job:
            continue
        # Those of the driver itself, Tune's own, have no actor; their "actor" counts as dead too.
        if group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil():
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            found += 1
    return found
