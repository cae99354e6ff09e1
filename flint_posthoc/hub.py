"""Artefacts on the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from .artifact import CLASSIFIER_NAME, JSON_NAME, TENSORS_NAME, SavedExplainer, save
from .errors import NotAnArtifactError


def upload(saved: SavedExplainer, repo_id: str, private: bool, token: str | None) -> str:
    """Bring the artefact to the hub and return its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return str(api.upload_folder(repo_id=repo_id, folder_path=save(folder, saved)))


def local_folder(folder: str | Path) -> Path:
    """``folder``, or where a repository of that name has been brought from the hub. Raises ``NotAnArtifactError``."""
    path = Path(folder)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder)):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[JSON_NAME, TENSORS_NAME, CLASSIFIER_NAME]))
    except (OSError, ValueError) as error:  # what the hub raises: no connection, no such repository
        raise NotAnArtifactError(f"{folder} is no folder here, and no repository to be had from the Hugging Face hub: {error}") from error
