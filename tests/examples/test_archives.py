"""The archives are what was measured on, and their makers make them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import language_text
import numpy as np
import pytest
import speech_features
from speech_features import Utterance, all_utterances, log_mel

SHA256 = {
    "spoken_digits.npz": "81a2890bfb269e6e5e094ba5a0ea2e3fd729c9ab2326030b46ebb409862dee7c",
    "python_reference.txt": "7c86e6ed71d72478521b3c831e04a78abeffcb5cadf19af7ccabba3ce378cc97",
    "LICENSE-python.txt": "3b2f81fe21d181c499c59a256c8e1968455d6689d269aa85373bfb6af41da3bf",
}


@pytest.mark.parametrize("name", SHA256)
def test_an_archive_is_unchanged(name: str) -> None:
    content = (speech_features.ARCHIVE.parent / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[name]


def test_the_text_is_found_again_in_the_python_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info[:3] != (3, 11, 7):
        pytest.skip("the text is from Python 3.11.7")
    expected = language_text.ARCHIVE.read_bytes()
    monkeypatch.setattr(language_text, "ARCHIVE", tmp_path / "text.txt")
    language_text.main()
    assert language_text.ARCHIVE.read_bytes() == expected


def test_espeak_says_what_is_in_the_archive() -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    version = subprocess.run(
        ["espeak-ng", "--version"], capture_output=True, text=True, check=True
    )
    if "1.51" not in version.stdout:
        pytest.skip("the archive was made with espeak-ng 1.51")
    utterances = all_utterances()
    with np.load(speech_features.ARCHIVE) as archive:
        ends = np.cumsum(archive["n_frames"].astype(int))
        features = archive["features"].astype(float)
        digits, speakers = archive["digit"], archive["speaker"]
    for number in (0, 500, 1799):
        one = utterances[number]
        assert one == Utterance(int(speakers[number]), int(digits[number]), number % 3)
        start = ends[number - 1] if number else 0
        np.testing.assert_allclose(one.features(), features[start : ends[number]], atol=0.02)


def test_a_tone_is_loudest_in_the_band_it_lies_in() -> None:
    rate = 22050
    seconds = np.arange(rate) / rate
    loudest = [
        int(log_mel(np.sin(2 * np.pi * hertz * seconds), rate).mean(0).argmax())
        for hertz in (100, 500, 1000, 2000, 4000, 7500)
    ]
    assert loudest == sorted(set(loudest))
    assert loudest[-1] == speech_features.N_BANDS - 1
