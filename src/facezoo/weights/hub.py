"""The Hugging Face Hub: downloads into its cache, uploads, and errors that say what to do.

Cache, offline mode, mirrors and tokens are those of huggingface_hub: set ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``,
``HF_ENDPOINT`` and ``HF_TOKEN`` as documented there. The client is imported on the first call.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from facezoo._version import __version__
from facezoo.weights.errors import CheckpointError

SAFE_SUFFIXES = (".safetensors", ".json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(CheckpointError):
    """A download or upload failed. The message names repository and file and says what to do."""


def download(repository: str, file: str, *, revision: str | None = None) -> Path:
    """Download one file into the cache of huggingface_hub, or find it there.

    Args:
        repository: ``owner/name``.
        file: path in the repository, of a safetensors or JSON file.
        revision: commit, tag or branch; None for the main branch.

    Returns:
        The file in the cache.

    Raises:
        HubError: a forbidden file type; an unknown repository, revision or file; no access; no network; or offline and not
            cached.
    """
    if not file.endswith(SAFE_SUFFIXES):
        raise HubError(f"{repository}: {file} is refused: only {' and '.join(SAFE_SUFFIXES)} files are downloaded")
    from huggingface_hub import hf_hub_download

    with _explained(repository, file, revision):
        return Path(
            hf_hub_download(repository, file, revision=revision, library_name="facezoo", library_version=__version__)
        )


def download_folder(repository: str, pattern: str, *, revision: str | None = None) -> Path:
    """Download those files of a data set that fit a pattern into the cache of huggingface_hub, or find them there.

    Args:
        repository: ``owner/name`` of a data set.
        pattern: as in a shell: ``"*.parquet"``, in folders too.
        revision: commit, tag or branch; None for the main branch.

    Returns:
        The folder of that commit, which is called by its hash.

    Raises:
        HubError: as :func:`download` does.
    """
    from huggingface_hub import snapshot_download

    with _explained(repository, pattern, revision):
        return Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=pattern, library_name="facezoo",
                library_version=__version__,
            )
        )  # fmt: skip


def look_up(repository: str, file: str, *, revision: str | None = None) -> tuple[str, str | None]:
    """Ask the Hub about a file before downloading it.

    Args:
        repository: ``owner/name``.
        file: path in the repository.
        revision: commit, tag or branch; None for the main branch.

    Returns:
        The commit, and the SHA-256 of the file; None for a small file, for which the Hub has no SHA-256.

    Raises:
        HubError: see :func:`download`; always if ``HF_HUB_OFFLINE`` is set.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _explained(repository, file, revision):
        found = get_hf_file_metadata(
            hf_hub_url(repository, file, revision=revision), library_name="facezoo", library_version=__version__
        )
    if not found.commit_hash:
        raise HubError(
            f"the server of {repository} does not say which commit {file} is of; it is not a Hub, or a broken mirror"
        )
    promised = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
    return found.commit_hash, promised


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def _explained(repository: str, file: str, revision: str | None) -> Iterator[None]:
    """Convert errors of huggingface_hub to a :class:`HubError` that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{repository}{f'@{revision}' if revision else ''}"
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{where} is gated: ask for access on its page ({constants.ENDPOINT}/{repository}), then {_LOG_IN}"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {repository} at {constants.ENDPOINT}, or it is private: check the name; "
            f"if it is yours, {_LOG_IN}"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repository} has no revision {revision!r}: name a branch, a tag or a commit of it") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if constants.HF_HUB_OFFLINE:
            raise HubError(
                f"{where}: {file} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to download it. "
                "Run it once without HF_HUB_OFFLINE, or copy the cache of a machine that has it"
            ) from error
        raise HubError(_unreachable(where, file, constants.ENDPOINT, error)) from error
    except EntryNotFoundError as error:
        raise HubError(f"{where} has no {file}{_ADVICE.get(file, '')}") from error
    except (OSError, _client_error()) as error:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise HubError(
                f"{constants.ENDPOINT} gives no access to {where} ({_first_line(error)}): {_LOG_IN}"
            ) from error
        raise HubError(_unreachable(where, file, constants.ENDPOINT, error)) from error


def upload(
    repository: str, files: Mapping[str, Path], *, message: str, private: bool = False, token: str | None = None
) -> str:
    """Commit ``files`` to a repository in one step. The repository is created if it does not exist.

    Args:
        repository: ``owner/name``.
        files: local files by their path in the repository.
        message: commit message.
        private: whether a new repository is private.
        token: access token; None for huggingface_hub's stored token.

    Returns:
        The commit's hash.

    Raises:
        HubError: offline, not logged in, no write permission, no network, or the Hub refused the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{repository}: HF_HUB_OFFLINE forbids to upload; unset it")
    api = HfApi(token=token, library_name="facezoo", library_version=__version__)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.create_commit(repository, operations, commit_message=message).oid)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"not allowed to write to {repository} at {constants.ENDPOINT}: {_LOG_IN}, with a token that may write there "
                f"({_first_line(error)})"
            ) from error
        raise HubError(f"{constants.ENDPOINT} refused the upload to {repository}: {_first_line(error)}") from error
    except ValueError as error:  # the card's metadata, or the name of the repository
        raise HubError(f"the upload to {repository} was refused: {' '.join(str(error).split())}") from error
    except (OSError, RuntimeError, _client_error()) as error:
        raise HubError(
            f"could not upload to {repository}: {constants.ENDPOINT} cannot be reached or broke off ({_first_line(error)}). Check "
            "network, proxy and HF_ENDPOINT, and push again: the repository is unchanged"
        ) from error


# Messages for missing files.
_ADVICE = {
    "config.json": ", so it was not written by facezoo: register a WeightsRecord for it (facezoo.weights.register_weights), "
    "or load its file with facezoo.load_checkpoint",
    "model.safetensors": ". facezoo reads safetensors only, never pickles: ask its owner to push again with "
    "facezoo.weights.push_to_hub",
}


def _unreachable(where: str, file: str, endpoint: str, error: BaseException) -> str:
    reason = _first_line(error.__cause__ or error)
    return (
        f"could not download {file} of {where}: {endpoint} cannot be reached or broke off ({reason}), and the cache does not "
        "have it. Check network, proxy and HF_ENDPOINT; without a network, copy the repository's folder and use 'local-dir:path'"
    )


def _client_error() -> type[Exception]:
    """Base class of the errors of huggingface_hub's HTTP client: requests, httpx or httpx2, depending on the version."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n", 1)[0]
