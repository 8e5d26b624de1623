"""Whether a store keeps what this project relies on, tried on the store itself."""

import uuid

from plca_dist.errors import UserError
from plca_dist.storage.store import Store


def prove_created_once(store: Store, name: str, data: bytes) -> None:
    """Try that the object `name`, which this caller has just created with `data`, cannot be created again.

    The object is removed where it can: then nothing shows who may write.

    Raises:
        UserError: where a second creation replaced it, or it is not read or listed as it was written.
    """
    refused = not store.create(name, b"a second creation " + uuid.uuid4().bytes)
    kept = store.read(name) == data
    folder = name.rpartition("/")[0]
    listed = any(entry == (name, len(data)) for entry in store.list(folder))
    if refused and kept and listed:
        return
    store.delete(name)
    if not (refused and kept):
        raise UserError(
            f"{store.uri}: the store has no create-only-once writes (it let a second writer replace {name}), so a run "
            "could have two writers; use one that has conditional writes."
        )
    raise UserError(
        f"{store.uri}: the store does not list {name}, which was just written there; use one whose listings are "
        "up to date."
    )
