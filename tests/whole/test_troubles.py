"""What goes wrong around a hub: each is an error that says why, or is tried again until it has passed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.servers import MISSING, services_required
from tests.whole.daemon import crashing, until
from tests.whole.site import BIG, FILE, MIB, SLOTS, TREE, Site

SLOW_COPY = crashing("datahub.transfers.pipeline:Pipeline._count:pause:1.5")


@pytest.fixture
def small_disk(site: Site) -> Iterator[Site]:
    """Give a site whose deliveries lie on a disk of 4 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(site.deliveries)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        (pytest.fail if services_required() else pytest.skip)(f"{MISSING}mount ({tried.stderr.strip()}); be root")
    try:
        yield site
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(site.deliveries)], check=True)


def test_full_disk(small_disk: Site) -> None:
    """A product that finds no room waits, says so, leaves nothing there, and is delivered once there is room."""
    site = small_disk
    daemon = site.hub()
    daemon.start()
    job = site.submit(daemon, BIG)
    waiting = daemon.await_retry(job)
    assert (waiting["status"], "full" in waiting["waiting_on"]["reason"]) == ("TRANSFERRING", True)
    assert waiting["waiting_on"]["next_at"] > waiting["time_transferring"]
    assert site.leftovers() == []
    site.check_success(daemon.await_final([site.submit(daemon, FILE)]))

    command = ["mount", "-o", "remount,size=64m", str(site.deliveries)]
    subprocess.run(command, check=True)
    shown = daemon.await_final([job])
    site.check_success(shown)
    assert shown[0]["attempts"] > 1
    site.check_slots(daemon)
    site.check_settled()


def test_disk_that_fills_up(small_disk: Site) -> None:
    """The same when the room goes while a tree is copied; a cancel then removes what was begun."""
    site = small_disk
    daemon = site.hub()
    daemon.start(crashing("datahub.files.copying:copy_bytes:pause:0.2"))
    job = site.submit(daemon, TREE)
    until(site.leftovers, "a copy under way")
    (site.deliveries / "other").mkdir()
    with (site.deliveries / "other" / "filler").open("wb", buffering=0) as filler:
        for _ in range(1024):
            try:
                filler.write(b"x" * 4096)
            except OSError:
                break
    waiting = daemon.await_retry(job)
    assert "no space left" in waiting["waiting_on"]["reason"]
    assert daemon.cancel(job).status == 202
    daemon.await_status(job, "CANCELLED")
    assert site.leftovers() == []
    assert site.rows("SELECT * FROM work") == []


def test_cancel_of_what_is_tried_again(site: Site) -> None:
    """It does not wait for its next try, which would not end it: the archive is still away."""
    daemon = site.hub()
    daemon.start()
    site.archive.rename(site.folder / "away")
    job = site.submit(daemon, FILE)
    waiting = daemon.await_retry(job)
    assert "is it mounted?" in waiting["waiting_on"]["reason"]
    assert waiting["status"] == "SUBMITTED"
    assert daemon.cancel(job).status == 202
    daemon.await_status(job, "CANCELLED")
    assert daemon.cancel(job).status == 200
    assert site.rows("SELECT * FROM work") == []


def test_archive_that_is_away(site: Site) -> None:
    """What was submitted meanwhile is delivered when it is back."""
    daemon = site.hub()
    daemon.start()
    site.archive.rename(site.folder / "away")
    job = site.submit(daemon, TREE)
    daemon.await_retry(job)
    (site.folder / "away").rename(site.archive)
    site.check_success(daemon.await_final([job]))


def test_product_that_changes_while_it_is_copied(site: Site) -> None:
    """It is copied again; what is delivered is what it is now."""
    daemon = site.hub()
    daemon.start(SLOW_COPY)
    job = site.submit(daemon, BIG)
    until(site.leftovers, "a copy under way")
    with (site.archive / BIG).open("r+b") as product:
        product.seek(8 * MIB)
        product.write(b"changed")
    waiting = daemon.await_retry(job)
    assert "changed while it was copied" in waiting["waiting_on"]["reason"]
    site.check_nothing_partial()
    site.check_success(daemon.await_final([job]))
    site.check_settled()


def test_product_that_vanishes_after_staging(site: Site) -> None:
    """The transfer ends in an error that names it, and its slot goes to the next."""
    daemon = site.hub()
    daemon.start(SLOW_COPY)
    others = [site.submit(daemon, BIG) for _ in range(SLOTS)]
    until(lambda: len(site.leftovers()) == SLOTS, "copies in all slots")
    job = site.submit(daemon, FILE)
    until(lambda: "time_staging_finished" in daemon.status(job), "a product that is staged")
    (site.archive / FILE).unlink()
    shown = daemon.await_status(job, "ERROR")
    assert FILE in shown["detailed_status"]
    assert "time_error" in shown
    assert not site.delivered(shown).exists()
    site.check_success(daemon.await_final(others))
    site.check_settled()


def test_product_that_is_not_there(site: Site) -> None:
    """An error, at once, that names it."""
    daemon = site.hub()
    daemon.start()
    shown = daemon.await_status(site.submit(daemon, "nothing/here"), "ERROR")
    assert "'nothing/here'" in shown["detailed_status"]


def test_destination_that_exists(site: Site) -> None:
    """It is kept; with overwrite a file is replaced."""
    daemon = site.hub()
    daemon.start()
    place = site.destination()
    folder = site.deliveries / "000"
    folder.mkdir()
    (folder / FILE).write_text("precious")
    shown = daemon.await_status(daemon.submit(FILE, place), "ERROR")
    assert "exists already (give overwrite=true" in shown["detailed_status"]
    assert (folder / FILE).read_text() == "precious"
    site.check_success(daemon.await_final([daemon.submit(FILE, place, overwrite="true")]))


def test_disk_at_its_reserve(site: Site) -> None:
    """New work is refused with 507 and when to ask again; the hub lives, and says that it is not ready."""
    daemon = site.hub(sections={"hub": {"min_free": "1000 TB"}})
    daemon.spawn()
    daemon.await_answer("/health")
    fields = {"product_id": FILE, "destination_path": site.destination()}
    answer = until(lambda: (seen := daemon.post(fields)).status == 507 and seen, "a refusal")
    assert (answer.json["job_id"], answer.json["error"]) == (None, True)
    assert "min_free" in answer.json["msg"]
    assert int(answer.headers["Retry-After"]) > 0
    ready = daemon.call("GET", "/ready")
    assert (ready.status, list(ready.json["reasons"])) == (503, ["disk"])
