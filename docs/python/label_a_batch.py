"""Labels whatever a gleaner project asks for, with a client generated from its OpenAPI document (`make python-client`).

    GLEANER_URL=http://127.0.0.1:8080 GLEANER_TOKEN=gl_t_… python label_a_batch.py PROJECT
"""

import os
import sys
import time
import uuid

from gleaner_client import AuthenticatedClient
from gleaner_client.api.labeling import create_leases, submit_labels
from gleaner_client.models import CreateLeases, LabelInput, LabelOutcome, LeasedTask, SubmitLabels


def choose(task: LeasedTask) -> str | None:
    """Your annotators go here; this one agrees with the model, if it has a guess."""
    return task.suggestions[0].class_ if task.suggestions else None


def label_a_batch(client: AuthenticatedClient, project: str, otherwise: str) -> int:
    """Answers tasks until the round has none left for us; returns how many labels were accepted."""
    accepted = 0
    while True:
        # The key makes both calls safe to send again after a lost connection.
        leases = create_leases.sync(project, client=client, body=CreateLeases(count=20), idempotency_key=str(uuid.uuid4()))
        if not leases.tasks:
            if leases.wait.reason != "batch_leased_out":
                return accepted
            time.sleep(leases.wait.retry_after_seconds)
            continue
        labels = [LabelInput(task=t.task, class_=choose(t) or otherwise, attempt=t.attempt) for t in leases.tasks]
        answer = submit_labels.sync(project, client=client, body=SubmitLabels(labels=labels), idempotency_key=str(uuid.uuid4()))
        accepted += sum(result.outcome == LabelOutcome.ACCEPTED for result in answer.results)
        print(f"round {answer.round_.number}: {answer.round_.answered_count} of {answer.round_.task_count}")


if __name__ == "__main__":
    gleaner = AuthenticatedClient(os.environ["GLEANER_URL"], os.environ["GLEANER_TOKEN"], raise_on_unexpected_status=True)
    print(label_a_batch(gleaner, sys.argv[1], os.environ.get("GLEANER_CLASS", "Coat")), "labels accepted")
