"""One round with the real Label Studio (PyPI) as gleaner's client, connected as a person would connect it.

Starts both servers on free ports with folders of their own, and goes through: export of the pool into Label Studio, the backend with HTTP Basic,
the webhook with its header, predictions for every task in gleaner's order, annotations that become labels, a skip, a correction, a deletion, the
batch's end that starts training, the next round's predictions, and a reconcile from Label Studio's export. Standard library only.

    python tests/label_studio/round.py --gleaner target/release/gleaner --label-studio target/label-studio/bin/label-studio
"""

import argparse
import base64
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

EMAIL, PASSWORD = "ana@example.org", "correct horse battery staple"
LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"
ADMIN_TOKEN = "gl_a_for_this_test_alone"
CLASSES = ["ring", "cross"]
CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single">'
    + "".join(f'<Choice value="{name}"/>' for name in CLASSES)
    + "</Choices></View>"
)
POOL_COUNT, BATCH_SIZE = 40, 6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Client:
    """Calls a JSON API with one Authorization header."""

    def __init__(self, base, authorization):
        self.base, self.authorization = base, authorization

    def call(self, method, path, body=None, expect=(200, 201, 202, 204)):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": self.authorization, "Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        if status not in expect:
            sys.exit(f"{method} {self.base}{path} answered {status}: {text[:2000].decode(errors='replace')}")
        try:
            return json.loads(text)
        except ValueError:
            return None

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body=None, **how):
        return self.call("POST", path, body or {}, **how)

    def patch(self, path, body):
        return self.call("PATCH", path, body)


def wait_until(what, condition, seconds=300):
    """Asks again until `condition` gives something true, and gives it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = condition()
        except (OSError, urllib.error.URLError):
            found = None
        if found:
            print(f"ok: {what}", flush=True)
            return found
        time.sleep(0.2)
    sys.exit(f"waited {seconds} s in vain: {what}")


def check(what, is_so, seen=""):
    if not is_so:
        sys.exit(f"not so: {what} {seen}")
    print(f"ok: {what}", flush=True)


def png(rows):
    """A grey image as PNG, rows of bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def draw(kind, randomness):
    """A ring or a cross, somewhere, with noise."""
    size, radius = 28, randomness.randint(5, 9)
    x0, y0 = randomness.randint(radius, size - 1 - radius), randomness.randint(radius, size - 1 - radius)
    rows = [[randomness.randint(0, 50) for _ in range(size)] for _ in range(size)]
    for y in range(size):
        for x in range(size):
            dx, dy = x - x0, y - y0
            far = max(abs(dx), abs(dy)) > radius
            on_ring = abs((dx * dx + dy * dy) ** 0.5 - radius) < 1.2
            on_cross = not far and (abs(dx) < 1.2 or abs(dy) < 1.2)
            if (kind == "ring" and on_ring) or (kind == "cross" and on_cross):
                rows[y][x] = 255 - randomness.randint(0, 40)
    return png(rows)


def make_images(folder):
    randomness = random.Random(7)
    truth = {}
    for number in range(POOL_COUNT):
        kind = CLASSES[number % 2]
        path = folder / "pool" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(kind, randomness))
        truth[path.name] = kind
    return truth


def start_gleaner(binary, home, images, processes):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = dict(
        os.environ,
        GLEANER_HOME=str(home),
        GLEANER_LISTEN=f"127.0.0.1:{port}",
        GLEANER_ADMIN_TOKEN=ADMIN_TOKEN,
        GLEANER_IMPORT_ROOTS=str(images),
        GLEANER_PUBLIC_URL=url,
        GLEANER_LOG="info",
    )
    environment.pop("DATABASE_URL", None)
    log = open(home.parent / "gleaner.log", "wb")
    processes.append(subprocess.Popen([binary, "serve"], env=environment, stdout=log, stderr=log))
    client = Client(url, f"Bearer {ADMIN_TOKEN}")
    wait_until("gleaner answers", lambda: client.get("/healthz") or True)
    return client


def start_label_studio(binary, home, processes):
    port = free_port()
    environment = dict(
        os.environ,
        ML_BLOCK_LOCAL_IP="false",
        SSRF_PROTECTION_ENABLED="false",
        LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN="true",
        COLLECT_ANALYTICS="0",
        LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK="true",
    )
    command = [binary, "start", "--no-browser", "--data-dir", str(home), "--internal-host", "127.0.0.1", "--port", str(port)]
    command += ["--username", EMAIL, "--password", PASSWORD, "--user-token", LEGACY_TOKEN, "--log-level", "INFO"]
    log = open(home.parent / "label-studio.log", "wb")
    processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    client = Client(f"http://127.0.0.1:{port}", f"Token {LEGACY_TOKEN}")
    wait_until("Label Studio answers", lambda: client.get("/api/projects/") is not None, 600)
    return client


def make_project(gleaner):
    settings = {
        "name": "shapes", "classes": CLASSES, "image": {"size": 28, "channels": 1}, "backbone": "small",
        "pretext": {"kind": "rotation", "epochs": 1}, "fine_tune": {"mode": "head", "epochs": 2},
        "batch_size": BATCH_SIZE, "budget": 100, "random_fraction": 0, "look_ahead": False, "seed": 7,
    }
    gleaner.post("/api/v1/projects", settings)


def import_file(gleaner, source, **more):
    made = gleaner.post("/api/v1/projects/shapes/imports", {"source": str(source), **more})

    def ended():
        row = gleaner.get(f"/api/v1/projects/shapes/imports/{made['id']}")
        if row["state"] == "failed":
            sys.exit(f"the import failed: {row}")
        return row if row["state"] == "done" else None

    return wait_until(f"{Path(source).name} is imported", ended)


def connect(studio, gleaner):
    """A tool token, a project, the backend, and the webhook's header: what a person does once."""
    token = gleaner.post("/api/v1/tokens", {"role": "tool", "name": "label studio"})["token"]
    project = studio.post("/api/projects/", {"title": "shapes", "label_config": CONFIG, "sampling": "Uncertainty sampling"})
    backend_url = f"{gleaner.base}/label-studio/shapes"
    backend = {
        "project": project["id"], "url": backend_url, "title": "gleaner", "auth_method": "BASIC_AUTH",
        "basic_auth_user": "gleaner", "basic_auth_pass": token,
    }
    made = studio.post("/api/ml/", backend)
    check("Label Studio says that the backend is connected", made.get("state") == "CO", made)
    hooks = [hook for hook in studio.get(f"/api/webhooks/?project={project['id']}") if hook["url"].startswith(backend_url)]
    check("Label Studio made the webhook itself", len(hooks) == 1, hooks)
    # It sends webhooks without the backend's password, so the header is set by hand, as in Settings → Webhooks.
    studio.patch(f"/api/webhooks/{hooks[0]['id']}/", {"headers": {"Authorization": f"Bearer {token}"}, "url": hooks[0]["url"]})
    return project["id"], token


def predict(studio, project, version):
    """What the button "Retrieve predictions" does; then the version is chosen in the project's settings."""
    everything = {"selectedItems": {"all": True, "excluded": []}, "project": str(project)}
    studio.post(f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", everything)
    studio.patch(f"/api/projects/{project}/", {"model_version": version})
    tasks = studio.get(f"/api/tasks?project={project}&page_size=1000&fields=all")["tasks"]
    return {task["id"]: task for task in tasks}


def scores_of(tasks, version):
    found = {}
    for task in tasks.values():
        of_version = [one for one in task["predictions"] if one["model_version"] == version]
        check_quietly(f"task {task['id']} has one prediction of {version}", len(of_version) == 1, task["predictions"])
        found[task["id"]] = of_version[0]
    return found


def check_quietly(what, is_so, seen):
    if not is_so:
        sys.exit(f"not so: {what} {seen}")


def annotate(studio, task, choice, **more):
    result = [] if choice is None else [
        {"id": "a", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    ]
    return studio.post(f"/api/tasks/{task}/annotations/", {"result": result, "lead_time": 1.5, **more})


def labels(gleaner):
    return {row["item"]: row for row in gleaner.get("/api/v1/projects/shapes/labels")}


def run(binary, studio_binary, folder, processes):
    images = folder / "images"
    truth = make_images(images)
    gleaner_home, studio_home = folder / "gleaner", folder / "studio"
    gleaner_home.mkdir()
    studio_home.mkdir()
    gleaner = start_gleaner(binary, gleaner_home, images, processes)
    studio = start_label_studio(studio_binary, studio_home, processes)
    make_project(gleaner)
    import_file(gleaner, images, split="pool", labels="hide")
    state = lambda: gleaner.get("/api/v1/projects/shapes")
    wait_until("the project is ready", lambda: state()["state"] == "ready")
    gleaner.post("/api/v1/projects/shapes/start")
    wait_until("the first batch is open", lambda: state()["state"] == "labeling")

    # The pool goes to Label Studio as gleaner exports it.
    tasks = gleaner.get("/api/v1/projects/shapes/labels?format=label-studio")
    check("the whole pool is exported", len(tasks) == POOL_COUNT, len(tasks))
    with urllib.request.urlopen(tasks[0]["data"]["image"], timeout=30) as response:
        check("the exported image opens without a token", response.read()[:4] == b"\x89PNG")
        check("other pages may show it", response.headers["cross-origin-resource-policy"] == "cross-origin")
    project, token = connect(studio, gleaner)
    studio.post(f"/api/projects/{project}/import", tasks)

    # The first batch: no model yet, so an order and no guesses.
    backend = Client(f"{gleaner.base}/label-studio/shapes", "Basic " + base64.b64encode(f"x:{token}".encode()).decode())
    setup = {"project": "1.1", "schema": CONFIG, "hostname": "http://x", "access_token": "t", "extra_params": None}
    version = backend.post("/setup", setup)["model_version"]
    seen = predict(studio, project, version)
    item_of = {task["id"]: task["data"]["gleaner_item"] for task in seen.values()}
    batch = gleaner.get("/api/v1/projects/shapes/rounds/1/tasks")["items"]
    ranked = [row["item"] for row in batch]
    check("the batch has its size", len(ranked) == BATCH_SIZE, ranked)
    scores = scores_of(seen, version)
    order = [item_of[task] for task in sorted(scores, key=lambda task: scores[task]["score"])]
    check("every task has a prediction, and the lowest scores are the batch in its order", order[:BATCH_SIZE] == ranked, order)

    # Answered in the order in which Label Studio serves them.
    name_of = {row["id"]: row["name"] for row in gleaner.get("/api/v1/projects/shapes/items?limit=1000")["items"]}
    class_of = lambda item: truth[Path(name_of[item]).name]
    served, first, skipped = [], None, None
    for place in range(BATCH_SIZE):
        task = studio.get(f"/api/projects/{project}/next")["id"]
        item = item_of[task]
        served.append(item)
        if place == 2:
            annotate(studio, task, None, was_cancelled=True)
            skipped = task
            wait_until("the skip is a skip", lambda: round_task(gleaner, 1, item)["state"] == "skipped")
            continue
        right = class_of(item)
        wrong = next(name for name in CLASSES if name != right)
        made = annotate(studio, task, wrong if place == 0 else right)
        wait_until(f"annotation {place} is a label", lambda: item in labels(gleaner))
        if place == 0:
            first = (made["id"], item, right)
            corrected = {"result": [{"id": "a", "from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [right]}}]}
            studio.patch(f"/api/annotations/{made['id']}/", corrected)
            wait_until("a changed annotation corrects its label", lambda: labels(gleaner)[item]["class"] == right)
        if place == 1:
            studio.call("DELETE", f"/api/annotations/{made['id']}/")
            wait_until("a deleted annotation takes its label back", lambda: item not in labels(gleaner))
            annotate(studio, task, right)
            wait_until("it is answered again", lambda: item in labels(gleaner))
    check("Label Studio served the batch in gleaner's order", served == ranked, (served, ranked))
    rows = labels(gleaner)
    check("each answer is one label and the skip none", len(rows) == BATCH_SIZE - 1, rows)
    check("they belong to the person in Label Studio", {row["labeler"] for row in rows.values()} == {"label-studio:1"}, rows)
    check("the label is the corrected one", rows[first[1]]["class"] == first[2])
    wait_until("the batch's end started training", lambda: (gleaner.get("/api/v1/projects/shapes/rounds/1")["state"] != "labeling"))
    wait_until("the next batch is open", lambda: (state()["round"] or {}).get("number") == 2, 900)

    # The second round: guesses of the first model, and another version, so everything is predicted anew.
    second = backend.post("/setup", setup)["model_version"]
    check("the version has changed", second != version, (version, second))
    seen = predict(studio, project, second)
    scores = scores_of(seen, second)
    ranked = [row["item"] for row in gleaner.get("/api/v1/projects/shapes/rounds/2/tasks")["items"]]
    order = [item_of[task] for task in sorted(scores, key=lambda task: scores[task]["score"])]
    check("the second batch comes first, in its order", order[: len(ranked)] == ranked, (order[: len(ranked)], ranked))
    guessed = sum(1 for one in scores.values() if one["result"])
    check("what has no label has a guess", guessed >= POOL_COUNT - BATCH_SIZE, guessed)
    served = item_of[studio.get(f"/api/projects/{project}/next")["id"]]
    check("Label Studio serves the first of the second batch", served == ranked[0], (served, ranked[0]))

    # An answer on what nobody asked, and one whose webhook is lost.
    task_of = {item: task for task, item in item_of.items()}
    unasked = next(item for item in reversed(order) if item not in rows and item not in ranked and item_of[skipped] != item)
    annotate(studio, task_of[unasked], class_of(unasked))
    external = wait_until("an answer on what nobody asked is a label", lambda: labels(gleaner).get(unasked))
    check("it is external", external["source"] == "external", external)
    for hook in studio.get(f"/api/webhooks/?project={project}"):
        studio.patch(f"/api/webhooks/{hook['id']}/", {"is_active": False, "url": hook["url"]})
    annotate(studio, task_of[ranked[0]], class_of(ranked[0]))
    exported = studio.get(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")
    check("the export has every task", len(exported) == POOL_COUNT, len(exported))
    before = labels(gleaner)
    check("the lost one is no label yet", ranked[0] not in before)
    path = images / "export.json"
    path.write_text(json.dumps(exported))
    report = import_file(gleaner, path, format="label_studio", labels="keep")
    check("no image came twice", (report["added_count"], report["duplicate_count"]) == (0, POOL_COUNT), report)
    wait_until("the reconcile brings the lost one", lambda: ranked[0] in labels(gleaner))
    after = labels(gleaner)
    check("and nothing else", {k: v for k, v in after.items() if k != ranked[0]} == before, after)
    check("no annotation was refused", gleaner.get("/api/v1/projects/shapes/label-studio/annotations")["items"] == [])
    for log in ["gleaner.log"]:
        text = (folder / log).read_text(errors="replace")
        check("no token of Label Studio is in the log", LEGACY_TOKEN not in text)


def round_task(gleaner, number, item):
    rows = gleaner.get(f"/api/v1/projects/shapes/rounds/{number}/tasks")["items"]
    return next(row for row in rows if row["item"] == item)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gleaner", required=True)
    parser.add_argument("--label-studio", required=True)
    parser.add_argument("--keep", action="store_true", help="keep the folder with both logs")
    arguments = parser.parse_args()
    # Not below root's home, which the user that runs Postgres can't enter.
    folder = Path(tempfile.mkdtemp(prefix="gleaner-label-studio-", dir=os.environ.get("TMPDIR", "/tmp")))
    folder.chmod(0o755)
    processes, passed = [], False
    try:
        run(os.path.abspath(arguments.gleaner), os.path.abspath(arguments.label_studio), folder, processes)
        passed = True
        print("Label Studio went through a round with gleaner")
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        if passed and not arguments.keep:
            subprocess.run(["rm", "-rf", str(folder)], check=False)
        else:
            print(f"logs: {folder}")


if __name__ == "__main__":
    main()
