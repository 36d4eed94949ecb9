"""Files of others are read without waiting for ever; files of ours are written whole or not at all."""

import inspect
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kickstand_cli.files import expect_writable, list_files, open_file, read_file, replacing, write_file
from kickstand_cli.terminal import CommandError


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its name may not be longer than 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "a named pipe, not a file"),
    "a socket": (make_socket, "a socket, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
    "a folder": (Path.mkdir, "Is a directory"),
    "a dangling link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "a link to itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize(("make", "why"), MADE.values(), ids=MADE)
def test_what_is_no_file_is_refused_at_once(
    make: Callable[[Path], object], why: str, tmp_path: Path, socket_enabled: None
) -> None:
    make(path := tmp_path / "x.png")
    with pytest.raises(OSError, match=why):
        read_file(path)


def test_a_device_without_an_end_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a device, not a file"):
        open_file(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        open_file(tmp_path)


def test_a_pipe_that_the_user_has_named_is_used_but_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with open_file(pipe) as file:
        assert file.read() == b""
    with pytest.raises(CommandError, match="pipe: cannot be written"):
        write_file(pipe, "x")
    with open_file(pipe) as file:
        write_file(pipe, "through it")
        assert file.read() == b"through it"


def test_of_a_large_file_one_byte_too_many_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234567")
    assert (read_file(tmp_path / "x", 3), read_file(tmp_path / "x", 7)) == (b"1234", b"1234567")


def test_a_folder_is_listed_once_with_its_links_and_whatever_lies_in_it(tmp_path: Path) -> None:
    for name in ("b/2", "a", "b/.hidden", ".git/config", "c.png/3"):
        write_file(tmp_path / name, "")
    (tmp_path / "again").symlink_to(tmp_path / "b")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to("nowhere")
    unread: list[str] = []
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path, unread)]
    assert (found, unread) == (["a", "again/2", "c.png", "gone"], [])


def test_folders_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    home = tmp_path
    for _ in range(200):
        (home := home / "a").mkdir()
    (home / "photo").touch()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert list_files(tmp_path, []) == [home / "photo"]
    finally:
        sys.setrecursionlimit(before)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    unread: list[str] = []
    assert list_files(tmp_path / "gone", unread) == []
    assert unread == [f"{tmp_path / 'gone'}: No such file or directory"]


# ---- writing


def test_a_write_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    write_file(path := tmp_path / "new/report.html", "older")
    full = r"report.html: cannot be written \(No space left on device\)"
    with pytest.raises(CommandError, match=full), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("report.html", "older")]


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    write_file(tmp_path / "real", "older")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", "newer \udc80")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text("utf-8") == r"newer \udc80"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_a_new_file_has_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_file(tmp_path / "new", "")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    expect_writable(Path(os.devnull))
    write_file(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()


def test_what_is_read_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("kept")
    (tmp_path / "link").symlink_to("records.jsonl")
    for name in ("records.jsonl", "link"):
        with pytest.raises(CommandError, match=f"{name}: it is an input, so it cannot be the output"):
            expect_writable(tmp_path / name, inputs=[tmp_path / "missing", tmp_path / "records.jsonl"])
    expect_writable(tmp_path / "page.html", inputs=[tmp_path / "records.jsonl"])


@pytest.mark.parametrize("name", ["file/x.json", "nowhere/x.json", "folder"])
def test_what_cannot_be_written_is_said_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(CommandError, match=f"{name}: cannot be written"):
        expect_writable(tmp_path / name)
    expect_writable(tmp_path / "new/folder/x.json", new_folder=True)
    with pytest.raises(CommandError, match="file: cannot be written"):
        expect_writable(tmp_path / "file/new/x.json", new_folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_write_protected_file_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text("old")
    file.chmod(0o444)
    protected = r"model\.json: cannot be written \(write-protected\)"
    with pytest.raises(CommandError, match=protected):
        expect_writable(file)
    with pytest.raises(CommandError, match=protected):
        write_file(file, "new")
    assert file.read_text() == "old"
