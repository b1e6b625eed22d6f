"""Sound files straight out of an archive, which is never unpacked to disk, and archives from the network."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from uuid import uuid4

from core import pulse
from core.cli import say
from core.errors import UserError, reason_of

MAX_FILE = 50_000_000  # bytes of one sound in an archive
MAX_TOTAL = 2_000_000_000  # bytes of all that an archive says it holds, whether read or passed over
MAX_DOWNLOAD = 500_000_000
TIMEOUT = 20  # seconds without a byte
CHUNK = 1 << 16


def wav_members(archive: Path, folder: str) -> dict[str, bytes]:
    """The WAV files of all folders of this name in a .tar.gz or .zip archive: names and contents, sorted.

    UserError if it is missing, damaged, no archive, or made to harm: with absolute paths or `..`, links in place of
    files, or sizes beyond all recordings.
    """
    if not archive.is_file():
        raise UserError(f"{archive} is not a file")
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        return dict(sorted(members(archive, folder)))
    except (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, RuntimeError) as error:
        reason = reason_of(error)
        raise UserError(f"{archive} is not a readable .tar.gz or .zip archive: {reason}") from error
    except (ValueError, NotImplementedError, OverflowError, IndexError) as error:  # headers that make no sense
        raise UserError(f"{archive} is a damaged archive: {' '.join(str(error).split())}") from error
    except Exception as error:  # zlib.error and lzma.LZMAError share no base with the others
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        raise UserError(f"{archive} is a damaged archive: {error}") from error


def _tar_members(archive: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            total += max(member.size, 0)
            if _wanted(archive, member.name, folder, member.isdir(), member.isreg(), member.size, total):
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                yield member.name, _complete(content.read(MAX_FILE), member.size)
        while rest := stream.read(CHUNK):  # tarfile takes a damaged header for the end; gzip checks its sum at the end
            total += len(rest)
            if total > MAX_TOTAL or rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on where it should end")


def _zip_members(archive: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            total += member.file_size
            mode = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was made without one
            regular = mode in (0, stat.S_IFREG)
            if _wanted(archive, member.filename, folder, member.is_dir(), regular, member.file_size, total):
                with file.open(member) as content:
                    yield member.filename, _complete(content.read(MAX_FILE), member.file_size)


def _complete(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise EOFError(f"{len(content):,} of {size:,} bytes of a file")
    return content


def _wanted(archive: Path, name: str, folder: str, is_folder: bool, is_regular: bool, size: int, total: int) -> bool:
    """Whether a member is one of the WAV files. UserError if it was made to harm."""
    if total > MAX_TOTAL:
        raise UserError(f"{archive} claims to hold more than {MAX_TOTAL:,} bytes")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise UserError(f"{archive} is refused: its member {name!r} points out of the archive")
    if is_folder or path.suffix.lower() != ".wav" or folder not in path.parts[:-1]:
        return False
    if not is_regular:
        raise UserError(f"{archive} is refused: its member {name!r} is a link or a device in place of a file")
    if size > MAX_FILE:
        raise UserError(f"{archive} is refused: its member {name!r} claims {size:,} bytes, {MAX_FILE:,} are allowed")
    return True


def download(url: str, to: Path, instead: str) -> None:
    """Fetches a file, which appears under its name only when it is complete.

    UserError, which ends in what to do `instead`, if it cannot be had.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    scratch = to.parent / f".{to.name}-{uuid4().hex}"
    say(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, scratch.open("wb") as out:
            expected = int(answer.headers.get("Content-Length") or 0)
            done, spoke = 0, time.monotonic()
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                if done > MAX_DOWNLOAD:
                    raise OSError(f"more than {MAX_DOWNLOAD:,} bytes")
                if time.monotonic() - spoke > pulse.PULSE_SECONDS:
                    spoke = time.monotonic()
                    say(f"downloaded {done / 1e6:.1f} MB" + (f" of {expected / 1e6:.1f}" if expected else ""))
        if done < expected:
            raise OSError(f"the connection ended after {done:,} of {expected:,} bytes")
        scratch.replace(to)
    except (OSError, http.client.HTTPException, ValueError) as error:  # urllib's own errors are OSErrors
        reason = reason_of(getattr(error, "reason", None) or error)
        raise UserError(f"{url} cannot be downloaded ({reason}): {instead}") from error
    finally:
        scratch.unlink(missing_ok=True)


def check_sha256(file: Path, sha256: str | None) -> None:
    """UserError unless the file has this checksum (64 hexadecimal digits); None checks nothing."""
    if sha256 is None:
        return
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256.lower():
        raise UserError(f"{file} has the SHA-256 checksum {found}, not data.sha256={sha256}")
